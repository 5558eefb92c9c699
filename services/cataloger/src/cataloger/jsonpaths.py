"""Conditions on any field of a record: `metadata.core.axes=zyx`, `additional_metadata."my key".dose>=12`, `citation~lucchi`.

A condition is parsed here and handed to the database as a value, never as text of a statement: PostgreSQL gets a jsonpath it can
look up in an index, SQLite calls `match_document`. Both read alike: a name applied to a list means each of its items.
"""

from __future__ import annotations

import json
import operator as operators
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cataloger.errors import InvalidQueryError

MAX_NAMES = 16
"""Of one path; records are not deeper."""
MAX_CHARACTERS = 500
"""Of one condition."""
MAX_CONDITIONS = 8
_NAME = re.compile(r'[A-Za-z0-9_-]+|"(?:[^"\\]|\\["\\/])*"')
_OPERATOR = re.compile(r"!=|<=|>=|=|<|>|~")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,2})?\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": operators.eq, "!=": operators.ne, "<": operators.lt, "<=": operators.le, ">": operators.gt, ">=": operators.ge,
}  # fmt: skip
Scalar = str | float | int | bool | None


@dataclass(frozen=True, slots=True)
class Condition:
    """A path of names; with an operator, what a value there must compare to. Without one it must only be there."""

    names: tuple[str, ...]
    operator: str = ""
    values: tuple[Scalar, ...] = ()
    """More than one where the text reads as a number too: `5` finds 5 and "5"."""

    def jsonpath(self) -> str:
        """As SQL/JSON path (lax), for PostgreSQL."""
        path = "$" + "".join(f".{json.dumps(name)}" for name in self.names)
        if not self.operator:
            return path
        return f"{path} ? ({' || '.join(self._test(v) for v in self.values)})"

    def document(self) -> str:
        """As JSON, for `match_document`."""
        return json.dumps([self.names, self.operator, self.values])

    def _test(self, value: Scalar) -> str:
        if self.operator == "~":
            return f'@ like_regex {json.dumps(value)} flag "iq"'
        return f"@ {'==' if self.operator == '=' else self.operator} {json.dumps(value)}"


def parse(text: str) -> Condition:
    """Raises InvalidQueryError."""
    if len(text) > MAX_CHARACTERS or _CONTROL.search(text):
        raise _invalid(text, f"longer than {MAX_CHARACTERS} characters, or with control characters")
    names, rest = _names(text)
    if not rest:
        return Condition(names)
    operator = _OPERATOR.match(rest)
    if operator is None:
        raise _invalid(text, f"an operator was expected before {rest[:20]!r}")
    return Condition(names, operator.group(), _values(operator.group(), rest[operator.end() :]))


def together(conditions: Sequence[Condition]) -> str:
    """Conditions that must all hold, as one SQL/JSON path."""
    if len(conditions) == 1:
        return conditions[0].jsonpath()
    return f"$ ? ({' && '.join(f'exists ({condition.jsonpath()})' for condition in conditions)})"


def match_document(record: str | None, condition: str) -> int:
    """1 where a record (JSON text) meets `Condition.document()`, else 0; the SQLite function."""
    if record is None:
        return 0
    names, operator, wanted = json.loads(condition)
    found: Iterator[Any] = iter([json.loads(record)])
    for name in names:
        found = _members(found, name)
    if not operator:
        return int(any(True for _ in found))
    return int(any(_holds(value, operator, w) for value in _unwrapped(found) for w in wanted))


def _names(text: str) -> tuple[tuple[str, ...], str]:
    names: list[str] = []
    position = 0
    while match := _NAME.match(text, position):
        name = match.group()
        names.append(json.loads(name) if name.startswith('"') else name)
        position = match.end()
        if not text.startswith(".", position):
            break
        position += 1
    if not names or len(names) > MAX_NAMES or text[position - 1] == ".":
        raise _invalid(text, f"a path is 1 to {MAX_NAMES} names with dots between them")
    return tuple(names), text[position:]


def _values(operator: str, text: str) -> tuple[Scalar, ...]:
    if operator == "~":
        return (text,)
    if text in ("true", "false", "null") or _NUMBER.match(text):
        return (json.loads(text), text) if operator == "=" else (json.loads(text),)
    return (text,)


def _unwrapped(values: Iterator[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list):
            yield from value
        else:
            yield value


def _members(values: Iterator[Any], name: str) -> Iterator[Any]:
    for value in _unwrapped(values):
        if isinstance(value, dict) and name in value:
            yield value[name]


def _holds(value: Any, operator: str, wanted: Scalar) -> bool:
    if operator == "~":
        return isinstance(value, str) and str(wanted).casefold() in value.casefold()
    if value is None or wanted is None:
        return (value is wanted) if operator == "=" else operator == "!=" and value is not wanted
    if _kind(value) != _kind(wanted) or isinstance(value, dict | list):
        return False
    return bool(_COMPARE[operator](value, wanted))


def _kind(value: Any) -> type:
    return float if isinstance(value, int | float) and not isinstance(value, bool) else type(value)


def _invalid(text: str, why: str) -> InvalidQueryError:
    return InvalidQueryError(
        f"where={text[:80]!r}: {why}", hint="write where=metadata.core.axes=zyx; operators = != < <= > >= ~ (contains)"
    )
