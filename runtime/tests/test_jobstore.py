"""The state of a job under many writers: each change is decided on what is, and none is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from emporter_contracts import storage, subjects
from emporter_contracts.commands import IngestRequest, JobCommand, Refusal
from emporter_contracts.errors import IllegalMoveError
from emporter_contracts.events import LevelComplete, RawObjectStored
from emporter_contracts.jobs import JobState
from emporter_runtime.bus import Bus
from emporter_runtime.errors import StoppedError, TransientError
from emporter_runtime.jobstore import JobStore, now, tally
from emporter_runtime.ledger import Ledger
from emporter_runtime.objects import Objects
from emporter_runtime.provision import provision
from emporter_runtime.runs import RunNote
from emporter_runtime.stewarding import Steward, next_commands
from emporter_runtime.testing_bus import provisioned

REQUEST = IngestRequest(source="url", source_id="http://archive/volume.tif")


@asynccontextmanager
async def a_bus(folder: Path, **settings: float) -> AsyncIterator[tuple[Bus, Objects]]:
    async with provisioned(folder, **settings) as (made, _):
        bus = Bus(made, "fetcher")
        await bus.broker.connect()
        try:
            yield bus, Objects.open(made)
        finally:
            await bus.broker.stop()


async def test_beginning_a_run_twice_begins_it_once(tmp_path: Path) -> None:
    async with a_bus(tmp_path) as (bus, objects):
        first = await JobStore(bus, objects).begin("a", REQUEST, 1, 1)
        again = await JobStore(bus, objects).begin("a", REQUEST, 1, 1)
        assert (again.version, again.state) == (first.version, JobState.PENDING)


async def test_of_many_concurrent_writers_none_loses_a_change(tmp_path: Path) -> None:
    async with a_bus(tmp_path) as (bus, objects):
        stores = [JobStore(bus, objects) for _ in range(8)]
        run = await stores[0].begin("a", REQUEST, 1, 1)
        run = await stores[0].move(run, JobState.PROCESSING)
        await asyncio.gather(*(store.progress(run, fetch=tally(n, 100, n, 100)) for n, store in enumerate(stores, 1)))
        last = await stores[0].read("a")
        assert last is not None
        assert last.version == run.version + 8


async def test_a_late_writer_moves_nothing_backwards(tmp_path: Path) -> None:
    async with a_bus(tmp_path) as (bus, objects):
        jobs = JobStore(bus, objects)
        old = await jobs.begin("a", REQUEST, 1, 1)
        await jobs.cancel("a")
        new = await jobs.begin("a", REQUEST, 1, 2)
        after = await jobs.move(old, JobState.PROCESSING)
        assert (after.run, after.state) == (new.run, JobState.PENDING)
        await jobs.fail(JobCommand.of(old), Refusal(code="x", message="late"))
        last = await jobs.read("a")
        assert last is not None
        assert last.state == JobState.PENDING


async def test_an_illegal_move_raises(tmp_path: Path) -> None:
    async with a_bus(tmp_path) as (bus, objects):
        jobs = JobStore(bus, objects)
        run = await jobs.begin("a", REQUEST, 1, 1)
        with pytest.raises(IllegalMoveError):
            await jobs.move(run, JobState.COMPLETE)


async def test_an_ended_run_leaves_word_in_the_store(tmp_path: Path) -> None:
    async with a_bus(tmp_path) as (bus, objects):
        jobs = JobStore(bus, objects)
        run = await jobs.begin("a", REQUEST, 1, 1)
        await jobs.fail(JobCommand.of(run), Refusal(code="not_found", message="gone"))
        note = RunNote.model_validate_json(await objects.get(storage.RAW, storage.generation_ended("a", 1, 1)))
        assert note.state == JobState.FAILED
        assert note.error is not None
        assert note.error.code == "not_found"


async def test_work_on_an_ended_or_older_run_is_stopped(tmp_path: Path) -> None:
    async with a_bus(tmp_path) as (bus, objects):
        jobs = JobStore(bus, objects)
        run = await jobs.begin("a", REQUEST, 1, 1)
        await jobs.current(JobCommand.of(run))
        await jobs.cancel("a")
        with pytest.raises(StoppedError):
            await jobs.current(JobCommand.of(run))
        await jobs.begin("a", REQUEST, 1, 2)
        with pytest.raises(StoppedError):
            await jobs.current(JobCommand.of(run))
        with pytest.raises(StoppedError):
            await jobs.current(JobCommand(job="never", revision=1, generation=1))


async def test_a_job_fails_when_its_patience_is_at_an_end(tmp_path: Path) -> None:
    async with a_bus(tmp_path, patience_seconds=0.05) as (bus, objects):
        jobs = JobStore(bus, objects)
        run = await jobs.begin("a", REQUEST, 1, 1)
        async with asyncio.timeout(20):
            while True:
                await jobs.wait(JobCommand.of(run), TransientError("archive is down", retry_after=0.01))
                status = await jobs.read("a")
                assert status is not None
                if not status.state.running:
                    break
        assert status.state == JobState.FAILED
        assert status.error is not None
        assert "no progress" in status.error.message


async def test_progress_ends_a_wait_only_when_its_time_is_over(tmp_path: Path) -> None:
    async with a_bus(tmp_path) as (bus, objects):
        jobs = JobStore(bus, objects)
        run = await jobs.move(await jobs.begin("a", REQUEST, 1, 1), JobState.PROCESSING)
        await jobs.wait(JobCommand.of(run), TransientError("busy", retry_after=3600))
        still = await jobs.progress(run, fetch=tally(1, 2, 1, 2))
        assert still.waiting is not None
        await jobs.wait(JobCommand.of(run), TransientError("busy", retry_after=0.0))
        over = await jobs.progress(run, fetch=tally(2, 2, 2, 2))
        assert over.waiting is None


async def test_a_unit_is_entered_once_and_counted_without_being_read(tmp_path: Path) -> None:
    async with a_bus(tmp_path) as (bus, _):
        ledger = Ledger(bus)

        def entry(unit: str, generation: int = 1) -> tuple[str, RawObjectStored]:
            stored = RawObjectStored(job="a", revision=1, generation=generation, unit=unit, bytes=1, sha256="00")
            return subjects.raw_object_stored("a", 1, unit), stored

        entered = [await ledger.enter(*entry(f"{n}-0")) for n in range(1200)]
        again = [await ledger.enter(*entry("7-0")), await ledger.enter(*entry("7-0", generation=2))]
        wildcard = subjects.raw_objects_stored("a", 1)
        assert all(entered)
        assert again == [False, False]
        assert await ledger.count(wildcard) == 1200
        assert len(await ledger.subjects(wildcard)) == 1200
        assert [e.unit async for e in ledger.entries(wildcard, RawObjectStored)] == [f"{n}-0" for n in range(1200)]
        assert await ledger.has(subjects.raw_object_stored("a", 1, "7-0"))
        assert not await ledger.has(subjects.raw_object_stored("a", 2, "7-0"))


async def test_a_fact_is_said_once_for_ever_whoever_says_it(tmp_path: Path) -> None:
    async with a_bus(tmp_path) as (bus, _):
        said = [
            await bus.say_once(
                subjects.level_complete("a", 1, 0),
                LevelComplete(job="a", revision=1, generation=generation, volume="a", level=0),
                "EVENTS",
                "convert.level.complete",
                generation,
            )
            for generation in (1, 2, 3)
        ]
        assert said == [True, False, False]


async def test_a_steward_looks_at_running_jobs_when_they_begin_and_at_every_sweep_but_not_while_they_wait(tmp_path: Path) -> None:
    async with a_bus(tmp_path, sweep_seconds=0.1) as (bus, objects):
        jobs = JobStore(bus, objects)
        looks: list[str] = []

        async def look(status: object) -> None:
            looks.append(status.job)  # type: ignore[attr-defined]

        steward = Steward(bus, jobs, "fetch", look)
        before = await jobs.begin("before", REQUEST, 1, 1)
        async with steward.stewarding():
            await jobs.begin("after", REQUEST, 1, 1)
            await jobs.cancel((await jobs.begin("ended", REQUEST, 1, 1)).job)
            async with asyncio.timeout(20):
                while looks.count("before") < 3 or looks.count("after") < 3:
                    await asyncio.sleep(0.02)
            await jobs.wait(JobCommand.of(before), TransientError("down", retry_after=3600))
            count = looks.count("before")
            others = looks.count("after")
            async with asyncio.timeout(20):
                while looks.count("after") < others + 5:
                    await asyncio.sleep(0.02)
            assert looks.count("before") <= count + 1


async def test_a_steward_hears_of_new_jobs_again_after_the_bus_was_restarted_and_wiped(tmp_path: Path) -> None:
    async with provisioned(tmp_path, sweep_seconds=0.2) as (settings, server):
        bus, objects = Bus(settings, "fetcher"), Objects.open(settings)
        await bus.broker.connect()
        jobs = JobStore(bus, objects)
        looks: list[str] = []

        async def look(status: object) -> None:
            looks.append(status.job)  # type: ignore[attr-defined]

        async with Steward(bus, jobs, "fetch", look).stewarding():
            await jobs.begin("before", REQUEST, 1, 1)
            async with asyncio.timeout(20):
                while "before" not in looks:
                    await asyncio.sleep(0.02)
            server.kill()
            server.wipe()
            server.start()
            await server.until_ready()
            await provision(settings)
            await jobs.begin("after", REQUEST, 1, 1)
            async with asyncio.timeout(30):
                while "after" not in looks:
                    await asyncio.sleep(0.02)
        await bus.broker.stop()


def test_commands_are_queued_in_order_and_never_more_than_the_room_there_is() -> None:
    units = [str(n) for n in range(10)]
    assert next_commands(units, {"0", "2"}, {"1", "3"}, limit=5) == ["4", "5", "6"]
    assert next_commands(units, set(units), set(), limit=5) == []
    assert next_commands(units, set(), set(units[:5]), limit=5) == []


def test_time_is_utc() -> None:
    assert now().utcoffset() == timedelta(0)
