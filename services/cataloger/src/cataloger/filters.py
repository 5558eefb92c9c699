"""From a query to conditions on volumes: the one place REST, GraphQL and the bus share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from sqlalchemy import ColumnElement, Select, Text, cast, exists, func, literal, or_, select, true
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, JSONPATH
from sqlalchemy.orm import InstrumentedAttribute

from cataloger import gates, jsonpaths, ranges
from cataloger.errors import InvalidQueryError
from cataloger.fields import Keys, keys_of, led_to, looked_up_at_once, tells
from cataloger.models import Annotation, QualityResult, Revision, Volume
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


ONE_BY_ONE = 0
"""Offset of a subquery that PostgreSQL then asks of one volume after the other, and never of all records at once."""
FEW_KEYS = 4
"""Keys of a condition that an index is asked beside those of a rarer one: each takes a descent for each record of that."""


@dataclass(frozen=True, slots=True)
class Filter:
    """One condition on volumes."""

    holds: ColumnElement[bool]
    """As it is asked of one volume after the other."""
    looked_up: ColumnElement[bool] | None = None
    """The same as it is asked of all volumes at once, where PostgreSQL would find them by an index only so."""
    entered: Select[str] | None = None
    """For what is asked of another table: the volumes that may meet it, as an index of that table has it."""
    led_to: ColumnElement[bool] | None = None
    """With `entered`: holds for the volumes that has; where there is none, for those this holds for."""
    of_record: bool = False
    """Whether `entered` is the index of records."""
    narrowed: ColumnElement[bool] | None = None
    """What that index is asked at once where it is entered for another filter; None where this takes too many keys."""
    word: str | None = None
    """The word that is looked for, where it is one."""

    @property
    def among_all(self) -> ColumnElement[bool]:
        return self.holds if self.looked_up is None else self.looked_up

    @property
    def told(self) -> ColumnElement[bool]:
        """Holds for the volumes an index leads to."""
        return self.holds if self.led_to is None else self.led_to


def filters_of(query: CatalogQuery, dialect: str) -> list[Filter]:
    """The conditions of a query, all of which must hold. Raises InvalidQueryError."""
    if len(query.where) > jsonpaths.MAX_CONDITIONS:
        raise InvalidQueryError(
            f"{len(query.where)} conditions are too many", hint=f"give at most {jsonpaths.MAX_CONDITIONS} where="
        )
    asked = looked_up_at_once([jsonpaths.parse(condition) for condition in query.where])
    plain = [Filter(condition) for condition in _plain(query, dialect)]
    words = [Filter(search_of(dialect).matches(word), word=word) for word in words_of(query.q)]
    gate = [_of_gate(query.gate, dialect)] if query.gate else []
    return plain + words + gate + [_of_record(some, dialect) for some in asked]


def _plain(query: CatalogQuery, dialect: str) -> list[ColumnElement[bool]]:
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
        found.append(Volume.managed.expression if query.managed else ~Volume.managed)
    if query.held is not None:
        found.append(Volume.held.expression if query.held else ~Volume.held)
    if query.annotation:
        found.append(_annotation(text("annotation", query.annotation)))
    return found


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


def _of_gate(asked: str, dialect: str) -> Filter:
    if dialect != "postgresql":
        return Filter(gates.shown_with(asked))
    said, shown = gates.said(asked), (QualityResult.volume == Volume.id, QualityResult.revision == Volume.revision)
    holds = exists(select(literal(1)).where(*shown, said).offset(ONE_BY_ONE))
    # Nearly all pass, so no index has those.
    led_to = true() if gates.parse(asked)[1] == "pass" else None
    return Filter(holds, gates.shown_with(asked), select(QualityResult.volume).where(said), led_to)


def _of_record(conditions: Sequence[jsonpaths.Condition], dialect: str) -> Filter:
    record = (Revision.volume == Volume.id, Revision.revision == Volume.revision)
    if dialect != "postgresql":
        meets = (func.emporter_json_match(Revision.record, condition.document()) == 1 for condition in conditions)
        return Filter(exists(select(literal(1)).where(*record, *meets)))
    # One path for all: the record is unpacked for each.
    met = cast(Revision.record, JSONB).path_exists(_jsonpath(jsonpaths.together(conditions)))
    told = cast(Revision.record, JSONB).path_match(_jsonpath(led_to(conditions)))
    holds, keyed = (exists(select(literal(1)).where(*record, each).offset(ONE_BY_ONE)) for each in (met, told))
    entered = select(Revision.volume).where(_may_meet(keys_of(conditions)))
    return Filter(holds, entered=entered, led_to=keyed, of_record=True, narrowed=_narrowed(conditions))


def _narrowed(conditions: Sequence[jsonpaths.Condition]) -> ColumnElement[bool] | None:
    """Revisions that may meet conditions, as few keys tell; None where they do not."""
    keys = keys_of(conditions)
    few = replace(keys, all_of=keys.all_of[:: len(keys.all_of) // FEW_KEYS + 1])
    return _may_meet(few) if tells(conditions) and len(few.all_of or few.any_of) <= FEW_KEYS else None


def _jsonpath(path: str) -> ColumnElement[Any]:
    return cast(cast(literal(path), Text), JSONPATH)


def _may_meet(keys: Keys) -> ColumnElement[bool]:
    """Revisions that may meet conditions, by the index of fields."""
    fields = func.search_fields(cast(Revision.record, JSONB))
    one: ColumnElement[bool] = fields.op("&&", is_comparison=True)(_keys(keys.any_of))
    return or_(fields.op("@>", is_comparison=True)(_keys(keys.all_of)), one) if keys.all_of else one


def _keys(names: tuple[str, ...]) -> ColumnElement[Any]:
    return func.search_keys(literal(list(names), ARRAY(Text)))
