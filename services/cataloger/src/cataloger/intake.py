"""What each fact does to the catalog. Facts come twice, late and out of order; what the catalog shows in the end is the same.

A state counts if it is newer than the one the job has (`records.rank`). A plan fills the drafts of the newest
run. A commit always counts: a revision that is committed is complete for ever, whatever later runs do.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from cataloger.database import Database
from cataloger.doorbells import RingFor, ring_nobody
from cataloger.facts import Fact
from cataloger.feed import Feed
from cataloger.models import Job
from cataloger.outbox import Telling
from cataloger.policy import decisions_of
from cataloger.records import document, moved, placeholder, planned, rank, rank_of, stub
from cataloger.repository import Writer, uncommitted
from cataloger.store import Final, read_final, read_manifest, read_plan
from emporter_contracts.events import RawManifestComplete, RawPlanReady, VolumeComplete
from emporter_contracts.ids import job_of
from emporter_contracts.jobs import JobState, JobStatus
from emporter_contracts.plans import FetchPlan, Manifest
from emporter_contracts.policy import PolicyDecided
from emporter_contracts.records import MetadataRecord
from emporter_runtime.logging import get_logger
from emporter_runtime.objects import Objects

log = get_logger(__name__)


class Intake:
    """Takes facts in. `ring` rings the doorbell of a subscription that is to be told one."""

    def __init__(
        self,
        database: Database,
        objects: Objects,
        feed: Feed,
        *,
        states_also_to: Sequence[str] = (),
        ring: RingFor = ring_nobody,
    ) -> None:
        self._states_also_to = states_also_to
        self._ring = ring
        self._database = database
        self._objects = objects
        self._feed = feed

    async def state_changed(self, status: JobStatus, fact: Fact) -> bool:
        """A job's state; whether it was news."""
        finals = await self._finals_of(status)
        async with self._telling() as (session, telling):
            writer = Writer(session)
            job = await writer.open(status)
            news = rank_of(status) > rank(job.revision, job.generation, job.state, job.version)
            if news or not fact.found:
                await writer.note(fact)
            if news and (job.version == 0 or (job.revision, job.generation, job.state) != (*status.run, status.state)):
                # Of a job's many states those that move it are told; the rest is progress.
                await telling.tell(fact, status.source, also=self._states_also_to)
            redrawn = await _advance(writer, job, status) if news else False
            for final in finals:
                await _commit(writer, job.id, final)
            if redrawn or finals:
                await writer.refresh(job.id)
        if news:
            self._feed.tell(status)
        return news

    async def plan_ready(self, event: RawPlanReady, fact: Fact) -> None:
        """The plan of a run lies in the store: its volumes take the place of the stub."""
        plan = await read_plan(self._objects, event.job, event.revision)
        if plan is None:
            # Events outlive runs: those that ended without a commit are taken away after some days.
            log.info("plan_gone", job=event.job, revision=event.revision)
            await self.listed(fact)
            return
        await self.plan_found(plan, event.generation, fact)

    async def plan_found(self, plan: FetchPlan, generation: int, fact: Fact | None = None) -> None:
        """The volumes of a plan become drafts, unless a newer run has begun."""
        heard = placeholder(plan.job, plan.source, plan.source_id, (plan.revision, generation), plan.planned_at)
        async with self._telling() as (session, telling):
            writer = Writer(session)
            if fact is not None and await writer.note(fact):
                await telling.tell(fact, plan.source)
            job = await _opened(writer, heard)
            if plan.revision < job.revision:
                return
            await writer.drop_older_drafts(job.id, plan.revision)
            await writer.drop_drafts_but(job.id, plan.revision, [v.volume for v in plan.volumes])
            status = JobStatus.model_validate(job.status)
            for volume in plan.volumes:
                record = document(planned(plan, volume, status))
                await writer.put(job.id, volume.volume, plan.revision, record)
            await writer.refresh(job.id)

    async def manifest_complete(self, event: RawManifestComplete, fact: Fact) -> None:
        """A run's raw objects are all stored and hashed: where its volumes will come from."""
        manifest = await read_manifest(self._objects, event.job, event.revision)
        async with self._telling() as (session, telling):
            writer = Writer(session)
            if await writer.note(fact):
                await telling.tell(fact, await writer.source_of(event.job))
            if manifest is not None:
                await writer.put_origins(event.job, event.revision, manifest.objects)

    async def manifest_found(self, manifest: Manifest) -> None:
        """The raw objects of a run, from the store."""
        async with self._database.writing() as session:
            await Writer(session).put_origins(manifest.job, manifest.revision, manifest.objects)

    async def volume_complete(self, event: VolumeComplete, fact: Fact) -> None:
        """A revision is committed: its final record is the catalog's."""
        final = await read_final(self._objects, event.volume, event.revision)
        await self.committed(event.job, event.generation, final, fact)

    async def committed(self, job: str, generation: int, final: Final, fact: Fact | None = None) -> None:
        """Take in what the store holds of a committed revision."""
        async with self._telling() as (session, telling):
            writer = Writer(session)
            if fact is not None and await writer.note(fact) and final.record is not None:
                await telling.tell(fact, final.record.get("source", ""))
            if final.record is not None:
                known = MetadataRecord.model_validate(final.record)
                # A correction was never run: the job stands where it stood.
                corrections = known.metadata.provenance.corrections
                run = (corrections[-1].arrays if corrections else final.revision, generation)
                await _opened(writer, placeholder(job, known.source, known.source_id, run, known.created_at))
                if not await writer.has_origins(job, final.revision):
                    await writer.put_origins(job, final.revision, known.metadata.provenance.objects)
            await _commit(writer, job, final)
            await writer.refresh(job)

    async def removed(self, volume: str, revisions: Mapping[int, datetime]) -> bool:
        """Revisions of a volume were taken out of the store; whether that is news."""
        job = job_of(volume)
        async with self._database.writing() as session:
            writer = Writer(session)
            await writer.hold_off(job)
            news = [await writer.mark_removed(volume, revision, at) for revision, at in revisions.items()]
            if any(news):
                await writer.refresh(job)
        return any(news)

    async def released(self, volume: str, revisions: Collection[int]) -> bool:
        """These revisions of a volume are held no more; whether that is news."""
        async with self._database.writing() as session:
            writer = Writer(session)
            await writer.hold_off(job_of(volume))
            news = [await writer.mark_held(volume, revision, held=False) for revision in revisions]
            if any(news):
                await writer.refresh(job_of(volume))
        return any(news)

    async def decided(self, event: PolicyDecided, fact: Fact) -> None:
        """What rules of the policy said; it changes no volume."""
        async with self._telling() as (session, telling):
            writer = Writer(session)
            await writer.keep(decisions_of(event, fact.id))
            if await writer.note(fact):
                await telling.tell(fact, event.source)

    async def listed(self, fact: Fact) -> None:
        """A fact that changes nothing the catalog shows but the volume's history."""
        async with self._telling() as (session, telling):
            writer = Writer(session)
            if await writer.note(fact):
                await telling.tell(fact, await writer.source_of(fact.job))

    @asynccontextmanager
    async def _telling(self) -> AsyncIterator[tuple[AsyncSession, Telling]]:
        """A transaction that tells; whoever is told in it hears a doorbell after it."""
        async with self._database.writing() as session:
            telling = Telling(session)
            yield session, telling
        for name in telling.told:
            await self._ring(name)

    async def _finals_of(self, status: JobStatus) -> list[Final]:
        """The final records of volumes a state calls committed and the catalog does not have.

        The event of a commit comes on another stream and may be later than the state: whoever sees a job complete must find its
        volumes complete too.
        """
        done = [v.volume for v in status.volumes if v.committed or status.state == JobState.COMPLETE]
        if not done:
            return []
        async with self._database.reading() as session:
            missing = await uncommitted(session, done, status.revision)
        finals = []
        for volume in missing:
            try:
                finals.append(await read_final(self._objects, volume, status.revision))
            except ValidationError as error:
                # The event of this commit carries it to the dead letters; the state itself is fine.
                log.warning("record_unreadable", volume=volume, revision=status.revision, error=str(error)[:500])
        return finals


