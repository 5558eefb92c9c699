"""A run that failed is not retried once something newer says what the volume is: its voxels would be there and never be shown."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from emporter_contracts import ids, storage
from emporter_contracts.commands import IngestRequest, JobCommand, Refusal
from emporter_contracts.errors import RefusedError
from emporter_contracts.jobs import JobState
from emporter_contracts.plans import Commit, FetchPlan, StoredRequest, Tombstone
from emporter_contracts.revisions import Changes, Revising
from emporter_runtime.bus import Bus
from emporter_runtime.jobstore import JobStore, now
from emporter_runtime.objects import Objects
from emporter_runtime.testing_bus import provisioned
from fetcher.intake import Intake

REQUEST = IngestRequest(source="url", source_id="http://archive/volume.tif")
JOB = ids.job_id(REQUEST)


class Desk:
    """r1 is committed, r2 of the same request failed."""

    def __init__(self, bus: Bus, objects: Objects) -> None:
        self.objects = objects
        self.jobs = JobStore(bus, objects)
        self.intake = Intake(bus, self.jobs, objects, {"url"}, self._no_plan)

    async def _no_plan(self, request: IngestRequest, job: str, revision: int) -> FetchPlan:
        raise AssertionError((request, job, revision))

    async def begin(self) -> None:
        for revision in (1, 2):
            claim = StoredRequest(request=REQUEST, event_id=str(revision), received_at=now())
            await self.objects.put_json(storage.RAW, storage.request(JOB, revision), claim)
        await self.commit(JOB, 1)
        await self.fail(await self.jobs.begin(JOB, REQUEST, 2, 1))

    async def fail(self, run: object) -> None:
        await self.jobs.fail(JobCommand.of(run), Refusal(code="not_found", message="gone"))  # type: ignore[arg-type]

    async def commit(self, volume: str, revision: int, arrays: int | None = None) -> None:
        commit = Commit(volume=volume, revision=revision, digest="d", job=JOB, committed_at=now(), arrays=arrays)
        await self.objects.put_json(storage.VOLUMES, storage.commit(volume, revision), commit)

    async def claim(self, volume: str = JOB, age: timedelta = timedelta(0)) -> None:
        """`emporter set`, up to the claim of r3."""
        change = Revising(volume=volume, revises=1, arrays=1, changes=Changes(name="x"), by="ada", at=now())
        claim = StoredRequest(request=REQUEST, event_id="3", received_at=now() - age, revising=change)
        await self.objects.put_json(storage.RAW, storage.request(JOB, 3), claim)

    async def retried(self) -> tuple[int, int]:
        answer = await self.intake.retry(JOB)
        return answer.revision, answer.generation


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with provisioned(tmp_path) as (settings, _):
        bus = Bus(settings, "fetcher")
        await bus.broker.connect()
        desk = Desk(bus, Objects.open(settings))
        await desk.begin()
        yield desk
        await bus.broker.stop()


async def test_a_run_below_a_correction_is_not_retried_and_the_hint_says_what_to_do(desk: Desk) -> None:
    await desk.claim(age=timedelta(days=1))
    await desk.commit(JOB, 3, arrays=1)
    with pytest.raises(RefusedError, match=f"{JOB}@r3 corrected .* r2") as refused:
        await desk.retried()
    assert (refused.value.code, "--force convert" in refused.value.hint) == ("superseded", True)
    status = await desk.jobs.read(JOB)
    assert status is not None
    assert (status.state, status.run) == (JobState.FAILED, (2, 1))


async def test_a_correction_that_is_about_to_be_committed_counts_and_an_abandoned_or_removed_one_does_not(desk: Desk) -> None:
    await desk.claim()
    with pytest.raises(RefusedError, match="@r3"):
        await desk.retried()
    await desk.objects.delete(storage.RAW, [storage.request(JOB, 3)])
    await desk.claim(age=timedelta(hours=2))
    assert await desk.retried() == (2, 2)
    run = await desk.jobs.read(JOB)
    assert run is not None
    await desk.fail(run)
    await desk.commit(JOB, 3, arrays=1)
    stone = Tombstone(volume=JOB, revision=3, removed_at=now())
    await desk.objects.put_json(storage.VOLUMES, storage.tombstone(JOB, 3), stone)
    assert await desk.retried() == (2, 3)


async def test_a_correction_of_what_the_run_has_committed_keeps_nobody_from_finishing_its_other_volumes(desk: Desk) -> None:
    await desk.claim(f"{JOB}--s0")
    await desk.commit(f"{JOB}--s0", 2)
    await desk.commit(f"{JOB}--s0", 3, arrays=2)
    assert await desk.retried() == (2, 2)


async def test_a_correction_that_is_claimed_in_the_same_moment_ends_the_retry(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = JobStore.begin

    async def claimed_meanwhile(jobs: JobStore, *run: object) -> object:
        await desk.claim()
        return await begin(jobs, *run)  # type: ignore[arg-type]

    monkeypatch.setattr(JobStore, "begin", claimed_meanwhile)
    with pytest.raises(RefusedError, match="@r3"):
        await desk.retried()
    status = await desk.jobs.read(JOB)
    assert status is not None
    assert status.state == JobState.CANCELLED
