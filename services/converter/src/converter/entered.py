"""What the ledger says of every shard of a volume, in twelve bytes each: a petabyte is sixty million of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Self

import numpy as np

from converter.errors import CorruptVolumeError
from emporter_contracts import storage
from emporter_contracts.events import ShardWritten
from emporter_contracts.geometry import Index3, Shape3, grid_shape
from emporter_contracts.plans import VolumePlan

AGAIN = "convert again with --force; if it happens again, the store or this machine's memory is at fault"
NOT_THERE = -1
"""Bytes of a shard nobody entered."""


class Entered:
    """Bytes and CRC-32C of shards, by key below the volume's OME-Zarr folder. Holds those of the plan, and no other."""

    def __init__(self, plan: VolumePlan) -> None:
        self._volume = plan.volume
        self._grids = [grid_shape(level.shape, level.shard) for level in plan.levels]
        self._first = [0, *np.cumsum([math.prod(grid) for grid in self._grids]).tolist()]
        self._bytes = np.full(self._first[-1], NOT_THERE, np.int64)
        self._crc32c = np.zeros(self._first[-1], np.uint32)

    @classmethod
    def of(cls, plan: VolumePlan, shards: Iterable[ShardWritten]) -> Self:
        """A table of these shards. Raises CorruptVolumeError where the plan has no such shard."""
        entered = cls(plan)
        entered.enter(shards)
        return entered

    def enter(self, shards: Iterable[ShardWritten]) -> None:
        """Raises CorruptVolumeError where the plan has no such shard."""
        for shard in shards:
            n = self._place(shard.key)
            if n is None:
                raise self._differ(shard.key)
            self._bytes[n], self._crc32c[n] = shard.bytes, int(shard.crc32c, 16)

    def get(self, key: str) -> ShardWritten | None:
        """What was entered of a shard."""
        n = self._place(key)
        return self._at(key, n) if n is not None and self._bytes[n] != NOT_THERE else None

    def require_all(self) -> None:
        """Raises CorruptVolumeError where a shard of the plan was not entered."""
        if len(self) < len(self._bytes):
            raise self._differ(next(key for key, n in self._places() if self._bytes[n] == NOT_THERE))

    def require_stored(self, stored: Iterable[tuple[str, int]]) -> None:
        """Raises CorruptVolumeError unless these keys with their bytes are just the shards that were entered."""
        seen = np.zeros(len(self._bytes), np.bool_)
        for key, size in stored:
            n = self._place(key)
            if n is None or self._bytes[n] != size:
                raise self._not_as_entered(key, size)
            seen[n] = True
        if not seen.all():
            raise self._not_as_entered(next(key for key, n in self._places() if not seen[n]), None)

    def keys(self, first_level: int = 0) -> Iterator[str]:
        """Of every shard of the plan from a level on, sorted as text is."""
        return (key for key, _ in self._places(first_level))

    def __iter__(self) -> Iterator[ShardWritten]:
        """What was entered, sorted by key."""
        return (self._at(key, n) for key, n in self._places() if self._bytes[n] != NOT_THERE)

    def __len__(self) -> int:
        return int(np.count_nonzero(self._bytes != NOT_THERE))

    @property
    def stored_bytes(self) -> int:
        """Of all shards together."""
        return int(self._bytes[self._bytes != NOT_THERE].sum())

    def _differ(self, key: str) -> CorruptVolumeError:
        """The error of a shard that ledger and plan don't agree about."""
        return CorruptVolumeError(f"{self._volume}: the ledger and the plan differ in {key}", hint=AGAIN)

    def _not_as_entered(self, key: str, size: int | None) -> CorruptVolumeError:
        return CorruptVolumeError(f"{self._volume}: {key} has {size} bytes in the store, not as entered", hint=AGAIN)

    def _at(self, key: str, n: int) -> ShardWritten:
        return ShardWritten(key=key, bytes=int(self._bytes[n]), crc32c=f"{self._crc32c[n]:08x}")

    def _places(self, first_level: int = 0) -> Iterator[tuple[str, int]]:
        """Key and place in the arrays of every shard of the plan from a level on, sorted by key."""
        for level in sorted(range(first_level, len(self._grids)), key=str):
            for z, y, x in product(*(sorted(range(n), key=str) for n in self._grids[level])):
                yield storage.shard_key(level, (z, y, x)), self._number(level, (z, y, x))

    def _place(self, key: str) -> int | None:
        """Where a shard is in the arrays; None where the plan has none of that key."""
        level, index = _parsed(key)
        known = 0 <= level < len(self._grids) and _within(index, self._grids[level])
        return self._number(level, index) if known else None

    def _number(self, level: int, index: Index3) -> int:
        _, rows, columns = self._grids[level]
        return int(self._first[level]) + (index[0] * rows + index[1]) * columns + index[2]


def _parsed(key: str) -> tuple[int, Index3]:
    """Level and index of a shard's key; level -1 where it is none, or written in another way."""
    try:
        level, _, z, y, x = key.split("/")
        index = (int(z), int(y), int(x))
        return (int(level), index) if storage.shard_key(int(level), index) == key else (-1, index)
    except ValueError:
        return -1, (0, 0, 0)


def _within(index: Index3, grid: Shape3) -> bool:
    return all(0 <= i < n for i, n in zip(index, grid, strict=True))