async def _opened(writer: Writer, heard: JobStatus) -> Job:
    """The job's row, in the run of `heard` if that is of a newer revision."""
    job = await writer.open(heard)
    if heard.revision > job.revision:
        writer.announce(job, heard.model_copy(update={"created_at": job.created_at}))
    return job


async def _advance(writer: Writer, job: Job, status: JobStatus) -> bool:
    """Put the job and its drafts into a newer state; whether anything but the job's own row changed."""
    stayed = job.version > 0 and (job.revision, job.state) == (status.revision, str(status.state))
    writer.move(job, status)
    named = [v.volume for v in status.volumes]
    known = await writer.known(job.id, status.revision)
    if stayed and known and known.issuperset(named):
        return False
    await writer.drop_older_drafts(job.id, status.revision)
    if named or known:
        await writer.drop_stub(job.id, status.revision)
    elif not await writer.states(job.id):
        await writer.put(job.id, job.id, status.revision, document(stub(status, job.id)), stub=True)
    for volume in named:
        if volume not in known:
            await writer.put(job.id, volume, status.revision, document(stub(status, volume)))
    for draft in await writer.drafts(job.id, status.revision):
        await writer.amend(draft, moved(draft.record, status))
    return True


async def _commit(writer: Writer, job: str, final: Final) -> None:
    if final.record is not None:
        await writer.put(job, final.volume, final.revision, final.record, committed=True)
        await writer.mark_held(final.volume, final.revision, held=final.held)
    elif final.removed_at is None:
        log.error("record_missing", volume=final.volume, revision=final.revision, hint="emporter reconcile")
    if final.removed_at is not None:
        await writer.mark_removed(final.volume, final.revision, final.removed_at)
