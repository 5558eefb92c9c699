"""Taking requests, on a real bus: each is one run, whatever is published again, killed half-way or asked for at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from emporter_contracts import ids, storage, subjects
from emporter_contracts.commands import Accepted, FetchBatch, IngestRequest, JobCommand, Refusal
from emporter_contracts.errors import RefusedError
from emporter_contracts.jobs import JobState
from emporter_contracts.plans import FetchPlan, PlannedObject, Segments, StoredRequest
from emporter_runtime.bus import Bus, Delivery
from emporter_runtime.errors import StoppedError
from emporter_runtime.jobstore import JobStore, now
from emporter_runtime.ledger import outstanding
from emporter_runtime.objects import Objects
from emporter_runtime.testing_bus import provisioned
from fetcher.intake import Intake

REQUEST = IngestRequest(source="url", source_id="http://archive/volume.tif")
JOB = ids.job_id(REQUEST)


@dataclass
class Desk:
    """An intake with its bus; `version` is what the archive serves."""

    bus: Bus
    jobs: JobStore
    objects: Objects
    version: str = "v1"
    intakes: list[Intake] = field(default_factory=list)

    async def plan(self, request: IngestRequest, job: str, revision: int) -> FetchPlan:
        served = PlannedObject(
            path="volume.tif",
            url=request.source_id,
            location=Segments(origin=storage.origin(request.source_id, self.version)),
            bytes=3,
            version=self.version,
        )
        return FetchPlan(
            job=job,
            revision=revision,
            source=request.source,
            source_id=request.source_id,
            objects=(served,),
            volumes=(),
            planned_at=now(),
        )

    async def take(self, request: IngestRequest, event: str, intake: int = 0) -> Accepted:
        delivery = Delivery("ingest.request", {"ce-id": event}, request.model_dump_json().encode(), "INGEST", 1)
        return await self.intakes[intake].take(request, delivery)

    async def end(self, state: JobState) -> None:
        status = await self.jobs.read(JOB)
        assert status is not None
        if state == JobState.FAILED:
            await self.jobs.fail(JobCommand.of(status), Refusal(code="not_found", message="gone"))
            return
        for step in (JobState.PROCESSING, JobState.SAVING, state):
            status = await self.jobs.move(status, step)

    async def store_plan(self, revision: int) -> None:
        plan = await self.plan(REQUEST, JOB, revision)
        await self.objects.put_json(storage.RAW, storage.plan(JOB, revision), plan)


@asynccontextmanager
async def a_desk(folder: Path) -> AsyncIterator[Desk]:
    async with provisioned(folder) as (settings, _):
        bus, objects = Bus(settings, "fetcher"), Objects.open(settings)
        await bus.broker.connect()
        desk = Desk(bus, JobStore(bus, objects), objects)
        desk.intakes = [Intake(bus, JobStore(bus, objects), objects, {"url", "inbox"}, desk.plan) for _ in range(4)]
        try:
            yield desk
        finally:
            await bus.broker.stop()


async def test_the_same_request_five_times_at_once_is_one_run(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        answers = await asyncio.gather(*(desk.take(REQUEST, f"event-{n}", n % 4) for n in range(5)))
        assert {(a.job, a.revision) for a in answers} == {(JOB, 1)}
        assert [a.existing for a in answers].count(False) == 1
        assert await desk.objects.folders(storage.RAW, storage.job_prefix(JOB)) == ["r1"]
        assert await outstanding(desk.bus, "FETCH", "fetch.>") == {subjects.fetch_plan(JOB)}


async def test_another_voxel_size_or_seed_is_another_job(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        plain = await desk.take(REQUEST, "1")
        sized = await desk.take(REQUEST.model_copy(update={"voxel_size_nm": (50.0, 8.0, None)}), "2")
        assert plain.job != sized.job
        assert not sized.existing


async def test_a_redelivered_request_finishes_what_it_claimed_before_the_kill(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        claim = StoredRequest(request=REQUEST, event_id="mine", received_at=now())
        await desk.objects.put_json(storage.RAW, storage.request(JOB, 1), claim)
        assert await desk.jobs.read(JOB) is None
        answer = await desk.take(REQUEST, "mine")
        assert (answer.revision, answer.existing, answer.state) == (1, False, "pending")
        assert await outstanding(desk.bus, "FETCH", "fetch.>") == {subjects.fetch_plan(JOB)}


async def test_a_redelivered_force_request_does_not_claim_a_second_revision(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        forced = REQUEST.model_copy(update={"force": "fetch"})
        await desk.take(REQUEST, "1")
        await desk.end(JobState.COMPLETE)
        first = await desk.take(forced, "2")
        await desk.end(JobState.COMPLETE)
        again = await desk.take(forced, "2")
        assert (first.revision, again.revision) == (2, 2)
        assert await desk.objects.folders(storage.RAW, storage.job_prefix(JOB)) == ["r1", "r2"]


async def test_force_while_running_is_refused_and_names_the_running_revision(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        await desk.take(REQUEST, "1")
        with pytest.raises(RefusedError, match="running as r1") as refused:
            await desk.take(REQUEST.model_copy(update={"force": "convert"}), "2")
        assert refused.value.code == "running"


async def test_a_finished_request_made_again_tells_what_there_is(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        await desk.take(REQUEST, "1")
        await desk.end(JobState.COMPLETE)
        answer = await desk.take(REQUEST, "2")
        assert (answer.existing, answer.state, answer.revision) == (True, "complete", 1)


async def test_refresh_makes_a_revision_only_when_the_archive_serves_something_else(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        await desk.take(REQUEST, "1")
        await desk.store_plan(1)
        await desk.end(JobState.COMPLETE)
        refresh = REQUEST.model_copy(update={"refresh": True})
        same = await desk.take(refresh, "2")
        desk.version = "v2"
        changed = await desk.take(refresh, "3")
        assert (same.existing, same.revision) == (True, 1)
        assert (changed.existing, changed.revision) == (False, 2)


async def test_retry_starts_the_next_generation_of_the_same_revision(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        await desk.take(REQUEST, "1")
        with pytest.raises(RefusedError, match="pending"):
            await desk.intakes[0].retry(JOB)
        await desk.end(JobState.FAILED)
        answer = await desk.intakes[0].retry(JOB)
        assert (answer.revision, answer.generation, answer.state) == (1, 2, "pending")


async def test_cancel_takes_queued_commands_back_and_a_second_cancel_is_refused(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        await desk.take(REQUEST, "1")
        status = await desk.jobs.read(JOB)
        assert status is not None
        for n in range(5):
            command = FetchBatch.of(status, source="url", n=n)
            await desk.bus.command(subjects.fetch_batch("url", JOB, n), command, "FETCH", "fetch.batch", n)
        answer = await desk.intakes[0].cancel(JOB)
        assert answer.state == "cancelled"
        assert await outstanding(desk.bus, "FETCH", "fetch.>") == set()
        with pytest.raises(RefusedError, match="cancelled"):
            await desk.intakes[0].cancel(JOB)
        with pytest.raises(RefusedError, match="no job"):
            await desk.intakes[0].cancel("never")


async def test_a_paused_job_is_worked_on_by_nobody_until_it_is_resumed(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        await desk.take(REQUEST, "1")
        with pytest.raises(RefusedError, match="not paused"):
            await desk.intakes[0].resume(JOB)
        await desk.intakes[0].pause(JOB)
        status = await desk.jobs.read(JOB)
        assert status is not None
        with pytest.raises(StoppedError, match="paused"):
            await desk.jobs.current(JobCommand.of(status))
        await desk.intakes[0].resume(JOB)
        assert (await desk.jobs.current(JobCommand.of(status))).waiting is None
        await desk.end(JobState.COMPLETE)
        with pytest.raises(RefusedError, match="complete"):
            await desk.intakes[0].pause(JOB)


async def test_after_a_wiped_bus_a_finished_request_is_not_run_again(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        await desk.take(REQUEST, "1")
        await desk.end(JobState.COMPLETE)
        await desk.bus.js.delete_stream("STATUS")
        from emporter_runtime.provision import apply

        await apply(desk.bus.js, desk.bus.settings.ack_wait_seconds)
        answer = await desk.take(REQUEST, "2")
        assert (answer.existing, answer.state, answer.revision) == (True, "complete", 1)


async def test_what_no_source_could_carry_out_is_refused(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        with pytest.raises(RefusedError, match="no source 'nowhere'"):
            await desk.take(IngestRequest(source="nowhere", source_id="1"), "1")
        huge = REQUEST.model_copy(update={"parameters": {"x": "y" * 300_000}})
        with pytest.raises(RefusedError, match="more than"):
            await desk.take(huge, "2")
