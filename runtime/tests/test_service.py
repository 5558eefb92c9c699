"""How a service lives."""

from __future__ import annotations

import subprocess
import sys

SERVICE = """
import gc
from emporter_runtime.service import run_service
from emporter_runtime.settings import Settings

async def serve(settings):
    print(gc.get_freeze_count())

raise SystemExit(run_service("tested", Settings, serve))
"""


def test_a_service_is_not_stopped_to_look_for_garbage_in_what_it_imported() -> None:
    ended = subprocess.run([sys.executable, "-c", SERVICE], capture_output=True, text=True, check=True)
    assert int(ended.stdout.splitlines()[0]) > 10_000
