"""Several requests side by side: planned, asked about once, followed in one view, and told in one table at the end."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import typer

from emporter.cli import showing
from emporter.cli.planned import LATER, describe
from emporter.errors import ClientError, RefusedByServiceError

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from emporter.aio import AsyncClient
    from emporter.checksums import Checksums
    from emporter_contracts.commands import Accepted, IngestRequest
    from emporter_contracts.jobs import JobStatus
    from emporter_contracts.previews import PlanSummary

AT_ONCE = 4
"""Requests planned at once: each reads headers of an archive."""
RECORD_SECONDS = 30.0
"""How long a volume may take from its commit into the catalog."""
COMPLETE, FAILED, CANCELLED = 0, 1, 130
HEADINGS = ("source", "id", "state", "volume", "z,y,x", "dtype", "nm", "voxels sha256")
CHECKED = "bytes"


@dataclass(slots=True)
class Row:
    """One request and what became of it."""

    request: IngestRequest
    plan: PlanSummary | None = None
    accepted: Accepted | None = None
    status: JobStatus | None = None
    refused: ClientError | None = None
    records: list[dict[str, Any]] = field(default_factory=list)
    verdict: str = ""
    differs: list[str] = field(default_factory=list)

    @property
    def state(self) -> str:
        if self.refused is not None:
            return "refused"
        if self.status is not None:
            return str(self.status.state)
        return self.accepted.state if self.accepted is not None else "planned"

    def said(self) -> dict[str, Any]:
        """For programs."""
        error = self.refused or (self.status.error if self.status is not None else None)
        return {
            "source": self.request.source,
            "source_id": self.request.source_id,
            "job": self.accepted.job if self.accepted is not None else None,
            "state": self.state,
            "volumes": [_volume_said(record) for record in self.records],
            "error": {"code": error.code, "message": error.message, "hint": error.hint} if error is not None else None,
            CHECKED: self.verdict or None,
            "differences": self.differs,
        }

    def cells(self) -> list[tuple[str, ...]]:
        """For people: a line for each volume, or one that says why there is none."""
        first = (self.request.source, self.request.source_id, self.state)
        if not self.records:
            return [(*first, "", "", "", "", "", self.verdict)]
        return [(*first, *_volume_cells(record), self.verdict) for record in self.records]


async def ingest_side_by_side(
    client: AsyncClient, requests: Sequence[IngestRequest], *, watch: bool, ask: bool, json: bool, checksums: Checksums | None
) -> int:
    """The exit status: 0 all complete with the bytes known, 1 where one failed, was refused or differs, 130 cancelled."""
    rows = [Row(request) for request in requests]
    await _plan(client, rows)
    _check_room(rows)
    if not json:
        _describe(rows)
    if ask:
        typer.confirm(f"Ingest these {len(rows)}?", default=True, abort=True, err=True)
    for row in rows:
        if row.refused is None:
            await _send(client, row)
    if watch:
        await _follow(client, [row for row in rows if row.accepted is not None], json=json)
        await asyncio.gather(*(_read(client, row) for row in rows))
        _check_bytes(rows, checksums)
    _tell(rows, json=json, checked=checksums is not None, watched=watch)
    return _status(rows)


async def plan_side_by_side(client: AsyncClient, requests: Sequence[IngestRequest], *, json: bool) -> int:
    """Only what the ingests would do: 0, or 1 where one of them is refused."""
    rows = [Row(request) for request in requests]
    await _plan(client, rows)
    if json:
        showing.print_json([row.said() | {"plan": showing.plain(row.plan) if row.plan else None} for row in rows])
    else:
        for row in rows:
            if row.plan is not None:
                describe(row.plan)
        _tell_refusals(rows)
    return FAILED if any(row.refused for row in rows) else COMPLETE


async def _plan(client: AsyncClient, rows: Sequence[Row]) -> None:
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(row: Row) -> None:
        async with turns:
            try:
                row.plan = await client.plan(row.request)
            except RefusedByServiceError as error:
                if error.code not in LATER:
                    row.refused = error

    await asyncio.gather(*(one(row) for row in rows))


def _check_room(rows: Sequence[Row]) -> None:
    """Raises RefusedByServiceError where all of them together need more than is free."""
    plans = [row.plan for row in rows if row.plan is not None and (row.plan.existing is None or not row.plan.fits)]
    free = min((plan.free_bytes for plan in plans if plan.free_bytes is not None), default=None)
    need = sum(plan.stored_bytes_estimate for plan in plans)
    if free is not None and need > free:
        raise RefusedByServiceError(
            f"together they need about {showing.size(need)}, there are {showing.size(free)} free",
            code="insufficient_storage",
            hint="free some room, or choose smaller regions",
        )


def _describe(rows: Sequence[Row]) -> None:
    for row in rows:
        if row.plan is not None:
            describe(row.plan, to_stderr=True)
        elif row.refused is None:
            print(f"{row.request.source} {row.request.source_id}: the archive is away now; the job will wait", file=sys.stderr)
    _tell_refusals(rows)


async def _send(client: AsyncClient, row: Row) -> None:
    try:
        row.accepted = await client.ingest(row.request)
    except RefusedByServiceError as error:
        row.refused = error


async def _follow(client: AsyncClient, rows: Sequence[Row], *, json: bool) -> None:
    """Until every job has ended: a bar for each, or a line for each change of state where there is no terminal."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[state]}", markup=False),
        TimeElapsedColumn(),
    )
    shown = sys.stderr.isatty() and not json
    try:
        with Progress(*columns, console=showing.console(stderr=True), disable=not shown) as bars:
            await asyncio.gather(*(_follow_one(client, row, bars, lines=not shown and not json) for row in rows))
    except (asyncio.CancelledError, KeyboardInterrupt):
        print(f"\nthe {len(rows)} jobs go on; look again with: emporter jobs", file=sys.stderr)
        raise


