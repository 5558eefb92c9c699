"""How things are printed: JSON for programs, tables and short lines for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from emporter_contracts.jobs import JobStatus

MARKS = {"complete": "green", "failed": "red", "cancelled": "yellow", "removed": "yellow"}
"""Colours of states; running ones are plain."""


def print_json(value: Any) -> None:
    """One JSON document on standard output; pydantic values as they go over the wire."""
    print(json.dumps(plain(value), indent=2, ensure_ascii=False))


def print_json_line(value: Any) -> None:
    """One JSON value on one line, at once: for streams."""
    print(json.dumps(plain(value), ensure_ascii=False), flush=True)


def plain(value: Any) -> Any:
    """What json knows to write."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def console(*, stderr: bool = False) -> Console:
    """Where people read: colours where it is a terminal, never markup in what comes from outside."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """Columns for a terminal, tabs for a pipe; `empty` (on standard error) where there is no row."""
    listed = [[str(cell) for cell in row] for row in rows]
    if not listed:
        print(empty, file=sys.stderr)
        return
    if not sys.stdout.isatty():
        for row in [list(headings), *listed]:
            print("\t".join(row))
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in listed:
        table.add_row(*(Text(cell, style=MARKS.get(cell, "")) for cell in row))
    console().print(table)


def size(count: int | str | None) -> str:
    """Bytes for people, such as 1.5 GB."""
    if count is None:
        return "?"
    left = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if left < 1000:
            return f"{left:.0f} {unit}" if unit == "B" or left >= 100 else f"{left:.1f} {unit}"
        left /= 1000
    return f"{left:.1f} PB"


def voxels(shape: Sequence[int] | None) -> str:
    """`z,y,x` as it is typed on the command line."""
    return ",".join(map(str, shape)) if shape else "?"


def nanometres(nm: Sequence[float | None] | None) -> str:
    """z,y,x in nm, ? for what is not known."""
    return ",".join("?" if v is None else f"{v:g}" for v in nm or (None, None, None))


def ago(when: datetime | str) -> str:
    """How long ago, in the largest unit that fits."""
    then = datetime.fromisoformat(when) if isinstance(when, str) else when
    seconds = max(0.0, (datetime.now(UTC) - then).total_seconds())
    for length, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def share(done: int, total: int) -> str:
    """In percent; empty where there is nothing to do yet."""
    return f"{100 * done // total} %" if total else ""


def job_row(job: JobStatus) -> tuple[str, ...]:
    """A job in a list."""
    wait = f" (waiting: {job.waiting.reason})" if job.waiting and job.state.running else ""
    fetched = share(job.fetch.bytes_done, job.fetch.bytes_total) or share(job.fetch.done, job.fetch.total)
    convert = share(job.convert.done, job.convert.total)
    error = job.error.code if job.error else ""
    return (job.job, f"{job.state}{wait}", f"r{job.revision}", fetched, convert, ago(job.updated_at), error)


JOB_HEADINGS = ("job", "state", "rev", "fetched", "converted", "changed", "error")


def failure(job: JobStatus) -> str:
    """Why a job failed, in one line: code, message, hint."""
    if job.error is None:
        return f"{job.job} {job.state}"
    return f"{job.job} failed: {job.error.code}: {job.error.message}" + (f"; {job.error.hint}" if job.error.hint else "")


def byte_progress() -> Progress:
    """Bars of bytes, on standard error, gone when done."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
