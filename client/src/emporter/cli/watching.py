"""A job before one's eyes: two bars that move, until it ends."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from emporter.cli import showing
from emporter.cli.pace import pace_said

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from emporter.aio import AsyncClient
    from emporter_contracts.events import Progress
    from emporter_contracts.jobs import JobStatus

COMPLETE, FAILED, INTERRUPTED = 0, 1, 130
"""Exit status of a watched job by how it ended; 130 is also what Ctrl-C gives."""


async def watch_job(client: AsyncClient, job: str, *, json: bool) -> int:
    """Show a job until it ends; the exit status that says how. Interrupted it says how to look again."""
    import asyncio

    try:
        return await follow_job(client, job, json=json)
    except (asyncio.CancelledError, KeyboardInterrupt):
        print(f"\n{job} goes on; look again with: emporter watch {job}", file=sys.stderr)
        raise


async def follow_job(client: AsyncClient, job: str, *, json: bool) -> int:
    """Show a job until it ends; the exit status that says how."""
    last = await (_print_lines(client, job) if json else _show(client, job))
    if not json:
        await _say_end(client, last)
    return {"complete": COMPLETE, "cancelled": INTERRUPTED}.get(str(last.state), FAILED)


async def _print_lines(client: AsyncClient, job: str) -> JobStatus:
    from emporter_contracts.jobs import JobStatus

    last: JobStatus | None = None
    async for state in client.watch(job):
        if isinstance(state, JobStatus):
            last = state
            showing.print_json_line(state)
    assert last is not None
    return last


async def _show(client: AsyncClient, job: str) -> JobStatus:
    return await (_show_bars(client, job) if sys.stderr.isatty() else _show_moves(client, job))


async def _show_moves(client: AsyncClient, job: str) -> JobStatus:
    """Where there is no terminal: a line for each change of state and each tenth of the work."""
    from emporter_contracts.jobs import JobStatus

    last: JobStatus | None = None
    said: tuple[object, ...] = ()
    async for state in client.watch(job):
        if not isinstance(state, JobStatus):
            continue
        last = state
        now = (state.state, _tenths(state.fetch.done, state.fetch.total), _tenths(state.convert.done, state.convert.total))
        if now != said:
            said = now
            print(f"{job}: {_line(state)}", file=sys.stderr, flush=True)
    assert last is not None
    return last


def _tenths(done: int, total: int) -> int:
    return 10 * done // total if total else 0


def _line(state: JobStatus) -> str:
    parts = [str(state.state)]
    for name, stage in (("fetched", state.fetch), ("converted", state.convert)):
        if stage.total:
            parts += [f"{name} {showing.share(stage.done, stage.total)}", pace_said(stage)]
    return ", ".join(part for part in parts if part)


async def _show_bars(client: AsyncClient, job: str) -> JobStatus:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from emporter_contracts.jobs import JobStatus

    columns = (
        TextColumn("{task.description:<8}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[amount]}", markup=False),
        TimeElapsedColumn(),
    )
    last: JobStatus | None = None
    with Progress(*columns, console=showing.console(stderr=True), transient=False) as bars:
        shown = _Bars(bars, job)
        async for state in client.watch(job):
            if isinstance(state, JobStatus):
                last = state
                shown.state(state)
            else:
                shown.progress(state)
    assert last is not None
    return last


class _Bars:
    """The bars of one job: bytes fetched, tasks converted."""

    def __init__(self, bars: Bars, job: str) -> None:
        self._bars = bars
        self._job = bars.add_task(job, total=None, amount="")
        self._fetch = bars.add_task("fetch", total=None, amount="", visible=False)
        self._convert = bars.add_task("convert", total=None, amount="", visible=False)
        self._pace = ""
        self._stored = 0
        self._total = 0
        self._parts: dict[str, int] = {}

    def state(self, state: JobStatus) -> None:
        """What is known for sure."""
        waiting = f", waiting: {state.waiting.reason}" if state.waiting and state.state.running else ""
        self._bars.update(self._job, amount=f"{state.state}{waiting}")
        if not state.state.running:
            self._bars.update(self._job, total=1, completed=1)
        fetch, convert = state.fetch, state.convert
        self._stored, self._total, self._parts, self._pace = fetch.bytes_done, fetch.bytes_total, {}, pace_said(fetch)
        self._show_fetch(visible=fetch.total > 0)
        pace = pace_said(convert)
        self._bars.update(
            self._convert,
            total=convert.total or None,
            completed=convert.done,
            amount=", ".join(part for part in (f"{convert.done} of {convert.total} tasks", _level(state), pace) if part),
            visible=convert.total > 0,
        )

    def progress(self, progress: Progress) -> None:
        """What a worker says in between, which may be lost."""
        if progress.stage == "fetch":
            self._parts[progress.unit] = progress.bytes_done
            self._show_fetch(visible=self._total > 0)

    def _show_fetch(self, *, visible: bool) -> None:
        done = min(self._total, self._stored + sum(self._parts.values()))
        amount = f"{showing.size(done)} of {showing.size(self._total)}" + (f", {self._pace}" if self._pace else "")
        self._bars.update(self._fetch, total=self._total or None, completed=done, amount=amount, visible=visible)


def _level(state: JobStatus) -> str:
    """The lowest level that is not complete, of the first volume that has one."""
    for volume in state.volumes:
        for level, held in enumerate(volume.levels):
            if held.done < held.total:
                return f"level {level}"
    return ""


async def _say_end(client: AsyncClient, job: JobStatus) -> None:
    if job.state == "failed":
        print(f"emporter: {showing.failure(job)}", file=sys.stderr)
    elif job.state == "cancelled":
        print(f"{job.job} cancelled; go on with: emporter retry {job.job}", file=sys.stderr)
    else:
        for volume in await client.volumes_of(job.job):
            print(volume)
