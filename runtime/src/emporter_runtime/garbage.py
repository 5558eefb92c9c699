"""What nobody needs any more goes, in an order that leaves nothing half-usable (PROTOCOL section 3, "Garbage").

What a commit names is never touched here, but for superseded revisions where the operator keeps only the newest N. Everything
young is left alone: an upload may be about to be asked for, a raw object about to be named by a manifest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pydantic import Field

from emporter_contracts import storage, subjects
from emporter_contracts.commands import Message
from emporter_contracts.ids import VolumeRef
from emporter_contracts.jobs import JobState
from emporter_contracts.plans import FetchPlan, InboxKey, ManifestObject, PlannedObject, Segments
from emporter_contracts.records import MetadataRecord
from emporter_runtime.bus import Bus
from emporter_runtime.commits import committed, held, read_commit, removed
from emporter_runtime.jobstore import now
from emporter_runtime.ledger import Ledger
from emporter_runtime.logging import get_logger
from emporter_runtime.objects import ObjectInfo, Objects
from emporter_runtime.plans import StoredPlans
from emporter_runtime.policy.documents import Kept
from emporter_runtime.policy.judging import Policy
from emporter_runtime.policy.retention import Retention
from emporter_runtime.removal import delete_below, remove
from emporter_runtime.runs import RunNote, last_generation
from emporter_runtime.settings import Settings
from emporter_runtime.sharing import folders_of, leavings

YOUNG = timedelta(hours=24)
"""A commit younger than this is not superseded yet: somebody may be reading what it shows."""

KINDS: dict[type, Kept] = {Segments: "raw", InboxKey: "uploads"}
"""Which rules of retention are about an object, by where it lies."""

log = get_logger(__name__)


class GarbageSettings(Settings):
    """What is kept for how long."""

    keep_revisions: int | None = Field(default=None, ge=1)
    """The newest so many of a volume; None keeps all."""
    keep_failed_days: float = Field(default=7, ge=0, le=36_500)
    """How long a failed or cancelled run can be retried from where it stopped."""
    keep_unnamed_hours: float = Field(default=24, ge=0, le=876_000)
    """Raw objects and uploads younger than this are never garbage: what will name them may be about to be written, and an upload
    is named only when it is whole."""


class Expired(Message):
    """`expired.json`: this run's work was taken away; it can't be retried."""

    job: str
    revision: int
    at: datetime


@dataclass(slots=True)
class Collected:
    """What went, or, in a dry run, would go."""

    runs: list[str] = field(default_factory=list)
    ledgers: list[str] = field(default_factory=list)
    revisions: list[str] = field(default_factory=list)
    retention: list[str] = field(default_factory=list)
    """What went by rules of retention, each with its rule."""
    objects: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Run:
    """One revision of a job as the store shows it."""

    job: str
    revision: int
    ended: RunNote | None
    plan: FetchPlan | None


class Collector:
    """Finds garbage, and takes it away unless `dry`."""

    def __init__(
        self,
        objects: Objects,
        ledger: Ledger,
        settings: GarbageSettings,
        *,
        dry: bool,
        retention: Retention | None = None,
        clock: Callable[[], datetime] = now,
    ) -> None:
        self._objects = objects
        self._ledger = ledger
        self._keep = settings.keep_revisions
        self._resumable = timedelta(days=settings.keep_failed_days)
        self._young = timedelta(hours=settings.keep_unnamed_hours)
        self._dry = dry
        self._retention = retention or Retention(Policy())
        self._clock = clock
        self._plans = StoredPlans(objects)
        self.found = Collected()

    async def run(self) -> Collected:
        """Runs and revisions first: what they named may then be garbage too. Repeating it after an interruption is harmless."""
        runs = [run async for run in self._runs()]
        kept = [run for run in runs if not await self._collected(run)]
        await self._superseded(kept)
        await self._outlived()
        await self._buried()
        await self._unnamed(kept)
        log.info("collected", dry=self._dry, runs=len(self.found.runs), objects=self.found.objects, bytes=self.found.bytes)
        return self.found

    async def _runs(self) -> AsyncIterator[_Run]:
        for job in await self._objects.folders(storage.RAW, "jobs/"):
            for folder in await self._objects.folders(storage.RAW, storage.job_prefix(job)):
                revision = storage.run_revision(folder)
                if revision is not None:
                    _, ended = await last_generation(self._objects, job, revision)
                    yield _Run(job, revision, ended, await self._plans.plan(job, revision))

    async def _collected(self, run: _Run) -> bool:
        """Whether the run's work went: it ended long ago and nothing of it was committed."""
        if run.ended is None:
            if run.plan is None:
                await self._abandoned(run)
            return False
        if run.ended.state == JobState.COMPLETE:
            await self._forget_ledger(run)
            return False
        volumes = [v.volume for v in run.plan.volumes] if run.plan else []
        if self._clock() - run.ended.at < self._resumable or any(
            [await read_commit(self._objects, v, run.revision) for v in volumes]
        ):
            return False
        self.found.runs.append(f"{run.job}@r{run.revision}")
        if not self._dry:
            expired = Expired(job=run.job, revision=run.revision, at=self._clock())
            await self._objects.put_json(storage.RAW, storage.expired(run.job, run.revision), expired)
        await self._forget_ledger(run)
        for volume in volumes:
            await self._delete_below(storage.VOLUMES, storage.zarr_root(volume, run.revision))
            await self._delete_below(storage.VOLUMES, storage.revision_folder(volume, run.revision))
        return True

    async def _forget_ledger(self, run: _Run) -> None:
        for wildcard in (
            subjects.raw_objects_stored(run.job, run.revision),
            subjects.convert_dones(run.job, run.revision),
        ):
            if not await self._ledger.count(wildcard):
                continue
            self.found.ledgers.append(wildcard)
            if not self._dry:
                await self._ledger.purge(wildcard)

    async def _superseded(self, runs: list[_Run]) -> None:
        """Revisions beyond the newest N of their volume go as `rm` takes them."""
        if self._keep is None:
            return
        for volume in sorted({v.volume for run in runs if run.plan for v in run.plan.volumes}):
            readable = await committed(self._objects, volume) - await removed(self._objects, volume)
            # Of a held revision nobody knows yet whether it will stand for the volume: it neither counts nor goes.
            standing = sorted(readable - await held(self._objects, volume))
            for revision in standing[: -self._keep]:
                commit = await read_commit(self._objects, volume, revision)
                if commit is None or self._clock() - commit.committed_at < YOUNG:
                    continue
                await self._remove(VolumeRef(volume, revision))

    async def _outlived(self) -> None:
        """Revisions that a rule of retention lets go, the current one too; none that is held: somebody is to look at it."""
        if not self._retention.knows("volumes"):
            return
        for volume in await self._objects.folders(storage.VOLUMES):
            gone = await removed(self._objects, volume) | await held(self._objects, volume)
            for revision in sorted(await committed(self._objects, volume) - gone):
                commit = await read_commit(self._objects, volume, revision)
                body = await self._objects.find(storage.VOLUMES, storage.record(volume, revision))
                if commit is None or body is None or self._clock() - commit.committed_at < YOUNG:
                    continue
                record = MetadataRecord.model_validate_json(body)
                if rule := self._retention.of_volume(record, commit.committed_at, self._clock()):
                    self.found.retention.append(f"{volume}@r{revision} ({rule})")
                    await self._remove(VolumeRef(volume, revision))

    async def _remove(self, ref: VolumeRef) -> None:
        if str(ref) in self.found.revisions:
            return  # in a dry run it is still there
        self.found.revisions.append(str(ref))
        if not self._dry:
            gone = await remove(self._objects, ref)
            self.found.objects += gone.objects
            self.found.bytes += gone.bytes

    async def _buried(self) -> None:
        """What lies below a tombstone: whoever took a revision away was killed between the tombstone and the last object."""
        for volume in await self._objects.folders(storage.VOLUMES):
            for revision in sorted(await removed(self._objects, volume)):
                left = await leavings(self._objects, volume, revision)
                for prefix in left.prefixes:
                    await self._delete_below(storage.VOLUMES, prefix)
                await self._delete_those(left.keys)

    async def _abandoned(self, run: _Run) -> None:
        """What is left of a change of metadata whose commit never came, and by now can't come any more."""
        claim = await self._plans.request(run.job, run.revision)
        if claim is None or claim.revising is None or self._clock() - claim.received_at < YOUNG:
            return
        volume = claim.revising.volume
        if await read_commit(self._objects, volume, run.revision) is None:
            for prefix in folders_of(volume, run.revision):
                await self._delete_below(storage.VOLUMES, prefix)
            await self._delete_those((storage.hold(volume, run.revision),))

    async def _unnamed(self, runs: list[_Run]) -> None:
        """Raw objects and uploads that no kept manifest and no plan of an unended run names."""
        origins, uploads = await self._named(runs)
        await self._collect_unnamed(storage.RAW, "objects/", 1, origins)
        await self._collect_unnamed(storage.INBOX, "", 0, uploads)

    async def _named(self, runs: list[_Run]) -> tuple[set[str], set[str]]:
        origins: set[str] = set()
        uploads: set[str] = set()
        for run in runs:
            manifest = await self._plans.manifest(run.job, run.revision)
            named: list[PlannedObject | ManifestObject] = list(manifest.objects) if manifest else []
            if run.ended is None or run.ended.state != JobState.COMPLETE:
                named += list(run.plan.objects) if run.plan else []
                # Members of an uploaded archive are copied from it until the run is complete; their URL names it.
                uploads |= {o.url[6:].split("/", 1)[0] for o in named if o.url.startswith("inbox:")}
            let_go = self._let_go(run)
            for obj in named:
                if KINDS.get(type(obj.location)) in let_go:
                    continue
                if isinstance(obj.location, Segments):
                    origins.add(obj.location.origin)
                elif isinstance(obj.location, InboxKey):
                    uploads.add(obj.location.key.split("/", 1)[0])
        return origins, uploads

    def _let_go(self, run: _Run) -> set[Kept]:
        """Of what a run was made from, what need not be kept for its sake any more."""
        if run.plan is None or run.ended is None or run.ended.state != JobState.COMPLETE:
            return set()
        kinds: tuple[Kept, ...] = ("raw", "uploads")
        by = {what: self._retention.of_run(what, run.plan, run.ended.at, self._clock()) for what in kinds}
        self.found.retention.extend(f"{what} of {run.job}@r{run.revision} ({rule})" for what, rule in by.items() if rule)
        return {what for what, rule in by.items() if rule}

    async def _collect_unnamed(self, bucket: str, prefix: str, depth: int, named: set[str]) -> None:
        groups: dict[str, list[ObjectInfo]] = defaultdict(list)
        async for info in self._objects.listing(bucket, prefix):
            name = info.key.split("/")[depth]
            if name not in named:
                groups[name].append(info)
        for infos in groups.values():
            # The youngest decides: an upload that still grows is not garbage.
            if self._clock() - max(info.modified for info in infos) < self._young:
                continue
            self.found.objects += len(infos)
            self.found.bytes += sum(info.size for info in infos)
            if not self._dry:
                await self._objects.delete(bucket, [info.key for info in infos])

    async def _delete_those(self, keys: tuple[str, ...]) -> None:
        """Objects in VOLUMES, those of them that are there."""
        bodies = {key: body for key in keys if (body := await self._objects.find(storage.VOLUMES, key)) is not None}
        self.found.objects += len(bodies)
        self.found.bytes += sum(map(len, bodies.values()))
        if not self._dry:
            await self._objects.delete(storage.VOLUMES, list(bodies))

    async def _delete_below(self, bucket: str, prefix: str) -> None:
        if self._dry:
            infos = [info async for info in self._objects.listing(bucket, prefix)]
            count, size = len(infos), sum(info.size for info in infos)
        else:
            count, size = await delete_below(self._objects, bucket, prefix)
        self.found.objects += count
        self.found.bytes += size


async def collect(settings: GarbageSettings, *, dry: bool) -> Collected:
    """Collect garbage with the services' credentials. Raises PolicyFileError, TransientError while bus or store are away."""
    bus = Bus(settings, "gc")
    await bus.broker.connect()
    try:
        retention = Retention(Policy.read(settings.policy))
        objects, ledger = Objects.open(settings), Ledger(bus)
        return await Collector(objects, ledger, settings, dry=dry, retention=retention).run()
    finally:
        await bus.broker.stop()
