"""Ranges: `low..high`, both included, either left out; a single value stands for itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_
from sqlalchemy.orm import InstrumentedAttribute

from cataloger.errors import InvalidQueryError
from cataloger.models import Volume
from cataloger.records import MAX_COLUMN

Column = InstrumentedAttribute[Any]
Read = Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Measure:
    """What a range may be asked of: the column its low end bounds, the one its high end bounds, and how an end is read."""

    low: Column
    high: Column
    read: Read
    read_high: Read | None = None

    @property
    def reads_high(self) -> Read:
        return self.read_high or self.read


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("not finite")
    return number


def _whole(text: str) -> int:
    """Up and down alike: bytes and voxels are whole, and `1e9` is easier to read than its zeros."""
    number = int(text) if text.lstrip("-").isdigit() else int(_number(text))
    if abs(number) > MAX_COLUMN:
        raise ValueError("too large")
    return number


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _moment_or_day(text: str) -> datetime:
    """A day as a high end is its last moment."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return _moment(text)
    return datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1, microseconds=-1)


def _same(column: Column, read: Read = _number) -> Measure:
    return Measure(column, column, read)


MEASURES: dict[str, Measure] = {
    "voxel_nm": Measure(Volume.min_voxel_nm, Volume.max_voxel_nm, _number),
    "voxel_nm_z": _same(Volume.voxel_nm_z),
    "voxel_nm_y": _same(Volume.voxel_nm_y),
    "voxel_nm_x": _same(Volume.voxel_nm_x),
    "shape_z": _same(Volume.shape_z, _whole),
    "shape_y": _same(Volume.shape_y, _whole),
    "shape_x": _same(Volume.shape_x, _whole),
    "bytes": _same(Volume.bytes, _whole),
    "stored_bytes": _same(Volume.stored_bytes, _whole),
    "mean": _same(Volume.mean),
    "std": _same(Volume.std),
    "zero_share": _same(Volume.zero_share),
    "saturated_share": _same(Volume.saturated_share),
    "nan_share": _same(Volume.nan_share),
    "created_at": Measure(Volume.created_at, Volume.created_at, _moment, _moment_or_day),
    "updated_at": Measure(Volume.updated_at, Volume.updated_at, _moment, _moment_or_day),
}
"""By name. `voxel_nm` holds all three axes within the range. What is unknown is in no range."""


def within(name: str, text: str) -> ColumnElement[bool]:
    """The range `text` of one measure. One condition: what is common is each of its ends, not what lies between. Raises
    InvalidQueryError.
    """
    measure = MEASURES.get(name)
    if measure is None:
        raise InvalidQueryError(f"{name[:40]!r} has no ranges", hint=f"one of {', '.join(MEASURES)}")
    low, dots, high = text.partition("..")
    high = high if dots else low
    try:
        ends = [measure.low >= measure.read(low)] if low else []
        ends += [measure.high <= measure.reads_high(high)] if high else []
    except (ValueError, OverflowError) as error:
        raise InvalidQueryError(
            f"{name}={text[:60]!r} is no range", hint="write low..high, low.. or ..high; times as 2024-05-01 or RFC 3339"
        ) from error
    if not ends:
        raise InvalidQueryError(f"{name}={text[:60]!r} has no end", hint="write low..high, low.. or ..high")
    return and_(*ends)
