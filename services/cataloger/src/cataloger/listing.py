"""Lists: filters, sorts, and pages that stay where they are while rows are added (keyset, not offset)."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from cataloger.errors import InvalidQueryError
from cataloger.models import Event, Job, Volume
from cataloger.records import REMOVED
from emporter_contracts.commands import CatalogQuery
from emporter_contracts.ids import job_of
from emporter_contracts.jobs import JobState

MAX_WORDS = 8
"""Words of a search that count; each is a scan of the text column."""
UNKNOWN_LAST = 1.0e300
"""Stands for an unknown number in a sort: after every real one."""

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Sort:
    """One way to order a list: by an expression that is never NULL, then by id, so that no two rows are equal."""

    by: ColumnElement[Any]
    identity: InstrumentedAttribute[str]
    read: Callable[[Any], Any] = str
    descending: bool = False

    def after(self, value: Any, identity: str) -> ColumnElement[bool]:
        """The rows that come after one with this value and id."""
        beyond = self.by < value if self.descending else self.by > value
        return or_(beyond, and_(self.by == value, self.identity > identity))

    def clauses(self) -> tuple[ColumnElement[Any], ...]:
        return (self.by.desc() if self.descending else self.by.asc(), self.identity.asc())


@dataclass(frozen=True, slots=True)
class Slice:
    """One page of rows, and the cursor of the next; None where this was the last."""

    rows: list[Row]
    cursor: str | None


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
STATES = [str(s) for s in JobState]


async def volumes_page(session: AsyncSession, query: CatalogQuery) -> Slice:
    """(Volume, Job or None) of the volumes a query asks for. Raises InvalidQueryError."""
    name = query.sort.removeprefix("-")
    if name not in VOLUME_SORTS:
        raise InvalidQueryError(
            f"sort={query.sort[:40]!r} is not known", hint=f"one of {', '.join(VOLUME_SORTS)}; - in front for descending"
        )
    by, read = VOLUME_SORTS[name]
    sort = Sort(by, Volume.id, read, descending=query.sort.startswith("-"))
    rows = select(Volume, Job).join(Job, Job.id == Volume.job, isouter=True).where(*_volume_filters(query))
    return await _page(session, rows, sort, query)


async def jobs_page(session: AsyncSession, query: CatalogQuery) -> Slice:
    """(Job,) of the jobs a query asks for, the newest first. Raises InvalidQueryError."""
    _check("state", query.status, STATES)
    filters = [Job.source == query.source] if query.source else []
    filters += [Job.state == query.status] if query.status else []
    sort = Sort(Job.created_at.expression, Job.id, _time, descending=True)
    return await _page(session, select(Job).where(*filters), sort, query)


async def events_page(session: AsyncSession, volume: str, revision: int | None, query: CatalogQuery) -> Slice:
    """(Event,) of what was said about a volume or all volumes of its job, the oldest first."""
    filters = [Event.job == job_of(volume), or_(Event.volume == volume, Event.volume.is_(None))]
    filters += [Event.revision == revision] if revision is not None else []
    sort = Sort(Event.at.expression, Event.id, _time)
    return await _page(session, select(Event).where(*filters), sort, query)


async def all_volumes(session: AsyncSession, after: str, limit: int) -> list[Volume]:
    """The next `limit` volumes after `after`, by id."""
    query = select(Volume).where(Volume.id > after).order_by(Volume.id).limit(limit)
    return list((await session.execute(query)).scalars())


def _volume_filters(query: CatalogQuery) -> list[ColumnElement[bool]]:
    _check("status", query.status, [*STATES, REMOVED])
    equal = {Volume.source: query.source, Volume.status: query.status, Volume.modality: query.modality}
    filters: list[ColumnElement[bool]] = [column == value for column, value in equal.items() if value]
    if query.max_voxel_nm is not None:
        # An unknown voxel size is NULL and so never small enough.
        filters.append(Volume.max_voxel_nm <= query.max_voxel_nm)
    words = (query.q or "").replace("\x00", " ").lower().split()[:MAX_WORDS]
    return filters + [Volume.search.contains(word, autoescape=True) for word in words]


def _check(name: str, value: str | None, known: list[str]) -> None:
    if value and value not in known:
        raise InvalidQueryError(f"{name}={value[:40]!r} is not known", hint=f"one of {', '.join(known)}")


async def _page(session: AsyncSession, rows: Select[*tuple[Any, ...]], sort: Sort, query: CatalogQuery) -> Slice:
    asked = fingerprint(query)
    if query.cursor:
        value, identity = read_cursor(query.cursor, asked)
        rows = rows.where(sort.after(_cursor_value(sort, value), identity))
    # The sort's value rides along: it is what the cursor must say, as the database said it.
    rows = rows.add_columns(sort.by, sort.identity.expression).order_by(*sort.clauses()).limit(query.limit + 1)
    found = [tuple(row) for row in await session.execute(rows)]
    kept = [row[:-2] for row in found[: query.limit]]
    if len(found) <= query.limit:
        return Slice(kept, None)
    value, identity = found[query.limit - 1][-2:]
    return Slice(kept, write_cursor(value, identity, asked))


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
