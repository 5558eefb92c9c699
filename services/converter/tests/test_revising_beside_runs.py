"""Corrections and runs of the same job: of a correction and a retry at once, one sees the other."""

from __future__ import annotations

import pytest

from converter import revising
from converter.quality_policy import QualityPolicy
from converter.revising import revise
from converter.testing import a_run, tissue
from emporter_contracts import storage
from emporter_contracts.errors import RefusedError
from emporter_contracts.jobs import JobState
from emporter_contracts.plans import StoredRequest
from emporter_contracts.revisions import Changes, ReviseVolume
from emporter_runtime.commits import committed, current
from emporter_runtime.jobstore import now
from emporter_runtime.objects import Objects
from emporter_runtime.runs import RunNote

VOLUME = "url-brain"
COMMAND = ReviseVolume(volume=VOLUME, changes=Changes(description="a brain"), by="ada")


async def note(objects: Objects, revision: int, generation: int, state: JobState) -> None:
    made = RunNote(job=VOLUME, revision=revision, generation=generation, at=now(), state=state)
    key = storage.generation if state == JobState.PENDING else storage.generation_ended
    await objects.put_json(storage.RAW, key(VOLUME, revision, generation), made)


async def converted() -> Objects:
    """r1 committed, r2 failed."""
    objects, run = Objects.in_memory(), a_run(tissue((8, 32, 32)))
    plan = run.plan()
    run.write(objects, plan.volumes[0])
    run.finish(objects, plan, run.shards, QualityPolicy())
    for revision, state in ((1, JobState.COMPLETE), (2, JobState.FAILED)):
        claim = StoredRequest(request=run.request, event_id=str(revision), received_at=now())
        await objects.put_json(storage.RAW, storage.request(VOLUME, revision), claim)
        await note(objects, revision, 1, JobState.PENDING)
        await note(objects, revision, 1, state)
    return objects


async def test_a_run_that_failed_does_not_keep_what_was_there_from_being_corrected() -> None:
    objects = await converted()
    assert (await revise(objects, COMMAND, QualityPolicy())).revision == 3
    assert await current(objects, VOLUME) == 3


async def test_a_run_that_is_retried_while_a_correction_is_claimed_ends_the_correction(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = await converted()
    claim = revising._claim

    async def retried_meanwhile(*claimed: object) -> None:
        await claim(*claimed)  # type: ignore[arg-type]
        await note(objects, 2, 2, JobState.PENDING)

    monkeypatch.setattr(revising, "_claim", retried_meanwhile)
    with pytest.raises(RefusedError, match="r2") as refused:
        await revise(objects, COMMAND, QualityPolicy())
    assert refused.value.code == "running"
    assert await committed(objects, VOLUME) == {1}
