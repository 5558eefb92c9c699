"""The first rows of a list that PostgreSQL can't tell the rareness of: words, fields of records, times of creation.

Walking the list in its order is right for what is common and takes seconds for what is rare; entering the indexes of words
is right for the rare and takes seconds for the common. The planner guesses which, and guesses words badly. So it is tried:
some rows are walked; how many of them fit tells how far to look, and whether to walk on or enter the indexes (decision 0010).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    Subquery,
    Text,
    and_,
    case,
    exists,
    func,
    literal,
    select,
    text,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY, aggregate_order_by
from sqlalchemy.ext.asyncio import AsyncSession

from cataloger.filters import ONE_BY_ONE, Filter
from cataloger.models import Volume
from cataloger.parts import looked_up

PROBED = 1_000
"""Rows walked first: some milliseconds, and enough for a page of what one volume in twenty has."""
WALKED = 10_000
"""Rows a second look walks at most: the indexes of several common words would take longer."""
PROBED_RECORDS = 300
"""The same where records have to be looked at, which takes twenty times as long."""
SAMPLED = 60
"""Of those, what tells whether an index leads to few."""
WALKED_RECORDS = 1_000
"""Looked at at once after those. A page that no index leads to ends there, however few of them fit."""
WALKS = 2
"""How often, at most, while that should be enough to fill a page."""
COMMON = 4
"""What an index leads to more than one row in this many by, it is not entered for."""
RARE = 100
"""What fewer than one row in this many fits is entered by its index."""
FARTHEST = 64_000
"""Rows a second look may go through; what is rarer is looked for among all."""
FEW = 1_000
"""Volumes that are put in order each by itself, where the list could be walked in its order too."""
SORTED = 10_000
"""The same where it could not; their ids are handed from one statement to the next."""
SETTINGS = {"enable_hashjoin": "off", "enable_mergejoin": "off", "enable_seqscan": "off", "work_mem": "128MB"}
ENTERING = select(*(func.set_config(name, value, True) for name, value in SETTINGS.items()))
"""How an index is entered of which PostgreSQL can't tell how many volumes it finds, and guesses badly: few are looked up each by
its id, many in a hash table, however large it may think that is.
"""
MARGIN = 2.0
"""Times as many rows are looked through as should be enough, for what is not spread evenly."""

Place = tuple[Any, str]
"""A row of a list: what it is ordered by, and its id."""


@dataclass(frozen=True, slots=True)
class Order:
    """How a list is ordered: by an expression that is never NULL, then by id, so that no two rows are equal."""

    by: ColumnElement[Any]
    identity: ColumnElement[str]
    descending: bool = False

    def clauses(self) -> tuple[ColumnElement[Any], ...]:
        # Both in one direction: an index that is walked backwards gives no other.
        return tuple(each.desc() if self.descending else each.asc() for each in (self.by, self.identity))

    def after(self, place: Place) -> ColumnElement[bool]:
        """The rows that come after this one."""
        row, last = self._compared(place)
        return row < last if self.descending else row > last

    def until(self, place: Place) -> ColumnElement[bool]:
        """The rows that come before this one, and this one."""
        row, last = self._compared(place)
        return row >= last if self.descending else row <= last

    def _compared(self, place: Place) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
        value, identity = place
        return tuple_(self.by, self.identity), tuple_(literal(value, self.by.type), literal(identity, Text))


NEWEST = Order(Volume.updated_at.expression, Volume.id.expression, descending=True)


@dataclass(frozen=True, slots=True)
class Found:
    """Ids of volumes, in order."""

    ids: list[str]
    left_at: Place | None = None
    """Where looking was left off, for no index leads to what fits: the next page goes on from there."""


@dataclass(frozen=True, slots=True)
class _Near:
    """What the first rows of a list say."""

    fits: list[str]
    end: Place | None
    """The last of them; None where the list ends with them."""
    told: Sequence[int]
    """For each filter, how many of the first SAMPLED of them its index leads to."""


async def first(
    session: AsyncSession, order: Order, place: Sequence[ColumnElement[bool]], filters: Sequence[Filter], limit: int
) -> Found:
    """The first `limit` volumes after `place` that fit `filters`; fewer where there are no more, or where it was left off."""
    if any(each.entered is not None for each in filters):
        return await _first_by_records(session, order, place, filters, limit)
    near = end = await _nth(session, order, place, PROBED)
    found = await _walk(session, order, [*place, *_until(order, end)], filters, limit)
    if len(found) >= limit or near is None:
        return Found(found)
    enough = _enough(len(found), PROBED, limit)
    if enough <= FARTHEST:
        end = await _nth(session, order, place, enough)
        among = [*place, *_until(order, end)]
        if enough <= WALKED:
            found = await _walk(session, order, among, filters, limit)
        else:
            found = await _gather(session, order, [*among, *(each.holds for each in filters)], limit)
        if len(found) >= limit or end is None:
            return Found(found)
    leading = _leading(await _told(session, [*place, order.until(near)], filters), PROBED, filters)
    return Found(await _gather(session, order, [*place, *await _by_columns(session, filters, leading)], limit))


async def _first_by_records(
    session: AsyncSession, order: Order, place: Sequence[ColumnElement[bool]], filters: Sequence[Filter], limit: int
) -> Found:
    """The same where records have to be looked at: to walk takes longer, and an index leads to what they hold."""
    near = await _look_near(session, order, place, filters)
    found, end, looked_at = near.fits[:limit], near.end, PROBED_RECORDS
    for walks_left in range(WALKS, 0, -1):
        if len(found) >= limit or end is None:
            return Found(found)
        if _enough(len(found), looked_at, limit - len(found)) > MARGIN * walks_left * WALKED_RECORDS:
            break
        found, end = await _walk_on(session, order, place, end, filters, found, limit)
        looked_at += WALKED_RECORDS
    if len(found) >= limit or end is None:
        return Found(found)
    leading = _leading(near.told, min(SAMPLED, PROBED_RECORDS), filters)
    if any(leading):
        beyond = [*place, order.after(end)]
        return Found(found + await _led_to(session, order, beyond, filters, leading, limit - len(found)))
    if looked_at == PROBED_RECORDS:
        found, end = await _walk_on(session, order, place, end, filters, found, limit)
    return Found(found, None if len(found) >= limit else end)


async def _walk_on(
    session: AsyncSession,
    order: Order,
    place: Sequence[ColumnElement[bool]],
    end: Place,
    filters: Sequence[Filter],
    found: list[str],
    limit: int,
) -> tuple[list[str], Place | None]:
    """What was found until `end` and among the next WALKED_RECORDS rows, and the last of those; None where the list ends."""
    beyond = [*place, order.after(end)]
    last = await _nth(session, order, beyond, WALKED_RECORDS)
    return found + await _walk(session, order, [*beyond, *_until(order, last)], filters, limit - len(found)), last


async def _led_to(
    session: AsyncSession,
    order: Order,
    place: Sequence[ColumnElement[bool]],
    filters: Sequence[Filter],
    leading: Sequence[bool],
    limit: int,
) -> list[str]:
    """What the indexes of the `leading` filters find."""
    if entered := _entered(filters, leading):
        return await _enter(session, order, place, entered, filters, limit)
    return await _look_at(session, order, [*place, *await _by_columns(session, filters, leading)], filters, limit)


def _enough(found: int, among: int, limit: int) -> int:
    """How many rows should be looked through, where so many of some fit."""
    return int(among * limit / found * MARGIN) if found else FARTHEST + 1


async def first_of_few(
    session: AsyncSession, order: Order, place: Sequence[ColumnElement[bool]], filters: Sequence[Filter], limit: int
) -> Found | None:
    """As `first`, in an order no index has; None where no index leads to few."""
    rows = min(SAMPLED, PROBED_RECORDS)
    near = await _nth(session, NEWEST, [], rows) if any(each.entered is not None for each in filters) else None
    if near is None:
        return None
    leading = _leading(await _told(session, [NEWEST.until(near)], filters), rows, filters)
    volumes = await _few(session, _entered(filters, leading))
    return None if volumes is None else Found(await _look_at(session, order, [*place, among(volumes)], filters, limit))


async def _look_near(
    session: AsyncSession, order: Order, place: Sequence[ColumnElement[bool]], filters: Sequence[Filter]
) -> _Near:
    number = func.row_number().over(order_by=order.clauses())
    fits = and_(true(), *(each.holds for each in filters))
    told = [case((number <= SAMPLED, each.told)).label(f"told_{n}") for n, each in enumerate(filters)]
    columns = (order.identity.label("id"), order.by.label("by"), number.label("number"), fits.label("fits"), *told)
    near = select(*columns).where(*place).order_by(*order.clauses()).limit(PROBED_RECORDS).subquery("near")
    last = (func.array_agg(aggregate_order_by(each, near.c.number.desc()))[1] for each in (near.c.by, near.c.id))
    fitting = func.array_agg(aggregate_order_by(near.c.id, near.c.number)).filter(near.c.fits)
    counts = (func.count().filter(near.c[each.name]) for each in told)
    # All in one row: three hundred take longer to be handed over than to be found.
    rows, ids, by, identity, *counted = (await session.execute(select(func.count(), fitting, *last, *counts))).one()
    return _Near(ids or [], (by, identity) if rows == PROBED_RECORDS else None, counted)


async def _told(session: AsyncSession, near: Sequence[ColumnElement[bool]], filters: Sequence[Filter]) -> Sequence[int]:
    """For each filter, how many of the rows that are `near` its index leads to."""
    if len(filters) == 1 and filters[0].entered is None:
        return [0]  # there is no other index to enter
    counts = select(*(func.count().filter(each.told) for each in filters)).where(*near)
    return (await session.execute(counts)).one()


def _leading(told: Sequence[int], rows: int, filters: Sequence[Filter]) -> list[bool]:
    """Of each filter, whether its index leads to few: not if it leads to many of `rows`.

    PostgreSQL enters the index of a common word to intersect it with that of a rare one, which takes longer than looking at
    the few rows that hold the rare one. Where no index leads to few, those of other tables that lead to some do, for together
    they may be rare.
    """
    few = [count <= rows / RARE for count in told]
    if any(few):
        return few
    return [each.entered is not None and count <= rows / COMMON for each, count in zip(filters, told, strict=True)]


def _until(order: Order, end: Place | None) -> list[ColumnElement[bool]]:
    return [] if end is None else [order.until(end)]


async def _nth(session: AsyncSession, order: Order, place: Sequence[ColumnElement[bool]], rows: int) -> Place | None:
    """The last of the next `rows` rows; None where there are no more than that."""
    listed = select(order.by, order.identity).where(*place).order_by(*order.clauses()).offset(rows - 1).limit(2)
    found = (await session.execute(listed)).all()
    return (found[0][0], found[0][1]) if len(found) == 2 else None


async def _walk(
    session: AsyncSession, order: Order, place: Sequence[ColumnElement[bool]], filters: Sequence[Filter], limit: int
) -> list[str]:
    """Row by row, in the order of the list."""
    conditions = [*place, *(each.holds for each in filters)]
    await session.execute(text("SET LOCAL enable_bitmapscan = off"))
    found = await session.scalars(select(order.identity).where(*conditions).order_by(*order.clauses()).limit(limit))
    await session.execute(text("SET LOCAL enable_bitmapscan = on"))
    return list(found)


async def _gather(session: AsyncSession, order: Order, conditions: Sequence[ColumnElement[bool]], limit: int) -> list[str]:
    """All rows that fit, by whatever index finds them; then ordered."""
    return list(await session.scalars(select(_gathered(order, conditions).c.id).limit(limit)))


async def _look_at(
    session: AsyncSession, order: Order, conditions: Sequence[ColumnElement[bool]], filters: Sequence[Filter], limit: int
) -> list[str]:
    """The same, and then asked one after the other whether they fit, until there are enough."""
    return await _asked(session, _gathered(order, conditions), filters, limit)


def _gathered(order: Order, conditions: Sequence[ColumnElement[bool]]) -> Subquery:
    some = select(order.identity.label("id"), order.by.label("by")).where(*conditions).cte("some").prefix_with("MATERIALIZED")
    clauses = replace(order, by=some.c.by, identity=some.c.id).clauses()
    return select(some.c.id).order_by(*clauses).offset(ONE_BY_ONE).subquery("gathered")


async def _few(session: AsyncSession, entered: Sequence[Select[str]]) -> list[str] | None:
    """The volumes that one of the indexes finds; None where each finds more than SORTED."""
    for each in entered:
        found = each.limit(SORTED + 1).subquery()
        volumes = await session.scalar(select(func.array_agg(found.c.volume))) or []
        if len(volumes) <= SORTED:
            return volumes
    return None


async def _enter(
    session: AsyncSession,
    order: Order,
    place: Sequence[ColumnElement[bool]],
    entered: Sequence[Select[str]],
    filters: Sequence[Filter],
    limit: int,
) -> list[str]:
    """What the indexes find, in order, asked one after the other whether it fits, until there are enough.

    Few are put in order; where there are many, the list is walked past all others, and no farther than needed. One statement
    does either, for to enter an index may take as long as all the rest.
    """
    await session.execute(ENTERING)
    index, *others = entered
    # As a value and not as a condition: that would be made a join, and a join has no order.
    also = (index.selected_columns.volume.in_(each).is_(true()) for each in others)
    found = index.where(*also).cte("found").prefix_with("MATERIALIZED")
    volumes = select(found.c.volume)
    few = select(func.count()).select_from(volumes.limit(FEW + 1).subquery()).scalar_subquery() <= FEW
    put_in_order = _gathered(order, [*place, order.identity.in_(volumes), few])
    past_others = select(order.identity.label("id")).where(*place, order.identity.in_(volumes).is_(true()), ~few)
    walked = past_others.order_by(*order.clauses()).offset(ONE_BY_ONE).subquery("walked")
    return await _asked(session, union_all(select(put_in_order.c.id), select(walked.c.id)).subquery("listed"), filters, limit)


async def _asked(session: AsyncSession, listed: Subquery, filters: Sequence[Filter], limit: int) -> list[str]:
    fits = select(literal(1)).where(Volume.id == listed.c.id, *(each.holds for each in filters)).offset(ONE_BY_ONE)
    return list(await session.scalars(select(listed.c.id).where(exists(fits)).limit(limit)))


def _entered(filters: Sequence[Filter], leading: Sequence[bool]) -> list[Select[str]]:
    """The indexes of the leading filters; the first, where it is that of records, is asked what few keys tell of the others."""
    found, narrowed = [], []
    for each, leads in zip(filters, leading, strict=True):
        if leads and each.entered is not None:
            found.append(each)
        elif each.narrowed is not None:
            narrowed.append(each.narrowed)
    entered = [each.entered for each in found if each.entered is not None]
    return [entered[0].where(*narrowed), *entered[1:]] if found and found[0].of_record else entered


async def _by_columns(session: AsyncSession, filters: Sequence[Filter], leading: Sequence[bool]) -> list[ColumnElement[bool]]:
    """What is asked of the volumes' own columns, by which no index is entered but the leading ones'; where none leads, any."""
    own = [(each, leads or not any(leading)) for each, leads in zip(filters, leading, strict=True) if each.entered is None]
    return [
        *await looked_up(session, [each for each, leads in own if leads]),
        *(each.holds.is_(true()) for each, leads in own if not leads),
    ]


def among(volumes: list[str]) -> ColumnElement[bool]:
    """Whether a volume is one of these."""
    return Volume.id == func.any(literal(volumes, ARRAY(Text)))
