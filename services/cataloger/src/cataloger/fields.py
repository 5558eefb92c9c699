"""What the index of fields holds of a record, and which of it a condition on a field can't do without (decision 0010).

PostgreSQL's own indexes of JSON answer `=` alone. `search_fields` (a function of the database, made by a migration) says of a
record in keys: which paths there are, which values, in which ranges each number lies, and which three letters follow each other
in each text. An index of those keys leads to the few records that may fit; whether they do is asked of the record itself. Where
this module and the function wrote different keys, records would not be found: `test_fields.py` holds them together.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cataloger.jsonpaths import Condition, Scalar, together

NAME, VALUE, SEVERAL, LONG, GRAM, RANGE = "\x1f", "\x1a", "\x1b", "\x1c", "\x1d", "\x1e"
"""Before each name of a path; after a path: a value that is no number, more than one number, a list too long to be looked into,
three letters of a text, a range of a number.
"""
BITS = 24
"""Of a number's binary64 form, the sign and the exponent first, that its keys keep: 12 of them are of the fraction."""
STEP = 6
"""Bits by which each coarser range of a number has fewer."""
SHORTEST_LONG = 100
"""Items of a list that is not looked into, at least."""
_WORD = re.compile("[0-9a-z]+")


@dataclass(frozen=True, slots=True)
class Keys:
    """A record that meets a condition has all of the first, or one of the others."""

    all_of: tuple[str, ...]
    any_of: tuple[str, ...]


def looked_up_at_once(conditions: Sequence[Condition]) -> list[tuple[Condition, ...]]:
    """Conditions by what is looked up at once: ranges of numbers at the same path, which may be rare only together."""
    found: dict[object, tuple[Condition, ...]] = {}
    for condition in conditions:
        key = condition.names if _bound(condition) is not None else condition
        found[key] = (*found.get(key, ()), condition)
    return list(found.values())


def keys_of(conditions: Sequence[Condition]) -> Keys:
    """The keys of the records that conditions of `looked_up_at_once` may hold for."""
    condition = conditions[0]
    path = "".join(NAME + name for name in condition.names)
    # What lies in a long list has no keys of its own.
    long = tuple("".join(NAME + name for name in condition.names[:n]) + LONG for n in range(1, len(condition.names) + 1))
    if condition.operator == "=":
        return Keys((), (*(path + _value(value) for value in condition.values), *long))
    if _bound(condition) is not None:
        return Keys((), (*_ranges(path, conditions), *long))
    if condition.operator == "~" and (grams := grams_of(str(condition.values[0]))):
        return Keys(tuple(path + GRAM + gram for gram in grams), long)
    return Keys((), (path, *long))


def led_to(conditions: Sequence[Condition]) -> str:
    """An SQL/JSON path predicate that holds for the records `keys_of` leads to, and hardly another."""
    condition = conditions[0]
    told = together(conditions) if tells(conditions) else Condition(condition.names).jsonpath()
    # Two ends of a range lead to all lists of numbers there.
    most = 1 if len(conditions) > 1 else SHORTEST_LONG
    lists = (Condition(condition.names[:n]).jsonpath() for n in range(1, len(condition.names) + 1))
    return " || ".join([f"exists ({told})", *(f"{path}.size() > {most}" for path in lists)])


def tells(conditions: Sequence[Condition]) -> bool:
    """Whether keys tell what conditions of `looked_up_at_once` ask, not only that there is something at their path."""
    condition = conditions[0]
    if condition.operator == "~":
        return bool(grams_of(str(condition.values[0])))
    return condition.operator in ("", "=") or _bound(condition) is not None


def _value(value: Scalar) -> str:
    if isinstance(value, str):
        return f'{VALUE}"{value}'
    if value is None or isinstance(value, bool):
        return VALUE + json.dumps(value)
    return f"{RANGE}0:{place_of(value)}"


def _bound(condition: Condition) -> float | None:
    """The number a condition compares with by order, None where it is another kind of condition."""
    if condition.operator not in ("<", "<=", ">", ">="):
        return None
    [value] = condition.values
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _ranges(path: str, conditions: Sequence[Condition]) -> list[str]:
    lowest, highest = 0, (1 << BITS) - 1
    for condition in conditions:
        place = place_of(_bound(condition) or 0)
        if condition.operator.startswith("<"):
            highest = min(highest, place)
        else:
            lowest = max(lowest, place)
    # One number of a list may be large enough, another small enough.
    other = [path + SEVERAL] if len(conditions) > 1 else []
    return [f"{path}{RANGE}{shift}:{n}" for shift, n in ranges_over(lowest, highest)] + other


def grams_of(part: str) -> tuple[str, ...]:
    """Three letters in a row that every text with this part holds, as pg_trgm takes a text apart: each word by itself, two
    spaces before it and one after it. Where a part begins or ends within a word, nothing is known of the word's end; nor is it
    beside a letter that is not ASCII, which may be a part of the word or not, as the database's locale has it.
    """
    text = re.sub("[A-Z]", lambda letter: letter.group().lower(), part)
    found = []
    for word in _WORD.finditer(text):
        start, end = word.span()
        before = "  " if start and text[start - 1].isascii() else ""
        after = " " if end < len(text) and text[end].isascii() else ""
        known = before + word.group() + after
        found += [known[n : n + 3] for n in range(len(known) - 2)]
    return tuple(dict.fromkeys(found))


def place_of(number: float) -> int:
    """Where a number lies among all, 0 to 2**BITS - 1: the first BITS bits of its binary64 form, put in the order of numbers."""
    # Adding zero makes -0.0 the same as 0.0.
    first = int.from_bytes(struct.pack(">d", float(number) + 0.0)[: BITS // 8], "big")
    sign = 1 << (BITS - 1)
    return (1 << BITS) - 1 - first if first & sign else first + sign


def ranges_over(lowest: int, highest: int) -> Iterator[tuple[int, int]]:
    """The fewest ranges that cover these places, both ends included, as (bits left off, number of the range)."""
    shift = 0
    while lowest <= highest and shift < BITS - STEP:
        while lowest <= highest and lowest % (1 << STEP):
            yield shift, lowest
            lowest += 1
        while lowest <= highest and (highest + 1) % (1 << STEP):
            yield shift, highest
            highest -= 1
        lowest, highest, shift = lowest >> STEP, ((highest + 1) >> STEP) - 1, shift + STEP
    for n in range(lowest, highest + 1):
        yield shift, n
