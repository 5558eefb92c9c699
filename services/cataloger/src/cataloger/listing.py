"""Lists: filters, sorts, and pages that stay where they are while rows are added (keyset, not offset)."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from cataloger.errors import InvalidQueryError
from cataloger.filters import STATES, check, filters_of
from cataloger.models import Event, Job, Volume
from cataloger.probing import NEWEST, Found, Order, first, first_of_few
from cataloger.search import search_of, words_of
from emporter_contracts.commands import CatalogQuery
from emporter_contracts.ids import job_of

RELEVANCE = "relevance"
RANKED = 250
"""Volumes a search by relevance ranks, the newest of those found: ranking all that hold a common word takes seconds."""
WALKED = frozenset({"id", "created_at", "updated_at", "bytes", "max_voxel_nm"})
"""Sorts an index has: a list can be walked in their order."""
UNKNOWN_LAST = 1.0e300
"""Stands for an unknown number in a sort: after every real one."""

SHOWN = select(
    Volume.id,
    Volume.revision,
    Volume.status,
    Volume.job,
    Volume.summary,
    Job.revision.label("run"),
    Job.generation,
    Job.state,
).join_from(Volume, Job, Job.id == Volume.job, isouter=True)
"""What a list shows of volumes, several times as wide, and where their jobs stand; `run` is NULL for a job not heard of."""


@dataclass(frozen=True, slots=True)
class Sort(Order):
    """An order that a cursor can name a place in."""

    read: Callable[[Any], Any] = str
    """The value it is ordered by, as the cursor's JSON has it."""


@dataclass(frozen=True, slots=True)
class Slice:
    """One page of rows, and the cursor of the next; None where this was the last."""

    rows: list[Row[Any]]
    cursor: str | None
    complete: bool = True
    """Whether the list goes on to the last row that fits."""


def _time(value: Any) -> datetime:
    return datetime.fromisoformat(value)


VOLUME_SORTS: dict[str, tuple[ColumnElement[Any], Callable[[Any], Any]]] = {
    "id": (Volume.id.expression, str),
    "source": (Volume.source.expression, str),
    "status": (Volume.status.expression, str),
    "created_at": (Volume.created_at.expression, _time),
    "updated_at": (Volume.updated_at.expression, _time),
    "bytes": (func.coalesce(Volume.bytes, -1), int),
    "max_voxel_nm": (func.coalesce(Volume.max_voxel_nm, UNKNOWN_LAST), float),
}


async def volumes_page(session: AsyncSession, query: CatalogQuery) -> Slice:
    """What is SHOWN of the volumes a query asks for. Raises InvalidQueryError."""
    dialect = session.get_bind().dialect.name
    if query.sort == RELEVANCE:
        sort = _relevance(query, dialect)
        newest = await _newest(session, query, RANKED + 1)
        ranked = select(Volume.id).where(Volume.id.in_(newest.ids[:RANKED]))
        complete = len(newest.ids) <= RANKED and newest.left_at is None
        return replace(await _page(session, SHOWN, sort, query, ranked), complete=complete)
    # First which rows, from indexes alone where one holds all that is asked, then the rows themselves, which are wide.
    sort, filters = _volume_sort(query), filters_of(query, dialect)
    found = None
    if dialect == "postgresql" and _is_guessed(query):
        look = first if query.sort.removeprefix("-") in WALKED else first_of_few
        found = await look(session, sort, _place(sort, query), filters, query.limit + 1)
    if found is None:
        return await _page(session, SHOWN, sort, query, select(Volume.id).where(*(each.among_all for each in filters)))
    page = await _read(session, SHOWN.where(Volume.id.in_(found.ids)).order_by(*sort.clauses()), sort, query)
    return page if found.left_at is None else replace(page, cursor=write_cursor(*found.left_at, fingerprint(query)))


def _is_guessed(query: CatalogQuery) -> bool:
    """Whether PostgreSQL would have to guess how rare what is asked for is."""
    return bool(query.q or query.where or query.gate or "created_at" in query.ranges)


async def _newest(session: AsyncSession, query: CatalogQuery, limit: int) -> Found:
    """The newest volumes that fit."""
    dialect = session.get_bind().dialect.name
    filters = filters_of(query, dialect)
    if dialect == "postgresql":
        return await first(session, NEWEST, [], filters, limit)
    wanted = select(Volume.id).where(*(each.among_all for each in filters)).order_by(*NEWEST.clauses()).limit(limit)
    return Found(list(await session.scalars(wanted)))


