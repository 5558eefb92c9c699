"""What quality gates found, as a list over all revisions: the newest first."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, literal, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from cataloger.errors import InvalidQueryError
from cataloger.filters import VERDICTS, check
from cataloger.gates import parse, said_by
from cataloger.listing import fingerprint, read_cursor, write_cursor
from cataloger.models import QualityResult, Revision, Volume
from emporter_contracts.commands import CatalogQuery
from emporter_contracts.errors import InvalidValueError
from emporter_contracts.ids import VolumeRef

Document = dict[str, Any]
GONE = (False, False, True)
"""How a revision stands that was dropped between two statements."""
ORDER = (QualityResult.at, QualityResult.volume, QualityResult.revision, QualityResult.gate)


async def results_page(session: AsyncSession, query: CatalogQuery) -> tuple[list[Document], str | None]:
    """The results a query asks for by `gate`, `verdict` and `id` (a volume, or one revision), and the cursor of the next.

    Raises InvalidQueryError, InvalidValueError.
    """
    wanted = select(QualityResult).where(*_wanted(query))
    if query.cursor:
        wanted = wanted.where(tuple_(*ORDER) < tuple_(*_place(query)))
    wanted = wanted.order_by(*(column.desc() for column in ORDER)).limit(query.limit + 1)
    rows = list(await session.scalars(wanted))
    kept = rows[: query.limit]
    standing = await _standing(session, kept)
    items = [_document(row, *standing.get((row.volume, row.revision), GONE)) for row in kept]
    return items, _cursor(kept[-1], query) if len(rows) > query.limit else None


def _wanted(query: CatalogQuery) -> list[ColumnElement[bool]]:
    check("verdict", query.verdict, VERDICTS)
    conditions = [said_by(query.verdict)] if query.verdict else []
    if query.gate:
        gate, verdict = parse(query.gate)
        conditions += [QualityResult.gate == gate] + ([said_by(verdict)] if verdict else [])
    if query.id is not None:
        ref = VolumeRef.parse(query.id)
        conditions += [QualityResult.volume == ref.volume]
        conditions += [QualityResult.revision == ref.revision] if ref.revision is not None else []
    return conditions


async def _standing(session: AsyncSession, rows: Sequence[QualityResult]) -> dict[tuple[str, int], tuple[bool, bool, bool]]:
    """Of the revisions of results: whether each is shown, held, removed."""
    query = (
        select(Revision.volume, Revision.revision, Volume.revision, Revision.held, Revision.removed_at)
        .join(Volume, Volume.id == Revision.volume)
        .where(tuple_(Revision.volume, Revision.revision).in_({(row.volume, row.revision) for row in rows}))
    )
    return {
        (volume, revision): (revision == shown, held, removed_at is not None)
        for volume, revision, shown, held, removed_at in await session.execute(query)
    }


def _document(row: QualityResult, shown: bool, held: bool, removed: bool) -> Document:
    return {
        "volume": row.volume,
        "revision": row.revision,
        "gate": row.gate,
        "verdict": row.verdict,
        "at": row.at.isoformat().replace("+00:00", "Z"),
        "measured": row.measured,
        "threshold": row.threshold,
        "slices": row.slices,
        "evidence": row.evidence,
        "shown": shown,
        "held": held,
        "removed": removed,
    }


def _cursor(row: QualityResult, query: CatalogQuery) -> str:
    return write_cursor(row.at, f"{row.volume}@r{row.revision}/{row.gate}", fingerprint(query))


def _place(query: CatalogQuery) -> list[Any]:
    """The values of ORDER of the last row before this page."""
    value, identity = read_cursor(query.cursor or "", fingerprint(query))
    name, _, gate = identity.partition("/")
    try:
        at, ref = datetime.fromisoformat(value).astimezone(UTC), VolumeRef.parse(name)
    except (TypeError, ValueError, OverflowError, InvalidValueError) as error:
        raise InvalidQueryError("this cursor is none of ours", hint="take `cursor` of the page before") from error
    return [literal(at, QualityResult.at.type), ref.volume, ref.revision, gate]
