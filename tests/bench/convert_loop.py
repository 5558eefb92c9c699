"""What a process of the conversion bench does: imports once, then one conversion per line it is told, and says what each took."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

CHUNK = 64
SHARD = 128
"""Of every contender, along each axis; codec zstd 1 where a contender can be told."""
Convert = Callable[[str, Path, Path, int], None]
"""(kind of input, input, folder of the output, levels): levels 0, 1, … are folders of the output."""


def serve(convert: Convert) -> None:
    """Answer lines of JSON on stdin until it ends. Everything a library prints goes to stderr."""
    answers, sys.stdout = sys.stdout, sys.stderr
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        told = json.loads(line)
        answer = _measured(convert, told["kind"], Path(told["source"]), Path(told["out"]), told["levels"])
        print(json.dumps(answer), file=answers, flush=True)


def _measured(convert: Convert, kind: str, source: Path, out: Path, levels: int) -> dict[str, object]:
    read = _read_bytes()
    began, worked = time.perf_counter(), time.process_time()
    try:
        convert(kind, source, out, levels)
    except Exception as error:  # whatever it is, the table says so and the others go on
        return {"error": f"{type(error).__name__}: {error}"[:200]}
    # Not ru_maxrss, which begins at what the parent held when it started us.
    status = Path("/proc/self/status").read_text()
    return {
        "seconds": time.perf_counter() - began,
        "cpu": time.process_time() - worked,
        "rss": int(status.split("VmHWM:")[1].split()[0]) * 1024,
        "read": _read_bytes() - read,
    }


def _read_bytes() -> int:
    """Bytes this process asked the system for, from the page cache too."""
    return int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])
