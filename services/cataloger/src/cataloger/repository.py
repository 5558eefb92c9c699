"""Every statement that changes the catalog, and the look-ups by id. Lists are in `listing`, rules in `intake`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, delete, func, insert, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import undefer

from cataloger.database import Database
from cataloger.derived import Row, edges_of, results_of
from cataloger.facts import Fact
from cataloger.lineage import url_key
from cataloger.models import Annotation, Base, Decision, Event, Job, LineageEdge, QualityResult, RawObject, Revision, Volume
from cataloger.records import DERIVATION, State, columns, current, storable, waiting
from cataloger.validation import problems
from emporter_contracts.jobs import JobStatus
from emporter_contracts.plans import ManifestObject

ROWS_AT_ONCE = 1000
"""Of one INSERT: SQLite takes 32,766 values in a statement."""
REDERIVED_AT_ONCE = 500
"""Jobs looked up at once by `rederive`."""


class Writer:
    """The changes of one transaction. Whatever touches a job opens it first, which holds off everybody else who touches it."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def note(self, fact: Fact) -> bool:
        """List a fact; whether it was not listed before."""
        values = {name: getattr(fact, name) for name in Event.__mapper__.columns.keys()}  # noqa: SIM118  # no dict
        return await self._create(Event, values | {"data": storable(fact.data)})

    async def keep(self, decisions: Iterable[dict[str, Any]]) -> None:
        """Enter what rules decided, each once."""
        for row in decisions:
            await self._session.execute(self._insert(Decision).values(row).on_conflict_do_nothing())

    async def source_of(self, job: str) -> str:
        """The source of a job, empty where the job is not known."""
        return (await self._session.execute(select(Job.source).where(Job.id == job))).scalar_one_or_none() or ""

    async def open(self, heard: JobStatus) -> Job:
        """The row of a job, locked; made from `heard`, as a job without a state of its own yet, where there is none."""
        await self._create(Job, {"id": heard.job, **_job_columns(heard, version=0)})
        return (await self._session.execute(select(Job).where(Job.id == heard.job).with_for_update())).scalar_one()

    async def hold_off(self, job: str) -> None:
        """Keep everybody else from a job, as `open` does, where no state of it is at hand."""
        await self._session.execute(select(Job.id).where(Job.id == job).with_for_update())

    def move(self, job: Job, status: JobStatus) -> None:
        """Put a job into another state."""
        self._set(job, _job_columns(status, version=status.version))

    def announce(self, job: Job, status: JobStatus) -> None:
        """A run of which no state was heard yet: the first state that is heard replaces this one."""
        self._set(job, _job_columns(status, version=0))

    async def known(self, job: str, revision: int) -> set[str]:
        """The volumes of one run, without a stub that stands for them."""
        query = select(Revision.volume).where(Revision.job == job, Revision.revision == revision, Revision.stub.is_(False))
        return set((await self._session.execute(query)).scalars())

    async def states(self, job: str) -> dict[str, list[State]]:
        """Every revision of every volume of a job."""
        query = select(Revision.volume, Revision.revision, Revision.committed, Revision.removed_at, Revision.held)
        found: dict[str, list[State]] = {}
        for volume, revision, committed, removed_at, held in await self._session.execute(query.where(Revision.job == job)):
            found.setdefault(volume, []).append(State(revision, committed, removed_at is not None, held))
        return found

    async def drafts(self, job: str, revision: int) -> list[Revision]:
        """The records of a run's volumes that are not committed."""
        query = select(Revision).where(Revision.job == job, Revision.revision == revision, Revision.committed.is_(False))
        return list((await self._session.execute(query)).scalars())

    async def put(
        self, job: str, volume: str, revision: int, record: dict[str, Any], *, committed: bool = False, stub: bool = False
    ) -> None:
        """Store the record of one volume at one revision. A committed one is never replaced by a draft."""
        record = storable(record)
        row = await self._session.get(Revision, (volume, revision))
        if row is not None and row.committed and not committed:
            return
        await self._put(row, job, record, committed=committed, stub=stub, external=False)

    async def put_external(self, record: dict[str, Any]) -> None:
        """Store a record an outside script entered. A job of ours that makes this volume takes its place."""
        record = storable(record)
        await self.lock_volume(record["volume"])
        row = await self._session.get(Revision, (record["volume"], record["revision"]))
        await self._put(row, external_job(record["volume"]), record, committed=False, stub=False, external=True)
        await self.refresh(external_job(record["volume"]))

    async def _put(self, row: Revision | None, job: str, record: dict[str, Any], **flags: bool) -> None:
        if row is None:
            row = Revision(volume=record["volume"], revision=record["revision"], removed_at=None, held=False)
            self._session.add(row)
        else:
            await self._forget_derived([(row.volume, row.revision)])
        self._set(row, {"job": job, "record": record, "problems": problems(record), **flags})
        await self._enter_derived(_derived(row))

    async def amend(self, draft: Revision, record: dict[str, Any]) -> None:
        """Say something else of a draft."""
        before = _derived(draft)
        draft.record = record
        # A state moves every draft of its job, and hardly ever anything that is derived.
        if _derived(draft) != before:
            await self._derive(draft)

    async def drop_older_drafts(self, job: str, revision: int) -> None:
        """Forget what runs before `revision` planned and never committed."""
        await self._drop(Revision.job == job, Revision.revision < revision, Revision.committed.is_(False))

    async def drop_drafts_but(self, job: str, revision: int, volumes: Collection[str]) -> None:
        """Forget drafts of a run that are none of its volumes."""
        drafts = (Revision.job == job, Revision.revision == revision, Revision.committed.is_(False))
        await self._drop(*drafts, Revision.volume.not_in(volumes))

    async def drop_stub(self, job: str, revision: int) -> None:
        """Forget what stood for a run's volumes until they had names."""
        await self._drop(Revision.job == job, Revision.revision == revision, Revision.stub.is_(True))

    async def _drop(self, *which: ColumnElement[bool]) -> None:
        gone = delete(Revision).where(*which).returning(Revision.volume, Revision.revision)
        await self._forget_derived([(volume, revision) for volume, revision in await self._session.execute(gone)])

    async def _derive(self, row: Revision) -> None:
        await self._forget_derived([(row.volume, row.revision)])
        await self._enter_derived(_derived(row))

    async def _forget_derived(self, revisions: Sequence[tuple[str, int]]) -> None:
        for start in range(0, len(revisions), ROWS_AT_ONCE):
            some = revisions[start : start + ROWS_AT_ONCE]
            for model in (LineageEdge, QualityResult):
                await self._session.execute(delete(model).where(tuple_(model.volume, model.revision).in_(some)))

    async def _enter_derived(self, rows: tuple[list[Row], list[Row]]) -> None:
        # Not by values(): a statement with as many rows as there are gates would be compiled anew each time.
        for model, derived in zip((LineageEdge, QualityResult), rows, strict=True):
            if derived:
                await self._session.execute(insert(model), derived)

    async def mark_removed(self, volume: str, revision: int, at: datetime) -> bool:
        """Mark one revision as removed; whether that is news."""
        await self._session.flush()
        row = await self._session.get(Revision, (volume, revision))
        if row is None or row.removed_at is not None:
            return False
        row.removed_at = at
        return True

    async def mark_held(self, volume: str, revision: int, *, held: bool) -> bool:
        """Say whether one revision is held; whether that is news."""
        await self._session.flush()
        row = await self._session.get(Revision, (volume, revision))
        if row is None or row.held == held:
            return False
        row.held = held
        return True

    async def refresh(self, job: str) -> None:
        """Derive the rows of a job's volumes anew from their revisions."""
        await self._session.flush()
        states = await self.states(job)
        await self._session.execute(delete(Volume).where(Volume.job == job, Volume.id.not_in(states.keys())))
        for volume, found in states.items():
            await self._show(job, volume, found)

    async def _show(self, job: str, volume: str, states: Sequence[State]) -> None:
        shown = await self._session.get_one(Revision, (volume, current(states).revision))
        notes = await annotations_of(self._session, volume)
        values = columns(shown.record, shown.removed_at, notes, waiting(states))
        # With its deferred columns: what did not change must not be written, or every state would index all texts anew.
        row = await self._session.get(Volume, volume, options=[undefer("*")])
        if row is None:
            row = Volume(id=volume)
            self._session.add(row)
        elif row.derivation < DERIVATION:
            for revision in await self._session.scalars(select(Revision).where(Revision.volume == volume)):
                await self._derive(revision)
        values["summary"]["external"] = shown.external
        self._set(row, {**values, "job": job, "problems": shown.problems})

    async def put_origins(self, job: str, revision: int, objects: Sequence[ManifestObject]) -> None:
        """Note the raw objects of a run, in place of what was noted of it before."""
        await self._session.execute(delete(RawObject).where(RawObject.job == job, RawObject.revision == revision))
        insert = self._insert(RawObject)
        rows = [_origin(job, revision, n, o) for n, o in enumerate(objects)]
        for start in range(0, len(rows), ROWS_AT_ONCE):
            await self._session.execute(insert.values(rows[start : start + ROWS_AT_ONCE]).on_conflict_do_nothing())

    async def has_origins(self, job: str, revision: int) -> bool:
        """Whether the raw objects of a run are noted."""
        query = select(RawObject.n).where(RawObject.job == job, RawObject.revision == revision).limit(1)
        return (await self._session.execute(query)).first() is not None

    async def lock_volume(self, volume: str) -> str | None:
        """The job of a volume, both held from here on; None where there is no such volume."""
        query = select(Volume.job).where(Volume.id == volume)
        job = (await self._session.execute(query)).scalar_one_or_none()
        if job is not None:
            # In the order of everybody else: the job, if one of ours made the volume, then its rows.
            await self.hold_off(job)
            await self._session.execute(query.with_for_update())
        return job

    async def annotations(self, volume: str, but: str) -> int:
        """How many annotations a volume has, without the one of this key."""
        query = select(func.count()).where(Annotation.volume == volume, Annotation.key != but)
        return (await self._session.execute(query)).scalar_one()

    async def annotate(self, volume: str, key: str, value: str, at: datetime) -> None:
        """Set one annotation of a volume."""
        await self._session.merge(Annotation(volume=volume, key=key, value=storable(value), updated_at=at))

    async def drop_annotation(self, volume: str, key: str) -> bool:
        """Take one annotation away; whether it was there."""
        gone = delete(Annotation).where(Annotation.volume == volume, Annotation.key == key).returning(Annotation.key)
        return (await self._session.execute(gone)).first() is not None

    async def _create(self, model: type[Event | Job], values: dict[str, Any]) -> bool:
        insert = self._insert(model).values(values).on_conflict_do_nothing()
        return (await self._session.execute(insert.returning(model.id))).first() is not None

    def _insert(self, model: type[Base]) -> postgresql.Insert | sqlite.Insert:
        dialect = self._session.get_bind().dialect.name
        return postgresql.insert(model) if dialect == "postgresql" else sqlite.insert(model)

    def _set(self, row: Job | Revision | Volume, values: dict[str, Any]) -> None:
        for name, value in values.items():
            setattr(row, name, value)


