"""Real files of many formats, with what independent readers saw in them. They lie beside the repository on some machines only."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

_NAMED = os.environ.get("EMPORTER_SAMPLES")
ROOT = Path(_NAMED) if _NAMED else Path(__file__).with_name("samples")
"""The folder EMPORTER_SAMPLES names; where none is named, one that is not there."""
_MANIFEST = ROOT / "MANIFEST.json"
SAMPLES: list[dict[str, Any]] = json.loads(_MANIFEST.read_text())["samples"] if _MANIFEST.is_file() else []
"""The manifest's entries; none where there are no samples."""
wants_samples = pytest.mark.skipif(not SAMPLES, reason="EMPORTER_SAMPLES names no folder of sample files")


def samples_of(*formats: str) -> dict[str, dict[str, Any]]:
    """Entries of these formats, or of all, by path."""
    return {sample["path"]: sample for sample in SAMPLES if not formats or sample["format"] in formats}