async def jobs_page(session: AsyncSession, query: CatalogQuery) -> Slice:
    """(Job,) of the jobs a query asks for, the newest first. Raises InvalidQueryError."""
    check("state", query.status, STATES)
    filters = [Job.source == query.source] if query.source else []
    filters += [Job.state == query.status] if query.status else []
    sort = Sort(Job.created_at.expression, Job.id.expression, descending=True, read=_time)
    return await _page(session, select(Job).where(*filters), sort, query)


async def events_page(session: AsyncSession, volume: str, revision: int | None, query: CatalogQuery) -> Slice:
    """(Event,) of what was said about a volume or all volumes of its job, the oldest first."""
    filters = [Event.job == job_of(volume), or_(Event.volume == volume, Event.volume.is_(None))]
    filters += [Event.revision == revision] if revision is not None else []
    sort = Sort(Event.at.expression, Event.id.expression, read=_time)
    return await _page(session, select(Event).where(*filters), sort, query)


async def all_volumes(session: AsyncSession, after: str, limit: int) -> list[Volume]:
    """The next `limit` volumes after `after`, by id."""
    query = select(Volume).where(Volume.id > after).order_by(Volume.id).limit(limit)
    return list((await session.execute(query)).scalars())


def _volume_sort(query: CatalogQuery) -> Sort:
    name = query.sort.removeprefix("-")
    if name not in VOLUME_SORTS:
        known = ", ".join([*VOLUME_SORTS, RELEVANCE])
        raise InvalidQueryError(f"sort={query.sort[:40]!r} is not known", hint=f"one of {known}; - in front for descending")
    by, read = VOLUME_SORTS[name]
    return Sort(by, Volume.id.expression, query.sort.startswith("-"), read)


def _relevance(query: CatalogQuery, dialect: str) -> Sort:
    words = words_of(query.q)
    if not words:
        raise InvalidQueryError("sort=relevance needs words to be relevant to", hint="add q=, or sort by -updated_at")
    return Sort(search_of(dialect).rank(words), Volume.id.expression, descending=True, read=float)


async def _page(session: AsyncSession, rows: Any, sort: Sort, query: CatalogQuery, narrow: Select[Any] | None = None) -> Slice:
    """One page of `rows`; with `narrow`, of those whose identity it selects."""
    wanted = (rows if narrow is None else narrow).where(*_place(sort, query))
    wanted = wanted.order_by(*sort.clauses()).limit(query.limit + 1)
    if narrow is not None:
        wanted = rows.where(sort.identity.in_(wanted)).order_by(*sort.clauses())
    return await _read(session, wanted, sort, query)


def _place(sort: Sort, query: CatalogQuery) -> list[ColumnElement[bool]]:
    """What holds for the rows after the query's cursor."""
    if not query.cursor:
        return []
    value, identity = read_cursor(query.cursor, fingerprint(query))
    return [sort.after((_cursor_value(sort, value), identity))]


async def _read(session: AsyncSession, wanted: Any, sort: Sort, query: CatalogQuery) -> Slice:
    """A page of ordered rows, of which there is one more where another page follows."""
    # The sort's value rides along: it is what the cursor must say, as the database said it.
    place = (sort.by.label("place_by"), sort.identity.label("place_id"))
    found = (await session.execute(wanted.add_columns(*place))).all()
    kept = list(found[: query.limit])
    if len(found) <= query.limit:
        return Slice(kept, None)
    return Slice(kept, write_cursor(kept[-1].place_by, kept[-1].place_id, fingerprint(query)))


def _cursor_value(sort: Sort, value: Any) -> Any:
    try:
        return sort.read(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise _bad_cursor() from error


def fingerprint(query: CatalogQuery) -> str:
    """What a cursor belongs to: the query without its place in it."""
    asked = query.model_dump_json(exclude={"cursor", "limit", "id"})
    return hashlib.sha256(asked.encode()).hexdigest()[:8]


def write_cursor(value: Any, identity: str, asked: str) -> str:
    """A place in a list: after the row with this sort value and id."""
    place = [asked, value.isoformat() if isinstance(value, datetime) else value, identity]
    return base64.urlsafe_b64encode(json.dumps(place, separators=(",", ":")).encode()).decode().rstrip("=")


def read_cursor(cursor: str, asked: str) -> tuple[Any, str]:
    """The place a cursor names. Raises InvalidQueryError."""
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        belongs, value, identity = json.loads(text)
    except (ValueError, TypeError) as error:
        raise _bad_cursor() from error
    if belongs != asked or not isinstance(identity, str):
        raise _bad_cursor()
    return value, identity


def _bad_cursor() -> InvalidQueryError:
    return InvalidQueryError(
        "this cursor belongs to no such list", hint="begin again without cursor, and keep filters and sort while paging"
    )
