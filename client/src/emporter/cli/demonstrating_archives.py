"""`emporter demo` in the repository: five archives at once, every voxel compared, a table at the end."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emporter import aio
from emporter.aio import AsyncClient, AsyncVolume
from emporter.cli import showing
from emporter.cli.demonstrating import (
    FOLDER,
    LOOPBACK_ARCHIVE,
    cancelled_unless_done,
    check_folder,
    draw,
    is_up,
    odd_box,
    say_what_next,
    stack_of,
    step,
)
from emporter.demo.archives import Archives, Exhibit
from emporter.errors import MistakeError
from emporter.stack.files import StackFiles
from emporter_contracts.geometry import Box
from emporter_contracts.jobs import JobState, JobStatus

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

HEADINGS = ("volume", "shape z,y,x", "dtype", "voxel nm", "source", "fetched", "state", "voxel for voxel")
VOXEL_SIZE_TOLERANCE = 1e-6
"""Relative: lengths in files are binary fractions of a micrometre."""


@dataclass(frozen=True, slots=True)
class Row:
    """One archive's volume, compared."""

    exhibit: Exhibit
    status: JobStatus
    volume: AsyncVolume | None
    differs: str
    """Empty where every voxel, the dtype and the voxel size are the archive's."""

    def cells(self) -> tuple[object, ...]:
        """Of the table."""
        fetched = showing.size(self.status.fetch.bytes_total)
        if self.volume is None:
            return (self.status.job, "", "", "", self.exhibit.request.source, fetched, str(self.status.state), self.differs)
        v = self.volume
        size = ",".join("?" if nm is None else f"{nm:.4g}" for nm in v.voxel_size_nm)
        source = self.exhibit.request.source
        state, equal = str(self.status.state), "no: " + self.differs if self.differs else "yes"
        return (str(v.ref), showing.voxels(v.shape), str(v.dtype), size, source, fetched, state, equal)


def run_archives_demo(
    archives: Callable[[], AbstractContextManager[Archives]], data: Path | None, output: Path, *, keep: bool
) -> int:
    """The exit status: 0 when all volumes are the archives', voxel for voxel. Raises ClientError."""
    check_folder(output)
    files = StackFiles.at(data or FOLDER)
    if is_up(files):
        raise MistakeError(
            f"the stack in {files.root} is up, and asks the real archives",
            hint=f"emporter down --data {files.root}, or emporter demo --data another folder, or emporter demo --single",
        )
    step("Starting five small archives on the loopback, which speak the real ones' protocols")
    with archives() as up:
        for exhibit in up.exhibits:
            shape = showing.voxels(exhibit.voxels.shape)
            print(f"  {exhibit.request.source:<14} {shape:>12} {exhibit.voxels.dtype!s:<6} {exhibit.speaks}")
        with stack_of(files, {**LOOPBACK_ARCHIVE, **up.environment}, keep=keep):
            status = asyncio.run(_run(files, up.exhibits, output))
    if status == 0:
        say_what_next(files)
    return status


async def _run(files: StackFiles, exhibits: Sequence[Exhibit], output: Path) -> int:
    async with aio.connect(files.root) as client:
        step("Asking for one volume of each on the bus, side by side")
        for exhibit in exhibits:
            print(f"  emporter ingest {_words(exhibit)}")
        began = time.monotonic()
        async with AsyncExitStack() as cancelling:
            jobs = [(await client.ingest(exhibit.request)).job for exhibit in exhibits]
            for job in jobs:
                await cancelling.enter_async_context(cancelled_unless_done(client, job))
            ended = await _followed(client, jobs)
        print(f"  ingested in {time.monotonic() - began:.1f} s")
        step("Reading every volume back, and comparing it with what its archive holds")
        rows = await asyncio.gather(
            *(_compared(client, exhibit, status) for exhibit, status in zip(exhibits, ended, strict=True))
        )
        showing.print_table(HEADINGS, [row.cells() for row in rows], "")
        if any(row.volume is None for row in rows):
            print(f"emporter: not every job was completed; the logs are in {files.root / 'logs'}", file=sys.stderr)
            return 1
        if any(row.differs for row in rows):
            print("emporter: not everything that came out is what went in; this is a bug of emporter", file=sys.stderr)
            return 1
        shown = next(row.volume for row in rows if row.volume is not None)
        await _fetch_block(shown)
        await draw(shown, output)
        return 0


def _words(exhibit: Exhibit) -> str:
    """The same request on the command line."""
    request = exhibit.request
    random = request.random_region
    more = f" --random {showing.voxels(random.shape)} --seed {random.seed}" if random else ""
    return f"{request.source} {request.source_id}{more}"


async def _followed(client: AsyncClient, jobs: Sequence[str]) -> list[JobStatus]:
    """The states in which the jobs ended; a bar for each meanwhile, or a line for each change where there is no terminal."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("  {task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[state]}", markup=False),
        TimeElapsedColumn(),
    )
    shown = sys.stderr.isatty()
    with Progress(*columns, console=showing.console(stderr=True), disable=not shown) as bars:
        return list(await asyncio.gather(*(_follow(client, job, bars, lines=not shown) for job in jobs)))


async def _follow(client: AsyncClient, job: str, bars: Bars, *, lines: bool) -> JobStatus:
    bar = bars.add_task(job, total=None, state="")
    last: JobStatus | None = None
    async for state in client.watch(job):
        if not isinstance(state, JobStatus):
            continue
        if lines and (last is None or last.state != state.state):
            print(f"  {job}: {state.state}", flush=True)
        last = state
        total, done = state.fetch.total + state.convert.total, state.fetch.done + state.convert.done
        bars.update(bar, total=total or None, completed=done, state=str(state.state))
    assert last is not None
    return last


async def _compared(client: AsyncClient, exhibit: Exhibit, status: JobStatus) -> Row:
    if status.state != JobState.COMPLETE:
        return Row(exhibit, status, None, showing.failure(status))
    (name,) = await client.volumes_of(status.job)
    volume = await client.volume(name)
    origin = (await client.record(name))["metadata"]["core"]["source_origin"]
    voxels = await volume.block((0, 0, 0), volume.shape)
    source = exhibit.voxels[Box.at((origin[0], origin[1], origin[2]), volume.shape).slices()]
    return Row(exhibit, status, volume, _difference(voxels, source, volume.voxel_size_nm, exhibit.voxel_size_nm))


def _difference(voxels: Any, source: Any, nm: Sequence[float | None], source_nm: Sequence[float]) -> str:
    if voxels.dtype != source.dtype or voxels.shape != source.shape:
        return f"{source.shape} {source.dtype} became {voxels.shape} {voxels.dtype}"
    if not np.array_equal(voxels, source):
        return f"{int(np.sum(voxels != source)):,} of {voxels.size:,} voxels differ"
    same = all(n is not None and abs(n - m) <= VOXEL_SIZE_TOLERANCE * m for n, m in zip(nm, source_nm, strict=True))
    return "" if same else f"{showing.nanometres(source_nm)} nm became {showing.nanometres(nm)} nm"


async def _fetch_block(volume: AsyncVolume) -> None:
    box = odd_box(volume.shape)
    step(f"A block of {volume.ref} at {showing.voxels(box.start)} of {showing.voxels(box.shape)} voxels over HTTP")
    began = time.monotonic()
    block = await volume.block(box.start, box.shape)
    took = 1000 * (time.monotonic() - began)
    print(f"  {showing.size(block.nbytes)} in {took:.0f} ms: {block.dtype}, from {block.min()} to {block.max()}")
