"""Byte ranges as RFC 9110 section 14 has them, one at a time."""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.requests import Request

_ONE = re.compile(r"bytes=\s*(?:(?P<first>\d{1,18})-(?P<last>\d{1,18})?|-(?P<suffix>\d{1,18}))\s*\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Bytes `start` to `stop` (exclusive; None to the end), or, with `suffix`, the last so many."""

    start: int = 0
    stop: int | None = None
    suffix: int | None = None


def wanted_range(request: Request, tag: str) -> Wanted | None:
    """The range a request wants, None where it wants the whole: no Range, one that is malformed or of several parts (both may be
    ignored), or an If-Range that names something else than `tag`.
    """
    header = request.headers.get("range")
    if header is None or request.headers.get("if-range", tag) != tag:
        return None
    match = _ONE.match(header)
    if match is None:
        return None
    if match["suffix"] is not None:
        return Wanted(suffix=int(match["suffix"]))
    first, last = int(match["first"]), match["last"]
    if last is None:
        return Wanted(first)
    return Wanted(first, int(last) + 1) if first <= int(last) else None
