"""The first rows of a list that PostgreSQL can't tell the rareness of: words, JSON values, times of creation.

Walking the list in its order is right for what is common and takes seconds for what is rare; entering the indexes of words
is right for the rare and takes seconds for the common. The planner guesses which, and guesses words badly. So it is tried:
PROBED rows are walked; how many of them fit tells how far to look, and whether to walk on or enter the indexes (decision 0010).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Text, exists, func, literal, select, text, true
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from cataloger.filters import ONE_BY_ONE, Filter
from cataloger.models import Revision, Volume

PROBED = 1_000
"""Rows walked first: some milliseconds, and enough for a page of what one volume in twenty has."""
WALKED = 10_000
"""Rows a second look walks at most: the indexes of several common words would take longer."""
PROBED_RECORDS = 250
"""The same where records have to be looked at, which takes twenty times as long."""
WALKED_RECORDS = 4_000
COMMON = 4
"""What more than one row in this many fits is walked, however long the page."""
RARE = 100
"""What fewer than one row in this many fits is entered by its index."""
FARTHEST = 64_000
"""Rows a second look may go through; what is rarer is looked for among all."""
FEW = 10_000
"""Volumes whose ids are handed from one statement to the next at most."""
MARGIN = 2.0
"""Times as many rows are looked through as should be enough, for what is not spread evenly."""


@dataclass(frozen=True, slots=True)
class Order:
    """How a list is ordered: by an expression an index has, then by id."""

    by: ColumnElement[Any]
    identity: InstrumentedAttribute[str]
    descending: bool

    def clauses(self) -> tuple[ColumnElement[Any], ...]:
        return (self.by.desc() if self.descending else self.by.asc(), self.identity.asc())


NEWEST = Order(Volume.updated_at.expression, Volume.id, descending=True)


async def first(
    session: AsyncSession, order: Order, place: Sequence[ColumnElement[bool]], filters: Sequence[Filter], limit: int
) -> list[str]:
    """Ids of the first `limit` volumes after `place` that fit `filters`, in order."""
    if any(each.entered is not None for each in filters):
        return await _first_by_records(session, order, place, filters, limit)
    near = end = await _end(session, order, place, PROBED)
    hold = [each.holds for each in filters]
    found = await _walk(session, order, [*place, *hold, *end], limit)
    if len(found) >= limit or not end:
        return found
    enough = _enough(len(found), PROBED, limit)
    if enough <= FARTHEST:
        end = await _end(session, order, place, enough)
        look = _walk if enough <= WALKED else _gather
        found = await look(session, order, [*place, *hold, *end], limit)
        if len(found) >= limit or not end:
            return found
    rest, _ = _parted(await _common(session, [*place, *near], filters))
    return await _gather(session, order, [*place, *rest], limit)


async def _first_by_records(
    session: AsyncSession, order: Order, place: Sequence[ColumnElement[bool]], filters: Sequence[Filter], limit: int
) -> list[str]:
    """The same where records have to be looked at: to walk takes longer, and an index leads to what they hold."""
    near = end = await _end(session, order, place, PROBED_RECORDS)
    hold = [each.holds for each in filters]
    found = await _walk(session, order, [*place, *hold, *end], limit)
    if len(found) >= limit or not end:
        return found
    common, enough = len(found) > PROBED_RECORDS / COMMON, _enough(len(found), PROBED_RECORDS, limit)
    end = await _end(session, order, place, enough) if found and not common else ()
    if common or (end and enough <= WALKED_RECORDS):
        found = await _walk(session, order, [*place, *hold, *end], limit)
        if len(found) >= limit or not end:
            return found
    rest, rare = _parted(await _common(session, [*place, *near], filters))
    if not rare:
        return await _gather(session, order, [*place, *rest], limit)
    if end and enough > WALKED_RECORDS:
        found = await _enter(session, order, [*place, *end], filters, rare, limit, by_id=False)
        if len(found) >= limit:
            return found
    return await _enter(session, order, place, filters, rare, limit, by_id=True)


def _enough(found: int, among: int, limit: int) -> int:
    """How many rows should be looked through, where so many of some fit."""
    return int(among * limit / found * MARGIN) if found else FARTHEST + 1


async def narrowed(session: AsyncSession, filters: Sequence[Filter]) -> list[ColumnElement[bool]]:
    """What holds for the volumes that fit `filters`, for a list that is not walked: their ids, where few fit and an index leads
    to them, which PostgreSQL could not know.
    """
    hold = [each.holds for each in filters]
    if not any(each.entered is not None for each in filters):
        return hold
    near = await _end(session, NEWEST, [], PROBED_RECORDS)
    if not near or len(await _walk(session, NEWEST, [*hold, *near], PROBED_RECORDS)) > PROBED_RECORDS / RARE:
        return hold
    _, rare = _parted(await _common(session, near, filters))
    found = await _enter(session, NEWEST, [], filters, rare, FEW + 1, by_id=True) if rare else []
    return [Volume.id == func.any(literal(found, ARRAY(Text)))] if rare and len(found) <= FEW else hold


def _parted(common: Sequence[tuple[Filter, bool]]) -> tuple[list[ColumnElement[bool]], list[Filter]]:
    """Conditions on volumes, and the filters by which revisions are entered."""
    rare = [one for one, often in common if one.entered is not None and not often]
    return [one.holds.is_(true()) if often else one.holds for one, often in common if often or one.entered is None], rare


async def _common(
    session: AsyncSession, near: Sequence[ColumnElement[bool]], filters: Sequence[Filter]
) -> list[tuple[Filter, bool]]:
    """Filters, and of each whether it is common among the rows `near`, so that no index should be entered for it.

    PostgreSQL enters the index of a common word to intersect it with that of a rare one, which takes longer than looking at
    the few rows that hold the rare one. Where all are common, no one is.
    """
    if len(filters) < 2:
        return [(one, False) for one in filters]
    counts = select(func.count(), *(func.count().filter(one.holds) for one in filters)).where(*near)
    rows, *held = (await session.execute(counts)).one()
    common = [count > rows / RARE for count in held]
    return [(one, often and not all(common)) for one, often in zip(filters, common, strict=True)]


async def _end(
    session: AsyncSession, order: Order, place: Sequence[ColumnElement[bool]], rows: int
) -> tuple[ColumnElement[bool], ...]:
    """The condition that holds for the next `rows` rows and those like the last of them; none where there are not so many."""
    by = order.by.desc() if order.descending else order.by.asc()
    last = await session.scalar(select(order.by).where(*place).order_by(by).offset(rows).limit(1))
    if last is None:
        return ()
    return (order.by >= literal(last) if order.descending else order.by <= literal(last),)


async def _walk(session: AsyncSession, order: Order, conditions: Sequence[ColumnElement[bool]], limit: int) -> list[str]:
    """Row by row, in the order of the list."""
    await session.execute(text("SET LOCAL enable_bitmapscan = off"))
    found = await session.scalars(select(order.identity).where(*conditions).order_by(*order.clauses()).limit(limit))
    await session.execute(text("SET LOCAL enable_bitmapscan = on"))
    return list(found)


async def _gather(session: AsyncSession, order: Order, conditions: Sequence[ColumnElement[bool]], limit: int) -> list[str]:
    """All rows that fit, by whatever index finds them; then ordered."""
    fits = select(order.identity.label("id"), order.by.label("by")).where(*conditions).cte("fits").prefix_with("MATERIALIZED")
    by = fits.c.by.desc() if order.descending else fits.c.by.asc()
    return list(await session.scalars(select(fits.c.id).order_by(by, fits.c.id.asc()).limit(limit)))


async def _enter(
    session: AsyncSession,
    order: Order,
    place: Sequence[ColumnElement[bool]],
    filters: Sequence[Filter],
    rare: Sequence[Filter],
    limit: int,
    *,
    by_id: bool,
) -> list[str]:
    """All that may fit by the index of fields, put in order, and then asked one after the other until there are enough.

    They are looked up each `by_id`, or among the ids of a `place` with an end. PostgreSQL can't choose: it guesses badly how many
    the index of fields finds.
    """
    joins = "off" if by_id else "on"
    settings = {
        "enable_hashjoin": joins,
        "enable_mergejoin": joins,
        "enable_seqscan": "off",
        "max_parallel_workers_per_gather": "0",
    }
    await session.execute(select(*(func.set_config(name, value, True) for name, value in settings.items())))
    keys = [one.entered for one in rare if one.entered is not None]
    found = select(Revision.volume).where(*keys).cte("found").prefix_with("MATERIALIZED")
    among = select(order.identity.label("id")).where(order.identity.in_(select(found.c.volume)), *place)
    ordered = among.order_by(*order.clauses()).cte("ordered").prefix_with("MATERIALIZED")
    fits = select(literal(1)).where(Volume.id == ordered.c.id, *(each.holds for each in filters)).offset(ONE_BY_ONE)
    return list(await session.scalars(select(ordered.c.id).where(exists(fits)).limit(limit)))
