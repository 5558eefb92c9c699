"""After the bus was wiped: S3 is the truth, so everything on the bus is made again from it (PROTOCOL section 4).

Runs come back from `jobs/…`, what was fetched from a listing of the raw objects checked against the plan, what was converted from
the shards themselves (their checksums recomputed by reading), ended runs from their end notes. Nothing stored is fetched again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import google_crc32c

from emporter_contracts import storage, subjects
from emporter_contracts.events import ConvertDone, RawObjectStored, ShardWritten, VolumeComplete
from emporter_contracts.jobs import JobState, JobStatus, VolumeProgress
from emporter_contracts.plans import SEGMENT_BYTES, ConversionPlan, FetchPlan, Manifest, Segments, StoredRequest, Unit, VolumePlan
from emporter_runtime.bus import Bus
from emporter_runtime.commits import read_commit
from emporter_runtime.jobstore import JobStore, tally
from emporter_runtime.ledger import Ledger
from emporter_runtime.logging import get_logger
from emporter_runtime.objects import Objects
from emporter_runtime.plans import StoredPlans, required
from emporter_runtime.provision import provision
from emporter_runtime.registering import say_again
from emporter_runtime.runs import RunNote, last_generation
from emporter_runtime.settings import Settings

log = get_logger(__name__)


@dataclass(slots=True)
class Reconciled:
    """What was found and what was made again."""

    jobs: int = 0
    restored: list[str] = field(default_factory=list)
    resumed: list[str] = field(default_factory=list)
    units: int = 0
    tasks: int = 0
    volumes: int = 0


class Reconciler:
    """Makes the bus again from the store."""

    def __init__(self, bus: Bus, objects: Objects) -> None:
        self._bus = bus
        self._objects = objects
        self._jobs = JobStore(bus, objects)
        self._ledger = Ledger(bus)
        self._plans = StoredPlans(objects)
        self.found = Reconciled()

    async def run(self) -> Reconciled:
        """Every job of the store; those the bus knows are looked at too, for a ledger that lost entries."""
        for job in await self._objects.folders(storage.RAW, "jobs/"):
            self.found.jobs += 1
            await self._job(job)
        self.found.volumes += await say_again(self._objects, self._bus)
        return self.found

    async def _job(self, job: str) -> None:
        revisions = [storage.run_revision(f) for f in await self._objects.folders(storage.RAW, storage.job_prefix(job))]
        for revision in sorted(r for r in revisions if r is not None):
            await self._say_volumes(job, revision)
        latest, claim = await self._latest_run(job, [r for r in revisions if r is not None])
        if claim is None:
            return
        generation, ended = await last_generation(self._objects, job, latest)
        known = await self._jobs.read(job)
        if ended is not None:
            await self._restore_ended(job, latest, claim, ended, known)
            return
        if known is not None and not known.state.running:
            return
        await self._resume(job, latest, generation, claim, known)

    async def _latest_run(self, job: str, revisions: list[int]) -> tuple[int, StoredRequest | None]:
        """The newest run and its request; revisions that only changed metadata were never run."""
        for revision in sorted(revisions, reverse=True):
            claim = await self._plans.request(job, revision)
            if claim is None or claim.revising is None:
                return revision, claim
        return 0, None

    async def _restore_ended(
        self, job: str, revision: int, claim: StoredRequest, ended: RunNote, known: JobStatus | None
    ) -> None:
        if known is not None:
            return
        await self._jobs.restore(await self._status(job, revision, claim, ended))
        self.found.restored.append(job)

    async def _resume(self, job: str, revision: int, generation: int, claim: StoredRequest, known: JobStatus | None) -> None:
        """The ledger first, the state last: a steward that sees the job finds what is done.

        A run the bus forgot begins a new generation, so that its states are later than all that anybody heard before.
        """
        if known is None:
            generation += 1
        plan = await self._plans.plan(job, revision)
        if plan is not None:
            await self._restore_units(plan, generation)
            conversion = await self._plans.conversion(job, revision)
            for volume in conversion.volumes if conversion else ():
                await self._restore_tasks(required(conversion, "the conversion plan"), volume, generation)
        if known is None:
            await self._jobs.begin(job, claim.request, revision, generation)
            self.found.restored.append(job)
        self.found.resumed.append(job)

    async def _status(self, job: str, revision: int, claim: StoredRequest, ended: RunNote) -> JobStatus:
        """An ended run's state, as far as the store remembers it."""
        plan = await self._plans.plan(job, revision)
        conversion = await self._plans.conversion(job, revision)
        complete = ended.state == JobState.COMPLETE
        units = sum(o.segments for o in plan.objects) if plan else 0
        size = plan.raw_bytes if plan else 0
        return JobStatus(
            job=job,
            source=claim.request.source,
            source_id=claim.request.source_id,
            revision=revision,
            generation=ended.generation,
            version=1,
            state=JobState(ended.state),
            fetch=tally(units if complete else 0, units, size if complete else 0, size),
            volumes=await self._volumes(revision, plan, conversion),
            error=ended.error,
            created_at=claim.received_at,
            updated_at=ended.at,
            ended_at=ended.at,
        )

    async def _volumes(
        self, revision: int, plan: FetchPlan | None, conversion: ConversionPlan | None
    ) -> tuple[VolumeProgress, ...]:
        progress = []
        for volume in plan.volumes if plan else ():
            is_committed = await read_commit(self._objects, volume.volume, revision) is not None
            levels = conversion.volume(volume.volume).levels if conversion else ()
            done = tuple(tally(k.tasks if is_committed else 0, k.tasks, 0, 0) for k in levels)
            progress.append(VolumeProgress(volume=volume.volume, levels=done, committed=is_committed))
        return tuple(progress)

    async def _say_volumes(self, job: str, revision: int) -> None:
        """The commits are facts; a bus that lost them is told again, which the stream takes once."""
        for volume in await self._volumes_of(job, revision):
            commit = await read_commit(self._objects, volume, revision)
            if commit is None:
                continue
            fact = VolumeComplete(job=job, revision=revision, generation=1, volume=volume, digest=commit.digest)
            subject = subjects.volume_complete(volume, revision)
            await self._bus.say_once(subject, fact, "EVENTS", "convert.volume.complete", volume)
            self.found.volumes += 1

    async def _volumes_of(self, job: str, revision: int) -> list[str]:
        plan = await self._plans.plan(job, revision)
        if plan is not None:
            return [volume.volume for volume in plan.volumes]
        claim = await self._plans.request(job, revision)
        return [claim.revising.volume] if claim is not None and claim.revising is not None else []

    async def _restore_units(self, plan: FetchPlan, generation: int) -> None:
        """Units that lie in the store as the plan says; their hashes from the manifest or by reading."""
        manifest = await self._plans.manifest(plan.job, plan.revision)
        for unit in plan.units():
            subject = subjects.raw_object_stored(plan.job, plan.revision, unit.id)
            if await self._ledger.has(subject):
                continue
            digest = await self._unit_digest(plan, unit, manifest)
            if digest is None:
                continue
            size = plan.unit_bytes(unit)
            await self._ledger.enter(
                subject,
                RawObjectStored(
                    job=plan.job, revision=plan.revision, generation=generation, unit=unit.id, bytes=size, sha256=digest
                ),
            )
            self.found.units += 1

    async def _unit_digest(self, plan: FetchPlan, unit: Unit, manifest: Manifest | None) -> str | None:
        planned = plan.objects[unit.obj]
        if not isinstance(planned.location, Segments):
            # Read in place: the worker reads it again, which fetches nothing.
            return None
        if manifest is not None and planned.segments == 1:
            return manifest.objects[unit.obj].sha256
        key = storage.segment(planned.location.origin, unit.segment)
        body = await self._objects.find(storage.RAW, key)
        expected = min(SEGMENT_BYTES, planned.bytes - unit.segment * SEGMENT_BYTES)
        if body is None or len(body) != expected:
            return None
        return hashlib.sha256(body).hexdigest()

    async def _restore_tasks(self, plan: ConversionPlan, volume: VolumePlan, generation: int) -> None:
        """Tasks whose shards all lie in the store, checksums recomputed by reading."""
        root = storage.zarr_root(volume.volume, plan.revision)
        held = {info.key.removeprefix(root) async for info in self._objects.listing(storage.VOLUMES, root)}
        for k, level in enumerate(volume.levels):
            for n, box in enumerate(level.boxes()):
                keys = [
                    storage.shard_key(k, tuple(a // s for a, s in zip(tile.start, level.shard, strict=True)))  # type: ignore[arg-type]
                    for tile in box.tiles(level.shard)
                ]
                subject = subjects.convert_done(plan.job, plan.revision, volume.volume, k, n)
                if not all(key in held for key in keys) or await self._ledger.has(subject):
                    continue
                shards = tuple([await self._shard(root, key) for key in keys])
                await self._ledger.enter(
                    subject,
                    ConvertDone(
                        job=plan.job,
                        revision=plan.revision,
                        generation=generation,
                        volume=volume.volume,
                        level=k,
                        n=n,
                        shards=shards,
                    ),
                )
                self.found.tasks += 1

    async def _shard(self, root: str, key: str) -> ShardWritten:
        body = await self._objects.get(storage.VOLUMES, root + key)
        return ShardWritten(key=key, bytes=len(body), crc32c=f"{google_crc32c.value(body):08x}")


async def reconcile(settings: Settings) -> Reconciled:
    """Provision the bus and make it again from the store; may be run at any time, and twice."""
    await provision(settings)
    objects = Objects.open(settings)
    bus = Bus(settings, "reconcile")
    await bus.broker.connect()
    try:
        return await Reconciler(bus, objects).run()
    finally:
        await bus.broker.stop()
