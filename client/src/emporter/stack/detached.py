"""A supervisor without a terminal: started by `emporter up --detach` and by tests, it tells through a pipe how the start went."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from emporter.errors import ClientError, StackError, StackIsUpError
from emporter.stack.files import StackFiles
from emporter.stack.plan import StackOptions
from emporter.stack.supervisor import Report, StackEvent, supervise


def start_detached(options: StackOptions, report: Report, lifeline: int | None = None) -> subprocess.Popen[bytes]:
    """Start a supervisor in a session of its own; returns when everything is ready.

    `lifeline` is the read end of a pipe: the stack goes down when its far end is closed.
    Raises StackIsUpError, and StackError with the reason where the stack can't start.
    """
    files = StackFiles.at(options.data)
    files.make()
    reading, writing = os.pipe()
    try:
        process = _spawn(files, options, writing, lifeline)
    finally:
        os.close(writing)
    try:
        if _is_up(reading, report):
            return process
    except BaseException:
        # Whoever was waiting no longer wants it, or it said why it can't start and is ending.
        process.terminate()
        process.wait()
        raise
    process.wait()
    raise StackError("the supervisor ended before the stack was up", hint=f"see {files.log('supervisor')}")


def _spawn(files: StackFiles, options: StackOptions, report: int, lifeline: int | None) -> subprocess.Popen[bytes]:
    asked = {
        "data": str(files.root),
        "store": options.store,
        "file_roots": {name: str(path) for name, path in options.file_roots.items()},
        "environment": dict(options.environment),
        "report": report,
        "lifeline": lifeline,
    }
    with files.log("supervisor").open("ab") as log:
        return subprocess.Popen(  # noqa: S603  # our own interpreter and module
            [sys.executable, "-P", "-m", "emporter.stack", json.dumps(asked)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=files.root,
            start_new_session=True,
            pass_fds=[report] if lifeline is None else [report, lifeline],
        )


def _is_up(reading: int, report: Report) -> bool:
    """Pass on what the supervisor tells until it is up; whether it came to that."""
    with os.fdopen(reading) as lines:
        for line in lines:
            told = json.loads(line)
            if "error" in told:
                raise _error(told)
            report(StackEvent(**told))
            if told["kind"] == "up":
                return True
    return False


def _error(told: dict[str, Any]) -> ClientError:
    kind = StackIsUpError if told["code"] == StackIsUpError.code else StackError
    return kind(told["error"], hint=told["hint"])


def main(argument: str) -> int:
    """The other side: run the stack that `argument` describes, and say on its pipe how it goes."""
    asked = json.loads(argument)
    options = StackOptions(
        data=Path(asked["data"]),
        store=asked["store"],
        file_roots={name: Path(path) for name, path in asked["file_roots"].items()},
        environment=asked["environment"],
    )
    tell = _teller(asked["report"])
    try:
        supervise(options, lambda event: tell(asdict(event)), asked["lifeline"])
    except ClientError as error:
        sys.stderr.write(f"{error}\n")
        tell({"error": error.message, "hint": error.hint, "code": error.code})
        return 1
    return 0


def _teller(pipe: int) -> Callable[[dict[str, Any]], None]:
    def tell(what: dict[str, Any]) -> None:
        # Whoever started us listens only until the stack is up.
        with suppress(OSError):
            os.write(pipe, json.dumps(what).encode() + b"\n")

    os.set_inheritable(pipe, False)
    return tell
