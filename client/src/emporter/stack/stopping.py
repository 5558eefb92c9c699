"""Taking a stack down from outside: ask its supervisor, and end by force what does not go."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

from emporter.errors import StackError, StackIsUpError
from emporter.stack.files import StackFiles, write_model
from emporter.stack.identity import end_all
from emporter.stack.supervisor import clean_up

STOP_SECONDS = 90.0
"""Longer than the longest grace of services and servers together, unless the user has set a longer one."""


def take_down(files: StackFiles, seconds: float = STOP_SECONDS) -> bool:
    """Stop the stack of a folder and wait until it is down; whether there was anything to stop. Raises StackError."""
    info = files.info()
    if info is None:
        return False
    if not info.live:
        return bool(_tidied(files))
    assert info.supervisor is not None
    with suppress(ProcessLookupError):
        os.kill(info.supervisor.pid, signal.SIGTERM)
    deadline = time.monotonic() + seconds
    while info.supervisor.alive() or files.is_locked():
        if time.monotonic() > deadline:
            end_all([info.supervisor])
            _tidied(files)
            raise StackError(f"the stack in {files.root} did not stop in {seconds:.0f} s and was killed", hint="nothing is lost")
        time.sleep(0.05)
    return True


def _tidied(files: StackFiles) -> list[int]:
    """End what a dead supervisor left, and say in `stack.json` that nothing runs."""
    try:
        with files.locked():
            killed = clean_up(files)
            info = files.info()
            if info is not None:
                write_model(files.stack, info.model_copy(update={"supervisor": None, "processes": {}, "ready": False}))
            return killed
    except StackIsUpError:
        return []
