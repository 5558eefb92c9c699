"""The first rows of a list that PostgreSQL can't tell the rareness of: words, JSON values, times of creation.

Walking the list in its order is right for what is common and takes seconds for what is rare; entering the indexes of words
is right for the rare and takes seconds for the common. The planner guesses which, and guesses words badly. So it is tried:
PROBED rows are walked; how many of them fit tells how far to look, and whether to walk on or enter the indexes (decision 0010).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, literal, select, text, true
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

PROBED = 1_000
"""Rows walked first: some milliseconds, and enough for a page of what one volume in twenty has."""
WALKED = 10_000
"""Rows a second look walks at most: the indexes of several common words would take longer."""
RARE = 100
"""What fewer than one row in this many fits is entered by its index."""
FARTHEST = 64_000
"""Rows a second look may go through; what is rarer is looked for among all."""
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


async def first(
    session: AsyncSession, order: Order, place: Sequence[ColumnElement[bool]], filters: Sequence[ColumnElement[bool]], limit: int
) -> list[str]:
    """Ids of the first `limit` volumes after `place` that fit `filters`, in order."""
    near = end = await _end(session, order, place, PROBED)
    found = await _walk(session, order, [*place, *filters, *end], limit)
    if len(found) >= limit or not end:
        return found
    enough = PROBED * limit / len(found) * MARGIN if found else FARTHEST + 1
    if enough <= FARTHEST:
        end = await _end(session, order, place, int(enough))
        look = _walk if enough <= WALKED else _gather
        found = await look(session, order, [*place, *filters, *end], limit)
        if len(found) >= limit or not end:
            return found
    return await _gather(session, order, [*place, *await _by_the_rare(session, place, filters, near)], limit)


async def _by_the_rare(
    session: AsyncSession,
    place: Sequence[ColumnElement[bool]],
    filters: Sequence[ColumnElement[bool]],
    near: Sequence[ColumnElement[bool]],
) -> list[ColumnElement[bool]]:
    """`filters`, the common ones among them written so that no index is entered for them: `near` are the rows that are tried.

    PostgreSQL enters the index of a common word to intersect it with that of a rare one, which takes longer than looking at
    the few rows that hold the rare one.
    """
    if len(filters) < 2:
        return list(filters)
    counts = select(*(func.count().filter(one) for one in filters)).where(*place, *near)
    common = [count > PROBED / RARE for count in (await session.execute(counts)).one()]
    if all(common):
        return list(filters)
    return [one.is_(true()) if often else one for one, often in zip(filters, common, strict=True)]


async def _end(
    session: AsyncSession, order: Order, place: Sequence[ColumnElement[bool]], rows: int
) -> tuple[ColumnElement[bool], ...]:
    """The condition that holds for the next `rows` rows and those like the last of them; none where there are not so many."""
    last = await session.scalar(select(order.by).where(*place).order_by(*order.clauses()).offset(rows).limit(1))
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
