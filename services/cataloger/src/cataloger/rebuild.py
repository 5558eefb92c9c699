"""The catalog made again, for a lost database: what the streams still hold first, then all the store knows: commits and records,
tombstones, and what jobs left behind. The store alone is enough for every volume; the streams add the history.

Idempotent, and safe on a catalog in use: what the bus said later is newer than anything read here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pydantic import ValidationError

from cataloger.curation import Curation
from cataloger.database import Database
from cataloger.facts import Fact
from cataloger.feed import Feed
from cataloger.handlers import take_again
from cataloger.intake import Intake
from cataloger.store import read_final, read_manifest, read_plan, removed_revisions
from emporter_contracts import storage, topology
from emporter_contracts.events import event_type
from emporter_contracts.ids import is_volume_id, job_of
from emporter_contracts.jobs import JobState, JobStatus, VolumeProgress
from emporter_contracts.plans import FetchPlan, StoredRequest
from emporter_runtime.bus import Bus
from emporter_runtime.commits import committed
from emporter_runtime.logging import get_logger
from emporter_runtime.objects import Objects
from emporter_runtime.replaying import replay
from emporter_runtime.runs import RunNote

log = get_logger(__name__)


@dataclass(slots=True)
class Rebuilt:
    """What was found."""

    jobs: int = 0
    revisions: int = 0
    removed: int = 0
    unreadable: int = 0
    heard: int | None = None
    """Messages of the streams; None where the bus was not asked."""


async def hear_again(bus: Bus, objects: Objects, database: Database) -> Rebuilt:
    """`rebuild`, after everything the streams hold was heard once more.

    Raises TransientError where the bus does not answer, StoreUnavailableError, DatabaseUnavailableError.
    """
    intake = Intake(database, objects, Feed())
    heard = unreadable = 0
    for consumer in map(topology.consumer_named, ("cataloger-status", "cataloger-events")):
        for wildcard in consumer.filters:
            async for delivery in replay(bus, consumer.stream, wildcard):
                heard += 1
                try:
                    await take_again(intake, delivery)
                except ValidationError as error:
                    # Its consumer made it a dead letter.
                    log.warning("unreadable", what=f"{delivery.stream}:{delivery.sequence}", error=str(error)[:500])
                    unreadable += 1
    found = await rebuild(objects, database)
    return replace(found, heard=heard, unreadable=found.unreadable + unreadable)


async def rebuild(objects: Objects, database: Database) -> Rebuilt:
    """Take in everything the store knows. Raises StoreUnavailableError, DatabaseUnavailableError."""
    found = Rebuilt()
    walk = _Walk(objects, Intake(database, objects, Feed()), found)
    for job in await objects.folders(storage.RAW, "jobs/"):
        await walk.job(job)
    for volume in await objects.folders(storage.VOLUMES):
        if is_volume_id(volume):
            await walk.volume(volume)
    curation = Curation(database, objects)
    found.unreadable += await curation.restore()
    return walk.found


@dataclass(frozen=True, slots=True)
class _Walk:
    objects: Objects
    intake: Intake
    found: Rebuilt

    async def job(self, job: str) -> None:
        """The newest run of a job: its request, its plan, how it ended."""
        folders = await self.objects.folders(storage.RAW, storage.job_prefix(job))
        revisions = [r for name in folders if (r := storage.run_revision(name)) is not None]
        if not revisions:
            return
        try:
            latest = await self._latest_run(job, revisions)
            status = await self._status(job, latest)
            plan = await read_plan(self.objects, job, latest)
        except ValidationError as error:
            self._unreadable(job, error)
            return
        await self._manifests(job, revisions)
        if status is None:
            return
        await self.intake.state_changed(status, _found(status))
        if plan is not None:
            await self.intake.plan_found(plan, status.generation)
        self.found.jobs += 1

    async def volume(self, volume: str) -> None:
        """Every commit of a volume, and every tombstone."""
        for revision in sorted(await committed(self.objects, volume)):
            try:
                final = await read_final(self.objects, volume, revision)
            except ValidationError as error:
                self._unreadable(f"{volume}@r{revision}", error)
                continue
            await self.intake.committed(job_of(volume), 1, final)
            self.found.revisions += 1
        removed = await removed_revisions(self.objects, volume)
        await self.intake.removed(volume, removed)
        self.found.removed += len(removed)

    async def _latest_run(self, job: str, revisions: list[int]) -> int:
        """The newest revision that was run: others say something new of voxels that were there."""
        for revision in sorted(revisions, reverse=True):
            body = await self.objects.find(storage.RAW, storage.request(job, revision))
            if body is None or StoredRequest.model_validate_json(body).revising is None:
                return revision
        return max(revisions)

    async def _manifests(self, job: str, revisions: list[int]) -> None:
        for revision in revisions:
            try:
                manifest = await read_manifest(self.objects, job, revision)
            except ValidationError as error:
                self._unreadable(f"{job}@r{revision}", error)
                continue
            if manifest is not None:
                await self.intake.manifest_found(manifest)

    async def _status(self, job: str, revision: int) -> JobStatus | None:
        """The state of a run as the store tells it, version 1: whatever the bus says of it is newer."""
        body = await self.objects.find(storage.RAW, storage.request(job, revision))
        if body is None:
            return None
        claim = StoredRequest.model_validate_json(body)
        notes = await self._notes(job, revision)
        generation = max((n.generation for n in notes), default=1)
        end = next((n for n in notes if n.generation == generation and n.state != JobState.PENDING), None)
        return JobStatus(
            job=job,
            source=claim.request.source,
            source_id=claim.request.source_id,
            revision=revision,
            generation=generation,
            version=1,
            state=JobState(end.state) if end else JobState.PENDING,
            volumes=await self._volumes(job, revision),
            error=end.error if end else None,
            created_at=claim.received_at,
            updated_at=max((n.at for n in notes), default=claim.received_at),
            ended_at=end.at if end else None,
        )

    async def _notes(self, job: str, revision: int) -> list[RunNote]:
        prefix = storage.run_prefix(job, revision) + "generations/"
        bodies = [await self.objects.find(storage.RAW, prefix + name) for name in await self.objects.names(storage.RAW, prefix)]
        return [RunNote.model_validate_json(body) for body in bodies if body is not None]

    async def _volumes(self, job: str, revision: int) -> tuple[VolumeProgress, ...]:
        plan: FetchPlan | None = await read_plan(self.objects, job, revision)
        names = [v.volume for v in plan.volumes] if plan else []
        return tuple(
            [
                VolumeProgress(volume=v, committed=await self.objects.exists(storage.VOLUMES, storage.commit(v, revision)))
                for v in names
            ]
        )

    def _unreadable(self, what: str, error: ValidationError) -> None:
        log.error("unreadable", what=what, error=str(error)[:500])
        self.found.unreadable += 1


def _found(status: JobStatus) -> Fact:
    """The line of a job's history that says it was found in the store."""
    return Fact(
        id=f"{status.job}.{status.revision}.{status.generation}.rebuilt",
        type=event_type(JobStatus),
        job=status.job,
        revision=status.revision,
        generation=status.generation,
        at=status.updated_at,
        data={"state": str(status.state), "found_in": "store"},
        found=True,
    )