def external_job(volume: str) -> str:
    """Stands for the job of a volume no job of ours made; no job has such an id."""
    return f"external:{volume}"


def _derived(row: Revision) -> tuple[list[Row], list[Row]]:
    """The edges and results of a revision."""
    edges = [] if row.stub else edges_of(row.job, row.record, external=row.external)
    return edges, results_of(row.record)


def _job_columns(status: JobStatus, version: int) -> dict[str, Any]:
    return {
        "source": status.source,
        "source_id": status.source_id,
        "state": str(status.state),
        "revision": status.revision,
        "generation": status.generation,
        "version": version,
        "created_at": status.created_at,
        "updated_at": status.updated_at,
        "status": storable(status.model_dump(mode="json")),
    }


def _origin(job: str, revision: int, n: int, raw: ManifestObject) -> dict[str, Any]:
    said = {name: storable(getattr(raw, name)) for name in ("path", "url", "sha256", "bytes", "version")}
    return {"job": job, "revision": revision, "n": n, "url_key": url_key(raw.url), **said}


async def revisions_made_by(session: AsyncSession, job: str, revision: int) -> list[Revision]:
    """The volumes of one run, without a stub that stands for them."""
    query = select(Revision).where(Revision.job == job, Revision.revision == revision, Revision.stub.is_(False))
    return list((await session.execute(query.order_by(Revision.volume))).scalars())


