"""Ingests of small volumes without fetcher and converter: what those say, in their order, by the same runtime code, and the
documents they leave in the store. Every way a job may go is among them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from cataloger.testing_builders import a_plan, a_record, judged, store_commit
from emporter_contracts import storage, subjects
from emporter_contracts.commands import IngestRequest, Refusal
from emporter_contracts.events import LevelComplete, RawManifestComplete, RawPlanReady, VolumeComplete
from emporter_contracts.ids import VolumeRef
from emporter_contracts.jobs import JobState, JobStatus, Tally, VolumeProgress
from emporter_contracts.plans import FetchPlan, Hold, Manifest, ManifestObject, StoredRequest
from emporter_contracts.policy import Outcome, Point, RuleDecision
from emporter_contracts.records import GateResult
from emporter_contracts.revisions import Changes, Correction, Revising
from emporter_runtime.bus import Bus, event_id
from emporter_runtime.commits import release
from emporter_runtime.jobstore import JobStore
from emporter_runtime.objects import Objects
from emporter_runtime.policy.facts import Asker
from emporter_runtime.policy.judging import Judgement, Policy
from emporter_runtime.policy.saying import say
from emporter_runtime.removal import remove

LEVELS = 2
TASKS = 3
"""Of each level."""
CORRUPT = Refusal(code="corrupt_object", message="cut off", hint="fetch it again")


class Ingests:
    """Carries ingests out. `expected` is what the catalog has to say in the end: the status of each volume, by volume."""

    def __init__(self, bus: Bus, objects: Objects, seed: int) -> None:
        self._bus = bus
        self._objects = objects
        self._jobs = JobStore(bus, objects)
        self._seed = seed
        self.expected: dict[str, tuple[str, int]] = {}
        self.readable: list[str] = []
        self._stories: list[Callable[[str, random.Random], Awaitable[None]]] = [
            self._goes_well, self._goes_well, self._of_many, self._retried, self._fails, self._cancelled,
            self._done_again, self._removed, self._superseded_is_removed, self._held, self._held_and_released,
            self._never_planned, self._judged, self._denied, self._corrected,
        ]  # fmt: skip

    async def carry_out(self, n: int) -> None:
        """The n-th ingest; the first ones are one of each kind."""
        rng = random.Random(f"{self._seed}.{n}")
        story = self._stories[n] if n < len(self._stories) else rng.choice(self._stories)
        await story(f"epfl-phantom-{n}", rng)

    async def _goes_well(self, job: str, rng: random.Random) -> None:
        await self._complete(job, rng, (job,))

    async def _of_many(self, job: str, rng: random.Random) -> None:
        await self._complete(job, rng, tuple(f"{job}--s{n}" for n in range(3)))

    async def _retried(self, job: str, rng: random.Random) -> None:
        run = await self._processing(job, rng, (job,))
        await self._jobs.move(run, JobState.FAILED, error=CORRUPT)
        await self._complete(job, rng, (job,), generation=2)

    async def _fails(self, job: str, rng: random.Random) -> None:
        run = await self._processing(job, rng, (job,))
        await self._jobs.move(run, JobState.FAILED, error=CORRUPT)
        self.expected[job] = ("failed", 1)

    async def _cancelled(self, job: str, rng: random.Random) -> None:
        await self._processing(job, rng, (job,))
        await self._jobs.cancel(job)
        self.expected[job] = ("cancelled", 1)

    async def _done_again(self, job: str, rng: random.Random) -> None:
        await self._complete(job, rng, (job,))
        await self._complete(job, rng, (job,), revision=2)

    async def _removed(self, job: str, rng: random.Random) -> None:
        await self._complete(job, rng, (job,))
        await remove(self._objects, VolumeRef(job))
        self.readable.remove(job)
        self.expected[job] = ("removed", 1)

    async def _superseded_is_removed(self, job: str, rng: random.Random) -> None:
        await self._done_again(job, rng)
        await remove(self._objects, VolumeRef(job, 1))

    async def _held(self, job: str, rng: random.Random) -> None:
        await self._complete(job, rng, (job,))
        await self._complete(job, rng, (job,), revision=2, held=True)
        self.expected[job] = ("complete", 1)

    async def _held_and_released(self, job: str, rng: random.Random) -> None:
        await self._held(job, rng)
        await self._pause(rng)
        await release(self._objects, job, 2)
        self.expected[job] = ("complete", 2)

    async def _never_planned(self, job: str, rng: random.Random) -> None:
        run = await self._begun(job, rng, 1, 1)
        await self._jobs.move(run, JobState.FAILED, error=CORRUPT)
        self.expected[job] = ("failed", 1)

    async def _judged(self, job: str, rng: random.Random) -> None:
        await self._decide(job, "request", "warn", 1)
        await self._complete(job, rng, (job,))
        await self._decide(job, "publication", "warn", 1, job)

    async def _denied(self, job: str, rng: random.Random) -> None:
        await self._decide(job, "request", "deny", None)
        await self._pause(rng)

    async def _corrected(self, job: str, rng: random.Random) -> None:
        await self._complete(job, rng, (job,))
        source, _, identity = job.partition("-")
        request, changes = IngestRequest(source=source, source_id=identity), Changes(voxel_size_nm=(40.0, 4.0, 4.0))
        change = Revising(volume=job, revises=1, arrays=1, changes=changes, by="ada", at=_now())
        claim = StoredRequest(request=request, event_id=f"{job}.2", received_at=_now(), revising=change)
        await self._objects.put_json(storage.RAW, storage.request(job, 2), claim)
        record = a_record(job, 2, voxel_size_nm=changes.voxel_size_nm)
        said = Correction(revises=1, arrays=1, by="ada", at=change.at, before={"voxel_size_nm": [5.0, 5.0, 5.0]})
        provenance = record.metadata.provenance.model_copy(update={"corrections": (said,)})
        metadata = record.metadata.model_copy(update={"provenance": provenance})
        await self._pause(rng)
        await store_commit(self._objects, record.model_copy(update={"metadata": metadata}), job)
        fact = VolumeComplete(job=job, revision=2, generation=1, volume=job, digest="d" * 64)
        await self._bus.say_once(subjects.volume_complete(job, 2), fact, "EVENTS", "convert.volume.complete", job)
        self.expected[job] = ("complete", 2)

    async def _decide(self, job: str, point: Point, outcome: Outcome, revision: int | None, volume: str | None = None) -> None:
        source, _, identity = job.partition("-")
        judgement = Judgement((RuleDecision(rule="large", outcome=outcome, message="larger than is usual"),))
        asker = Asker("training", "", source, identity)
        await say(self._bus, Policy(), judgement, point, asker, job, revision, volume)

    async def _begun(self, job: str, rng: random.Random, revision: int, generation: int) -> JobStatus:
        source, _, identity = job.partition("-")
        request = IngestRequest(source=source, source_id=identity)
        claim = StoredRequest(request=request, event_id=f"{job}.{revision}", received_at=_now())
        await self._objects.put_json(storage.RAW, storage.request(job, revision), claim)
        run = await self._jobs.begin(job, request, revision, generation)
        await self._pause(rng)
        return run

    async def _processing(
        self, job: str, rng: random.Random, volumes: tuple[str, ...], revision: int = 1, generation: int = 1
    ) -> JobStatus:
        run = await self._begun(job, rng, revision, generation)
        plan = a_plan(*volumes, job=job, revision=revision, planned_at=_now())
        await self._objects.put_json(storage.RAW, storage.plan(job, revision), plan)
        ready = RawPlanReady.of(run, objects=1, bytes=plan.raw_bytes, volumes=volumes)
        await self._bus.publish(subjects.raw_plan_ready(job), ready, event_id(ready, "raw.plan.ready"), "EVENTS")
        await self._pause(rng)
        run = await self._jobs.move(run, JobState.PROCESSING, fetch=Tally(total=1), volumes=_progress(volumes, 0))
        await self._pause(rng)
        return await self._jobs.progress(run, fetch=Tally(done=1, total=1))

    async def _complete(
        self,
        job: str,
        rng: random.Random,
        volumes: tuple[str, ...],
        revision: int = 1,
        generation: int = 1,
        *,
        held: bool = False,
    ) -> None:
        run = await self._processing(job, rng, volumes, revision, generation)
        await self._fetched(run, rng)
        for done in range(1, TASKS + 1):
            run = await self._jobs.progress(run, volumes=_progress(volumes, done))
            await self._pause(rng)
        for volume in volumes:
            for level in range(LEVELS):
                fact = LevelComplete.of(run, volume=volume, level=level)
                subject = subjects.level_complete(volume, revision, level)
                await self._bus.say_once(subject, fact, "EVENTS", "convert.level.complete", volume, level)
        run = await self._jobs.move(run, JobState.SAVING)
        for volume in volumes:
            await self._committed(run, volume, held=held)
            await self._pause(rng)
        run = await self._jobs.progress(run, volumes=_progress(volumes, TASKS, committed=True))
        await self._jobs.move(run, JobState.COMPLETE)
        self.expected |= dict.fromkeys(volumes, ("complete", revision))
        self.readable += [v for v in volumes if v not in self.readable]

    async def _fetched(self, run: JobStatus, rng: random.Random) -> None:
        body = await self._objects.get(storage.RAW, storage.plan(run.job, run.revision))
        plan = FetchPlan.model_validate_json(body)
        objects = tuple(ManifestObject(**o.model_dump(), sha256=f"{rng.getrandbits(256):064x}") for o in plan.objects)
        manifest = Manifest(job=run.job, revision=run.revision, objects=objects, completed_at=_now())
        await self._objects.put_json(storage.RAW, storage.manifest(run.job, run.revision), manifest)
        fact = RawManifestComplete.of(run, objects=1, bytes=plan.raw_bytes)
        await self._bus.publish(subjects.raw_manifest_complete(run.job), fact, event_id(fact, "raw.manifest.complete"), "EVENTS")

    async def _committed(self, run: JobStatus, volume: str, *, held: bool) -> None:
        if held:
            hold = Hold(volume=volume, revision=run.revision, gates=("missing",), held_at=_now())
            await self._objects.put_json(storage.VOLUMES, storage.hold(volume, run.revision), hold)
        missing = GateResult(gate="missing", verdict="fail", slices=(7,)) if held else GateResult(gate="missing", verdict="pass")
        # The second revision labels an image, the first does not.
        record = a_record(volume, run.revision, labels_of="epfl-phantom-0" if run.revision > 1 else None)
        await store_commit(self._objects, judged(record, missing, held=held), run.job)
        fact = VolumeComplete.of(run, volume=volume, digest="d" * 64)
        subject = subjects.volume_complete(volume, run.revision)
        await self._bus.say_once(subject, fact, "EVENTS", "convert.volume.complete", volume)

    async def _pause(self, rng: random.Random) -> None:
        await asyncio.sleep(rng.uniform(0, 0.01))


def _progress(volumes: tuple[str, ...], done: int, *, committed: bool = False) -> tuple[VolumeProgress, ...]:
    levels = (Tally(done=done, total=TASKS),) * LEVELS
    return tuple(VolumeProgress(volume=v, levels=levels, committed=committed) for v in volumes)


def _now() -> datetime:
    return datetime.now(UTC)
