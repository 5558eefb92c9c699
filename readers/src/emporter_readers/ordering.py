"""The order of files that make one volume."""

from __future__ import annotations

import re
from collections.abc import Iterable

_DIGITS = re.compile(r"(\d+)", re.ASCII)


def natural_order(paths: Iterable[str]) -> list[str]:
    """Sorted with runs of digits compared as numbers: `slice_2` before `slice_10`.

    Path parts are compared one by one. Names that differ in leading zeros or case only are told apart by their plain text, so
    the order is total and the same everywhere.
    """
    return sorted(paths, key=natural_key)


def natural_key(path: str) -> tuple[list[list[tuple[int, int, str]]], str]:
    """What `natural_order` sorts by."""
    return [[_token(token) for token in _DIGITS.split(part)] for part in path.split("/")], path


def _token(token: str) -> tuple[int, int, str]:
    if not _DIGITS.fullmatch(token):
        return (1, 0, token.casefold())
    digits = token.lstrip("0")
    return (0, len(digits), digits)