async def find_job(session: AsyncSession, job: str) -> Job | None:
    return await session.get(Job, job)


async def find_volume(session: AsyncSession, volume: str) -> Volume | None:
    return await session.get(Volume, volume)


async def annotations_of(session: AsyncSession, volume: str) -> dict[str, str]:
    """What users noted about a volume, by key."""
    query = select(Annotation.key, Annotation.value).where(Annotation.volume == volume).order_by(Annotation.key)
    return {row.key: row.value for row in await session.execute(query)}


async def underived(session: AsyncSession, limit: int) -> list[str]:
    """Jobs with volumes whose row was made by another derivation than ours."""
    query = select(Volume.job).where(Volume.derivation < DERIVATION).distinct().limit(limit)
    return list((await session.execute(query)).scalars())


async def locked_revision(session: AsyncSession, volume: str, revision: int) -> Revision | None:
    """The row, held until the transaction ends."""
    query = select(Revision).where(Revision.volume == volume, Revision.revision == revision).with_for_update()
    return (await session.execute(query)).scalar_one_or_none()


async def find_revision(session: AsyncSession, volume: str, revision: int) -> Revision | None:
    return await session.get(Revision, (volume, revision))


async def revisions_of(session: AsyncSession, volume: str) -> list[int]:
    """The revisions of a volume the catalog knows, oldest first."""
    query = select(Revision.revision).where(Revision.volume == volume).order_by(Revision.revision)
    return list((await session.execute(query)).scalars())


