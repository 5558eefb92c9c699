"""Long words looked up by their rarest part, on PostgreSQL.

An index of every three letters is entered by all of a word's, and the common ones among them cost the most: of `empiar-11759`
some are in every text. Any five letters lead to all that hold the word, and to few others where they are rare; the whole word is
then asked of those alone. Which are rare is counted among the newest volumes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from cataloger.filters import Filter
from cataloger.models import Volume
from cataloger.search import GRAM, PostgresSearch

PART = 5
"""Letters of a part: three keys of the index."""
LETTERS = 16
"""Of a word, the last ones, that are looked through for its parts."""
SAMPLED = 40
"""Volumes among which it is counted how many hold three letters."""
# Letters the index takes for such wherever the database's locale draws the line.
_RUN = re.compile("[0-9a-z]+")


async def looked_up(session: AsyncSession, filters: Sequence[Filter]) -> list[ColumnElement[bool]]:
    """What is asked of the volumes' own columns, as it is asked of all volumes at once."""
    parts = {each.word: parts_of(each.word) for each in filters if each.word is not None}
    held = await _held(session, {gram for some in parts.values() for part in some for gram in _grams(part)})
    conditions = []
    for each in filters:
        if each.word is None or not parts[each.word]:
            conditions.append(each.among_all)
            continue
        rarest = min(parts[each.word], key=lambda part: sorted(held[gram] for gram in _grams(part)))
        conditions.append(PostgresSearch().matches_by(each.word, rarest))
    return conditions


def parts_of(word: str) -> tuple[str, ...]:
    """The parts of a word by any of which it can be looked up; none where the word itself is short, or has no five letters."""
    if len(word) <= PART:
        return ()
    runs = _RUN.findall(word[-LETTERS:])
    return tuple(dict.fromkeys(run[n : n + PART] for run in runs for n in range(len(run) - PART + 1)))


def _grams(part: str) -> list[str]:
    return [part[n : n + GRAM] for n in range(len(part) - GRAM + 1)]


async def _held(session: AsyncSession, grams: Iterable[str]) -> dict[str, int]:
    """How many of the newest volumes hold each of these three letters."""
    names = sorted(grams)
    if not names:
        return {}
    some = select(Volume.search).order_by(Volume.updated_at.desc()).limit(SAMPLED).subquery()
    counts = (func.count().filter(some.c.search.contains(gram)).label(f"n{n}") for n, gram in enumerate(names))
    return dict(zip(names, (await session.execute(select(*counts))).one(), strict=True))
