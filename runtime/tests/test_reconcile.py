"""A wiped bus is made again from the store: what is stored is not done again, what ended stays ended."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import google_crc32c

from emporter_contracts import storage, subjects
from emporter_contracts.commands import IngestRequest, JobCommand, Refusal
from emporter_contracts.events import ConvertDone, RawObjectStored
from emporter_contracts.geometry import VoxelSize
from emporter_contracts.jobs import JobState
from emporter_contracts.plans import (
    Commit,
    ConversionPlan,
    FetchPlan,
    LevelPlan,
    PlannedObject,
    PlannedVolume,
    Segments,
    StoredRequest,
    VolumePlan,
)
from emporter_runtime.bus import Bus
from emporter_runtime.jobstore import JobStore, now
from emporter_runtime.ledger import Ledger
from emporter_runtime.objects import Objects
from emporter_runtime.reconcile import reconcile
from emporter_runtime.settings import Settings
from emporter_runtime.testing_bus import NatsServer, provisioned

REQUEST = IngestRequest(source="url", source_id="http://archive/volume.tif")
SHAPE = (128, 64, 64)


def a_plan(job: str) -> FetchPlan:
    def served(n: int) -> PlannedObject:
        return PlannedObject(path=f"{n}.tif", url=f"http://archive/{n}", location=Segments(origin=f"o{n}"), bytes=4, version="v")

    volume = PlannedVolume(
        volume=job,
        name=job,
        format="tiff",
        objects=(0, 1, 2),
        shape=SHAPE,
        dtype="uint8",
        voxel_size=VoxelSize(),
        role="image",
        source_shape=SHAPE,
    )
    return FetchPlan(
        job=job,
        revision=1,
        source="url",
        source_id="x",
        objects=tuple(served(n) for n in range(3)),
        volumes=(volume,),
        raw_bytes=12,
        planned_at=now(),
    )


def a_conversion(job: str) -> ConversionPlan:
    level = LevelPlan(
        shape=SHAPE, chunk=(64, 64, 64), shard=(64, 64, 64), task=(64, 64, 64), scale=(1, 1, 1), translation=(0, 0, 0)
    )
    volume = VolumePlan(volume=job, dtype="uint8", codec="zstd", role="image", levels=(level,))
    return ConversionPlan(job=job, revision=1, volumes=(volume,), memory_bytes=1, planned_at=now())


async def claim(objects: Objects, job: str) -> None:
    claimed = StoredRequest(request=REQUEST, event_id=job, received_at=now())
    await objects.put_json(storage.RAW, storage.request(job, 1), claimed)


@asynccontextmanager
async def wiped(folder: Path) -> AsyncIterator[tuple[Settings, NatsServer, Bus, Objects]]:
    async with provisioned(folder) as (settings, server):
        bus = Bus(settings, "test")
        await bus.broker.connect()
        yield settings, server, bus, Objects.open(settings)
        await bus.broker.stop()


async def wipe(settings: Settings, server: NatsServer) -> None:
    server.kill()
    server.wipe()
    server.start()
    await server.until_ready()


async def test_what_is_stored_is_in_the_ledger_again_and_nothing_else(tmp_path: Path) -> None:
    async with wiped(tmp_path) as (settings, server, bus, objects):
        await claim(objects, "a")
        await JobStore(bus, objects).begin("a", REQUEST, 1, 3)
        await objects.put_json(storage.RAW, storage.plan("a", 1), a_plan("a"))
        await objects.put(storage.RAW, storage.segment("o0", 0), b"good")
        await objects.put(storage.RAW, storage.segment("o1", 0), b"bad")
        await objects.put_json(storage.RAW, storage.conversion("a", 1), a_conversion("a"))
        await objects.put(storage.VOLUMES, storage.zarr_root("a", 1) + "0/c/1/0/0", b"shard")
        await wipe(settings, server)
        found = await reconcile(settings)
        status = await JobStore(bus, objects).read("a")
        assert status is not None
        assert (status.state, status.run) == (JobState.PENDING, (1, 4))
        ledger = Ledger(bus)
        units = [e async for e in ledger.entries(subjects.raw_objects_stored("a", 1), RawObjectStored)]
        assert [(e.unit, e.sha256) for e in units] == [("0-0", hashlib.sha256(b"good").hexdigest())]
        tasks = [e async for e in ledger.entries(subjects.convert_dones("a", 1), ConvertDone)]
        assert [(e.n, e.shards[0].crc32c) for e in tasks] == [(1, f"{google_crc32c.value(b'shard'):08x}")]
        assert (found.units, found.tasks, found.resumed) == (1, 1, ["a"])


async def test_ended_runs_stay_ended_and_commits_are_said_once(tmp_path: Path) -> None:
    async with wiped(tmp_path) as (settings, server, bus, objects):
        jobs = JobStore(bus, objects)
        for job in ("failed", "complete", "cancelled"):
            await claim(objects, job)
            run = await jobs.begin(job, REQUEST, 1, 1)
            if job == "failed":
                await jobs.fail(JobCommand.of(run), Refusal(code="not_found", message="gone", hint="look"))
            elif job == "cancelled":
                await jobs.cancel(job)
            else:
                for state in (JobState.PROCESSING, JobState.SAVING, JobState.COMPLETE):
                    run = await jobs.move(run, state)
        await objects.put_json(storage.RAW, storage.plan("complete", 1), a_plan("complete"))
        commit = Commit(volume="complete", revision=1, digest="d", job="complete", committed_at=now())
        await objects.put_json(storage.VOLUMES, storage.commit("complete", 1), commit)
        await wipe(settings, server)
        await reconcile(settings)
        await reconcile(settings)
        states = {job: status for job in ("failed", "complete", "cancelled") if (status := await jobs.read(job))}
        assert {job: status.state for job, status in states.items()} == {
            "failed": JobState.FAILED,
            "complete": JobState.COMPLETE,
            "cancelled": JobState.CANCELLED,
        }
        assert states["failed"].error == Refusal(code="not_found", message="gone", hint="look")
        assert [v.committed for v in states["complete"].volumes] == [True]
        info = await bus.js.stream_info("EVENTS", subjects_filter="convert.volume.complete.>")
        assert info.state.subjects == {"convert.volume.complete.complete.1": 1}


async def test_reconciling_a_healthy_bus_changes_no_state(tmp_path: Path) -> None:
    async with wiped(tmp_path) as (settings, _, bus, objects):
        jobs = JobStore(bus, objects)
        await claim(objects, "a")
        before = await jobs.begin("a", REQUEST, 1, 1)
        found = await reconcile(settings)
        assert await jobs.read("a") == before
        assert found.restored == []