async def uncommitted(session: AsyncSession, volumes: Iterable[str], revision: int) -> list[str]:
    """Those of `volumes` whose final record the catalog does not have."""
    wanted = list(volumes)
    query = select(Revision.volume).where(
        Revision.volume.in_(wanted), Revision.revision == revision, Revision.committed.is_(True)
    )
    have = set((await session.execute(query)).scalars())
    return [v for v in wanted if v not in have]


async def held_revisions(session: AsyncSession, volume: str) -> set[int]:
    """The revisions of a volume that the catalog takes for held."""
    query = select(Revision.revision).where(Revision.volume == volume, Revision.held.is_(True))
    return set((await session.execute(query)).scalars())


async def readable_after(session: AsyncSession, volume: str, limit: int) -> list[str]:
    """The next `limit` volumes after `volume` that have a committed revision not marked as removed."""
    query = (
        select(Revision.volume)
        .where(Revision.volume > volume, Revision.committed.is_(True), Revision.removed_at.is_(None))
        .distinct()
        .order_by(Revision.volume)
        .limit(limit)
    )
    return list((await session.execute(query)).scalars())


async def rederive(database: Database) -> int:
    """Make the rows anew that an older version of this software derived; how many jobs were touched."""
    touched = 0
    while True:
        async with database.reading() as session:
            jobs = await underived(session, REDERIVED_AT_ONCE)
        for job in jobs:
            async with database.writing() as session:
                writer = Writer(session)
                await writer.hold_off(job)
                await writer.refresh(job)
        touched += len(jobs)
        if len(jobs) < REDERIVED_AT_ONCE:
            return touched
