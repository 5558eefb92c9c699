"""What a converter reads from the environment besides what every service does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from emporter_runtime.settings import Settings


class ConverterSettings(Settings):
    """EMPORTER_CONVERTER_… and what it shares with the fetcher."""

    converter_memory_bytes: Annotated[int, Field(ge=256 * 2**20)] = 2**30
    """Resident memory of one converter process, all of it: interpreter, libraries and the voxels in flight."""
    converter_tasks: Annotated[int, Field(ge=1, le=64)] = 1
    """Tasks at once in one process. One keeps two cores busy; more share the memory between them."""
    file_roots: dict[str, Path] = {}
    """Folders of this machine that messages may name, by name: {"scope1": "/data/scope1"}."""
    quality_policy: Path | None = None
    """YAML file of the quality gates' thresholds (deploy/quality-policy.yaml shows it); without one the built-in ones count."""
