"""How many volumes of a query have which source, modality, organism, dtype, licence, status, caveat and finding of a gate."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import CTE, ColumnElement, Text, and_, case, cast, desc, func, literal, select, true, union_all
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession

from cataloger.database import Database
from cataloger.filters import EQUAL, filters_of
from cataloger.gates import said_by
from cataloger.models import QualityResult, Volume
from cataloger.parts import looked_up
from cataloger.probing import NEWEST, among, first
from emporter_contracts.commands import CatalogQuery

FACETS = ("source", "status", "modality", "organism", "dtype", "licence", "role", "verified", "verdict", "held")
"""Columns that are counted; beside them `caveat`, and `gate`: those that warn or fail."""
FACET_ROWS = 2_000
"""Volumes of a narrowed list that are counted, the newest first: all of them would take seconds in a large catalog."""
FACET_RECORDS = 200
"""The same where an index leads to what may fit, and records have to be looked at."""
FACET_VALUES = 100
"""Values of one facet that are given, the most frequent first."""

QUICK_SECONDS = 0.05
"""A count that takes no longer is made for everybody anew."""
FRESH_SECONDS = 30.0
PATIENCE = 20.0


@dataclass(frozen=True, slots=True)
class Facets:
    """Counts by facet and value, over `counted` volumes; `complete` where those are all."""

    counts: dict[str, list[tuple[str | None, int]]]
    counted: int
    complete: bool

    def document(self) -> dict[str, Any]:
        named = {name: [{"value": v, "count": n} for v, n in values] for name, values in self.counts.items()}
        return {"facets": named, "counted": self.counted, "complete": self.complete}


async def count_some(session: AsyncSession, query: CatalogQuery) -> Facets:
    """Over the newest FACET_ROWS volumes a query asks for. Raises InvalidQueryError."""
    return await _count(session, query, FACET_ROWS)


async def count_all(session: AsyncSession) -> Facets:
    """Over the whole catalog."""
    return await _count(session, CatalogQuery(), None)


def narrows(query: CatalogQuery) -> bool:
    """Whether a query asks for less than the whole catalog."""
    asked = query.model_dump(exclude={"kind", "id", "sort", "cursor", "limit"}, exclude_defaults=True)
    return any(value or value is False for value in asked.values())


class WholeCatalog:
    """The counts over all volumes, made anew at most every FRESH_SECONDS: one pass over a large catalog takes a second or two."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._turn = asyncio.Lock()
        self._counts: Facets | None = None
        self._stale_at = 0.0

    async def counts(self) -> Facets:
        """Never older than FRESH_SECONDS or PATIENCE times what counting took, whichever is more."""
        async with self._turn:
            if self._counts is None or time.monotonic() > self._stale_at:
                began = time.monotonic()
                async with self._database.reading() as session:
                    self._counts = await count_all(session)
                took = time.monotonic() - began
                self._stale_at = time.monotonic() + (max(FRESH_SECONDS, PATIENCE * took) if took > QUICK_SECONDS else 0.0)
            return self._counts


async def _count(session: AsyncSession, query: CatalogQuery, limit: int | None) -> Facets:
    dialect = session.get_bind().dialect.name
    # As text, for the two databases write a boolean differently.
    counted_by: dict[str, ColumnElement[Any]] = {
        **{name: column.expression for name, column in EQUAL.items()},
        "held": case((Volume.held, "true"), else_="false"),
    }
    columns = [counted_by[name].label(name) for name in FACETS]
    filters = filters_of(query, dialect)
    fits, complete = [each.among_all for each in filters], True
    if limit is not None and dialect == "postgresql":
        if any(each.entered is not None for each in filters):
            newest = await first(session, NEWEST, [], filters, FACET_RECORDS)
            fits, complete = [among(newest.ids)], newest.left_at is None and len(newest.ids) < FACET_RECORDS
        else:
            fits = await looked_up(session, filters)
    rows = select(*columns, Volume.id, Volume.revision, Volume.caveats.label("caveats")).where(*fits)
    if limit is not None:
        rows = rows.order_by(*NEWEST.clauses()).limit(limit)
    matched = rows.cte("matched")
    counts: dict[str, list[tuple[str | None, int]]] = {name: [] for name in (*FACETS, "caveat", "gate")}
    counted = 0
    for facet, value, n in await session.execute(union_all(*_parts(matched, dialect)).order_by(desc("n"), "value")):
        if not facet:
            counted = n
        elif len(counts[facet]) < FACET_VALUES:
            counts[facet].append((value, n))
    return Facets(counts, counted, complete=complete and (limit is None or counted < limit))


def _parts(matched: CTE, dialect: str) -> list[Any]:
    """Facet, value and count of what matched, and how many did, under no name."""
    parts = [
        select(literal(name).label("facet"), cast(matched.c[name], Text).label("value"), func.count().label("n"))
        .select_from(matched)
        .group_by(matched.c[name])
        for name in FACETS
    ]
    items = _items(matched.c.caveats, dialect)
    parts.append(
        select(literal("caveat"), cast(items.c.value, Text), func.count())
        .select_from(matched.join(items, true()))
        .group_by(items.c.value)
    )
    found = and_(QualityResult.volume == matched.c.id, QualityResult.revision == matched.c.revision)
    parts.append(
        select(literal("gate"), cast(QualityResult.gate, Text), func.count())
        .select_from(matched.join(QualityResult, found))
        .where(said_by(None))
        .group_by(QualityResult.gate)
    )
    parts.append(select(literal(""), literal(""), func.count()).select_from(matched))
    return parts


def _items(caveats: Any, dialect: str) -> Any:
    if dialect == "postgresql":
        return func.jsonb_array_elements_text(cast(caveats, JSONB)).table_valued("value").lateral()
    return func.json_each(caveats).table_valued("value")