async def _follow_one(client: AsyncClient, row: Row, bars: Bars, *, lines: bool) -> None:
    from emporter_contracts.jobs import JobStatus

    assert row.accepted is not None
    job = row.accepted.job
    bar = bars.add_task(job, total=None, state="")
    async for state in client.watch(job):
        if not isinstance(state, JobStatus):
            continue
        if lines and (row.status is None or row.status.state != state.state):
            print(f"{job}: {state.state}", file=sys.stderr, flush=True)
        row.status = state
        total, done = state.fetch.total + state.convert.total, state.fetch.done + state.convert.done
        waiting = f", waiting: {state.waiting.reason}" if state.waiting and state.state.running else ""
        bars.update(bar, total=total or None, completed=done, state=f"{state.state}{waiting}")


async def _read(client: AsyncClient, row: Row) -> None:
    """The records of what a job has committed, once the catalog has them."""
    if row.status is None or row.status.state != "complete":
        return
    row.records = [await _record(client, volume) for volume in await client.volumes_of(row.status.job)]


async def _record(client: AsyncClient, volume: str) -> dict[str, Any]:
    from emporter.checksums import of_voxels

    deadline = asyncio.get_running_loop().time() + RECORD_SECONDS
    while True:
        try:
            record = await client.record(volume)
        except RefusedByServiceError as error:
            if error.code != "not_found" or asyncio.get_running_loop().time() > deadline:
                raise
        else:
            if of_voxels(record["metadata"]["technical"]) or asyncio.get_running_loop().time() > deadline:
                return record
        await asyncio.sleep(0.1)


def _check_bytes(rows: Sequence[Row], checksums: Checksums | None) -> None:
    if checksums is None:
        return
    from emporter.checksums import Sums

    for row in rows:
        if not row.records or row.status is None:
            continue
        known = checksums.knows(row.request)
        row.differs = checksums.compare(row.request, Sums.of(row.request, row.status.job, row.records))
        row.verdict = "differs" if row.differs else "same bytes" if known else "recorded"
    checksums.save()


def _tell(rows: Sequence[Row], *, json: bool, checked: bool, watched: bool) -> None:
    if json:
        showing.print_json([row.said() for row in rows])
        return
    if not watched:
        _tell_jobs(rows)
        return
    headings = (*HEADINGS, CHECKED) if checked else HEADINGS
    width = len(headings)
    showing.print_table(headings, [cells[:width] for row in rows for cells in row.cells()], "")
    for row in rows:
        if row.status is not None and row.status.state == "failed":
            print(f"emporter: {showing.failure(row.status)}", file=sys.stderr)
        for difference in row.differs:
            print(f"emporter: {row.request.source} {row.request.source_id}: {difference}", file=sys.stderr)
    _tell_refusals(rows)


def _tell_jobs(rows: Sequence[Row]) -> None:
    for row in rows:
        if row.accepted is not None:
            again = f" ({row.accepted.state} before; --force makes a new revision)" if row.accepted.existing else ""
            print(f"{row.accepted.job} r{row.accepted.revision}{again}")
    _tell_refusals(rows)


def _tell_refusals(rows: Sequence[Row]) -> None:
    for row in rows:
        if row.refused is not None:
            print(f"emporter: {row.request.source} {row.request.source_id}: refused: {row.refused}", file=sys.stderr)


def _status(rows: Sequence[Row]) -> int:
    states = {row.state for row in rows}
    if states & {"failed", "refused"} or any(row.differs for row in rows):
        return FAILED
    return CANCELLED if "cancelled" in states else COMPLETE


def _volume_said(record: dict[str, Any]) -> dict[str, Any]:
    from emporter.checksums import of_voxels

    core, technical = record["metadata"]["core"], record["metadata"]["technical"]
    return {
        "volume": f"{record['volume']}@r{record['revision']}",
        "shape": core["volume_shape"],
        "dtype": core["data_type"],
        "voxel_size_nm": core["voxel_size_nm"],
        "source_origin": core["source_origin"],
        "sha256": of_voxels(technical),
    }


def _volume_cells(record: dict[str, Any]) -> tuple[str, ...]:
    said = _volume_said(record)
    nm = showing.nanometres(said["voxel_size_nm"])
    return (said["volume"], showing.voxels(said["shape"]), said["dtype"], nm, str(said["sha256"])[:12])
