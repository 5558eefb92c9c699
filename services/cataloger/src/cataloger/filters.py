"""From a query to conditions on volumes: the one place REST, GraphQL and the bus share."""

from __future__ import annotations

from typing import Any, get_args

from sqlalchemy import ColumnElement, Text, cast, exists, func, literal, select
from sqlalchemy.dialects.postgresql import JSONB, JSONPATH
from sqlalchemy.orm import InstrumentedAttribute

from cataloger import jsonpaths, ranges
from cataloger.errors import InvalidQueryError
from cataloger.models import Annotation, Revision, Volume
from cataloger.records import REMOVED
from cataloger.search import search_of, words_of
from emporter_contracts.commands import CatalogQuery
from emporter_contracts.jobs import JobState
from emporter_contracts.records import Verdict

STATES = [str(s) for s in JobState]
VERDICTS = list(get_args(Verdict))
EQUAL: dict[str, InstrumentedAttribute[Any]] = {
    "source": Volume.source,
    "status": Volume.status,
    "modality": Volume.modality,
    "organism": Volume.organism,
    "dtype": Volume.dtype,
    "licence": Volume.licence,
    "role": Volume.role,
    "verified": Volume.verified,
    "verdict": Volume.verdict,
}
"""What a filter of this name compares; the values of most of them are facets."""


def volume_filters(query: CatalogQuery, dialect: str) -> list[ColumnElement[bool]]:
    """The conditions of a query, all of which must hold. Raises InvalidQueryError."""
    check("status", query.status, [*STATES, REMOVED])
    check("verdict", query.verdict, VERDICTS)
    wanted = {name: getattr(query, name) for name in EQUAL}
    found: list[ColumnElement[bool]] = [EQUAL[name] == text(name, value) for name, value in wanted.items() if value]
    if query.labels_of:
        # A plain id means every revision of that image.
        column = Volume.labels_of if "@" in query.labels_of else Volume.image
        found.append(column == text("labels_of", query.labels_of))
    if query.max_voxel_nm is not None:
        # An unknown voxel size is NULL and so never small enough.
        found.append(Volume.max_voxel_nm <= query.max_voxel_nm)
    found += [ranges.within(name, value) for name, value in query.ranges.items()]
    if query.caveat:
        found.append(_caveat(text("caveat", query.caveat), dialect))
    if query.managed is not None:
        # Records of before there were others do not say it.
        elsewhere = _record(jsonpaths.parse("managed=false"), dialect)
        found.append(~elsewhere if query.managed else elsewhere)
    if query.held is not None:
        found.append(Volume.held.expression if query.held else ~Volume.held)
    if query.annotation:
        found.append(_annotation(text("annotation", query.annotation)))
    if len(query.where) > jsonpaths.MAX_CONDITIONS:
        raise InvalidQueryError(
            f"{len(query.where)} conditions are too many", hint=f"give at most {jsonpaths.MAX_CONDITIONS} where="
        )
    found += [_record(jsonpaths.parse(condition), dialect) for condition in query.where]
    search = search_of(dialect)
    return found + [search.matches(word) for word in words_of(query.q)]


def text(name: str, value: str) -> str:
    """A value a database can compare to. Raises InvalidQueryError for NUL, which PostgreSQL has no text for."""
    if "\x00" in value:
        raise InvalidQueryError(f"{name} holds a NUL character", hint="leave it out")
    return value


def check(name: str, value: str | None, known: list[str]) -> None:
    """Raises InvalidQueryError where a value is none of those known."""
    if value and value not in known:
        raise InvalidQueryError(f"{name}={value[:40]!r} is not known", hint=f"one of {', '.join(known)}")


def _caveat(code: str, dialect: str) -> ColumnElement[bool]:
    if dialect == "postgresql":
        return cast(Volume.caveats, JSONB).contains([code])
    items = func.json_each(Volume.caveats).table_valued("value")
    return exists(select(literal(1)).select_from(items).where(items.c.value == code))


def _annotation(wanted: str) -> ColumnElement[bool]:
    key, equals, value = wanted.partition("=")
    conditions = [Annotation.volume == Volume.id, Annotation.key == key]
    conditions += [Annotation.value == value] if equals else []
    return exists(select(literal(1)).where(*conditions))


def _record(condition: jsonpaths.Condition, dialect: str) -> ColumnElement[bool]:
    shown = [Revision.volume == Volume.id, Revision.revision == Volume.revision]
    holds: ColumnElement[bool]
    if dialect == "postgresql":
        path = cast(cast(literal(condition.jsonpath()), Text), JSONPATH)
        holds = cast(Revision.record, JSONB).path_exists(path)
    else:
        holds = func.emporter_json_match(Revision.record, condition.document()) == 1
    return exists(select(literal(1)).where(*shown, holds))
