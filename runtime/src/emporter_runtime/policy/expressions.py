"""Conditions of rules: CEL, the Common Expression Language, bounded in size and in what it may cost.

CEL has no loops, so every expression ends; but macros in macros multiply, and an evaluation can't be interrupted. What an
expression may hold is therefore limited before it is ever evaluated (tested: the costliest takes tens of milliseconds).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from emporter_runtime.policy.errors import ExpressionError

if TYPE_CHECKING:
    import cel

MAX_CHARACTERS = 1000
MAX_MACROS = 2
"""`all`, `exists`, … in one expression: two over lists of 500 are 250,000 steps."""
MAX_SUMS = 16
"""`+` in one expression: in macros they double what they are given again and again."""
MAX_PATTERNS = 4
"""`matches` in one expression, and none beside a macro: a pattern is compiled at each step, up to tens of milliseconds each."""

MACROS = frozenset({"all", "exists", "exists_one", "map", "filter"})
FUNCTIONS = frozenset(
    {
        "size", "contains", "startsWith", "endsWith", "matches", "timestamp", "duration", "int", "uint", "double", "string",
        "bytes", "bool", "type", "dyn", "getFullYear", "getMonth", "getDayOfYear", "getDayOfMonth", "getDate", "getDayOfWeek",
        "getHours", "getMinutes", "getSeconds", "getMilliseconds",
    }
)  # fmt: skip
"""What a rule may call; operators besides. Anything else would be an error at the first request."""

_QUOTED = re.compile(
    r"""(?<!\w)(?:[rR][bB]?|[bB][rR])(?:\"{3}[\s\S]*?\"{3}|'{3}[\s\S]*?'{3}|"[^"\n]*"|'[^'\n]*')"""
    r"""|\"{3}(?:\\.|[^\\])*?\"{3}|'{3}(?:\\.|[^\\])*?'{3}|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|//[^\n]*"""
)
_MACRO = re.compile(rf"\.\s*(?:{'|'.join(sorted(MACROS, key=len, reverse=True))})\s*\(\s*(?P<variable>\w+)?")
_PATTERN = re.compile(r"\bmatches\s*\(")
_FIELD = re.compile(r"(?<![\w.])(?P<of>[A-Za-z_]\w*)\s*\.\s*(?P<field>[A-Za-z_]\w*)(?!\w)(?!\s*\()")


@dataclass(frozen=True, slots=True)
class Expression:
    """A condition that was checked; `names` are the variables it asks for."""

    text: str
    names: frozenset[str]
    program: cel.Program

    def holds(self, variables: Mapping[str, Any]) -> bool:
        """Whether it is true of `variables`. Raises ExpressionError for whatever keeps it from being true or false."""
        try:
            found = self.program.execute(dict(variables))
        except Exception as error:
            raise ExpressionError(_said(error)) from error
        except BaseException as error:
            # A panic in the library is no Exception; it must not pass as anything but an error of this rule.
            if type(error).__name__ != "PanicException":
                raise
            raise ExpressionError(_said(error)) from error
        if not isinstance(found, bool):
            raise ExpressionError(f"it is {type(found).__name__}, not true or false")
        return found


def compiled(text: str, known: Mapping[str, frozenset[str] | None]) -> Expression:
    """The condition in `text`, over the variables `known`: by name its fields, None where it has none.

    Raises ExpressionError for what is no CEL, asks for what there is not, or could cost too much.
    """
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError(f"it has {len(text)} characters, more than {MAX_CHARACTERS}")
    bare = _QUOTED.sub(lambda quoted: '""' if quoted[0][:2] != "//" else " ", text)
    bound = _check_cost(bare)
    program = _compiled(text)
    _check_names(program, bare, known, bound)
    # A condition that is no truth value is an error of CEL's own this way, and never a large value that is carried out of it.
    whole = _compiled(f"({text}\n) ? true : false")
    return Expression(text, frozenset(program.references()["variables"]) & known.keys(), whole)


def _compiled(text: str) -> cel.Program:
    # Only where there are rules: it brings a command line of its own, a fifth of the time in which a service starts.
    import cel

    try:
        return cel.compile(text)
    except Exception as error:
        raise ExpressionError(_said(error)) from error


def _check_cost(bare: str) -> frozenset[str]:
    """Raises ExpressionError; gives the variables that macros bind."""
    macros = list(_MACRO.finditer(bare))
    patterns = len(_PATTERN.findall(bare))
    if len(macros) > MAX_MACROS:
        raise ExpressionError(f"it has {len(macros)} macros, more than {MAX_MACROS}")
    if bare.count("+") > MAX_SUMS:
        raise ExpressionError(f"it has {bare.count('+')} sums, more than {MAX_SUMS}")
    if patterns > MAX_PATTERNS or (patterns and macros):
        raise ExpressionError(f"it has {patterns} patterns: at most {MAX_PATTERNS}, and none beside a macro")
    return frozenset(found["variable"] for found in macros if found["variable"])


def _check_names(program: cel.Program, bare: str, known: Mapping[str, frozenset[str] | None], bound: frozenset[str]) -> None:
    if taken := sorted(bound & known.keys()):
        raise ExpressionError(f"a macro calls its element {taken[0]}, which is a variable: name it otherwise")
    references = program.references()
    types = {"bool", "bytes", "double", "duration", "int", "list", "map", "null_type", "string", "timestamp", "type", "uint"}
    for name in references["variables"]:
        if name not in known and name not in bound | types:
            raise ExpressionError(f"there is no variable {name}: there are {', '.join(sorted(known))}")
    for name in references["functions"]:
        if name[0].isalpha() and name not in FUNCTIONS:
            raise ExpressionError(f"there is no function {name}")
    for found in _FIELD.finditer(bare):
        fields = known.get(found["of"])
        if fields is not None and found["field"] not in fields:
            raise ExpressionError(f"{found['of']} has no {found['field']}: it has {', '.join(sorted(fields))}")


def _said(error: BaseException) -> str:
    """An error of the library in one line."""
    first = " ".join((str(error) or type(error).__name__).split())
    named = f"there is no key {first}" if isinstance(error, KeyError) else first
    return named[:300]
