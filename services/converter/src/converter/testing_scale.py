"""A conversion of any size without its voxels: planner, bus, ledger, steward and handlers are the service's own.

For tests and measurements: the source reads as zeros, a task writes nothing and enters what it would have written.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter import handlers
from converter.app import furnish
from converter.handlers import Rooms
from converter.settings import ConverterSettings
from converter.shards import shard_index
from converter.testing import Run, a_volume, run_of
from converter.writing import fused_until
from emporter_contracts import storage, subjects
from emporter_contracts.commands import ConvertTask
from emporter_contracts.events import ShardWritten
from emporter_contracts.geometry import Box, ChunkGrid, Shape3, VoxelSize
from emporter_contracts.jobs import JobState, JobStatus
from emporter_contracts.plans import StoredRequest, VolumePlan
from emporter_runtime.testing_bus import provisioned


@dataclass(frozen=True, slots=True)
class NullReader:
    """A volume of zeros of any size; `native` as chunked archives have it."""

    shape: Shape3
    dtype: np.dtype[Any]
    voxel_size: VoxelSize = VoxelSize()
    native: ChunkGrid = ChunkGrid((64, 64, 64))

    def read(self, box: Box) -> NDArray[Any]:
        return np.zeros(box.shape, self.dtype)


@dataclass(frozen=True, slots=True)
class Simulation:
    """One converter process on one job."""

    rooms: Rooms
    job: str

    async def status(self) -> JobStatus:
        status = await self.rooms.jobs.read(self.job)
        assert status is not None
        return status

    async def done(self) -> int:
        """Entries of the ledger."""
        return await self.rooms.ledger.count(subjects.convert_dones(self.job, 1))

    async def until_done(self, entries: int, seconds: float = 300) -> None:
        async with asyncio.timeout(seconds):
            while await self.done() < entries:
                await asyncio.sleep(0.1)


@asynccontextmanager
async def simulated(folder: Path, shape: Shape3, tasks: int = 8) -> AsyncIterator[Simulation]:
    """A job whose fetch is complete and whose tasks are being done, `tasks` at once, while inside."""
    run = run_of(NullReader(shape, np.dtype("uint8")), a_volume(shape))
    real_write = handlers._write  # the one place where voxels are touched
    handlers._write = _null_write  # type: ignore[assignment]
    try:
        async with working(folder, run, tasks) as simulation:
            yield simulation
    finally:
        handlers._write = real_write


@asynccontextmanager
async def working(folder: Path, run: Run, tasks: int = 1) -> AsyncIterator[Simulation]:
    """As `simulated`, with the voxels of a run."""
    run.fetch = run.fetch.model_copy(update={"archive": {}})
    run.manifest = run.manifest.model_copy(update={"archive": {}})
    async with provisioned(folder) as (made, _):
        settings = ConverterSettings(**{**made.model_dump(exclude_unset=True), "converter_tasks": tasks, "http_port": 0})
        # As one task at a time would be planned: here eight hold nothing.
        rooms = furnish(settings.model_copy(update={"converter_memory_bytes": tasks * 2**30}))
        rooms.readers[run.volume, 1] = run.reader
        try:
            await rooms.bus.broker.connect()
            claim = StoredRequest(request=run.request, event_id="1", received_at=run.fetch.planned_at)
            await rooms.objects.put_json(storage.RAW, storage.request(run.fetch.job, 1), claim)
            await rooms.objects.put_json(storage.RAW, storage.plan(run.fetch.job, 1), run.fetch)
            await rooms.objects.put_json(storage.RAW, storage.manifest(run.fetch.job, 1), run.manifest)
            status = await rooms.jobs.begin(run.fetch.job, run.request, 1, 1)
            await rooms.jobs.move(status, JobState.PROCESSING)
            async with rooms.bus.running(), rooms.steward.stewarding():
                yield Simulation(rooms, run.fetch.job)
        finally:
            rooms.workers.close()


def _null_write(*given: object) -> dict[int, tuple[ShardWritten, ...]]:
    """What a task and the levels fused with it would have entered."""
    plan = next(g for g in given if isinstance(g, VolumePlan))
    command = next(g for g in given if isinstance(g, ConvertTask))
    written = {}
    for k in range(command.level, fused_until(plan, command.level) + 1):
        shard = plan.levels[k].shard
        tiles = plan.levels[k].box(command.n).tiles(shard)
        keys = {storage.shard_key(k, shard_index(tile.start, shard)): tile.size for tile in tiles}
        written[k] = tuple(ShardWritten(key=key, bytes=size, crc32c="00000000") for key, size in keys.items())
    return written
