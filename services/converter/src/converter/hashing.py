"""In which order the voxels of a level are read to be hashed, and their hash.

SHA-256 of all voxels in C order is what anybody can compute of an array. To read in that order, a slab of a shard's depth must
fit the memory, or each chunk is decoded once for every few planes of it. Where that would be often, planes are hashed each for
itself while the slab is read a band of rows at a time: each chunk is decoded once, and the hash is that of the planes' hashes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from converter.memory import requests_of
from emporter_contracts.geometry import Box, Shape3
from emporter_contracts.plans import LevelPlan

Order = Literal["C", "planes"]
"""All voxels z, y, x; or, of every slab, a band of rows of all its planes after the other."""
DECODES = 4
"""How often a chunk is decoded at most so that the hash is of all voxels in C order."""
DECODED = 3
"""Shards held for each request: as it came, as the decoder was given it, as it was decoded."""


def order_of(level: LevelPlan, itemsize: int, memory: int) -> Order:
    """C where that decodes each chunk DECODES times at most within `memory` bytes."""
    depth = min(level.shard[0], level.shape[0])
    planes = wanted_voxels(level.shard, itemsize, memory) // (level.shape[1] * level.shape[2])
    return "C" if depth <= DECODES * max(1, planes) else "planes"


def boxes_in(order: Order, level: LevelPlan, itemsize: int, memory: int) -> Iterator[Box]:
    """Boxes that follow one another in this order, two of which fit `memory` bytes beside the shards that are decoded."""
    return ordered_boxes(level.shape, level.shard, itemsize, memory) if order == "C" else bands(level, itemsize, memory)


def wanted_voxels(shard: Shape3, itemsize: int, memory: int) -> int:
    """Of one box."""
    size = int(np.prod(shard, dtype=np.int64)) * itemsize
    decoding = DECODED * requests_of(size) * size
    # A quarter at least: shards that somebody asked for may be larger than all of it.
    return max(1, max(memory - decoding, memory // 4) // 2 // itemsize)


def ordered_boxes(shape: Shape3, shard: Shape3, itemsize: int, memory: int) -> Iterator[Box]:
    """Boxes that follow one another in C order: slabs of a shard's depth, else thinner ones (whose shards are then decoded more
    than once), else rows of one plane.
    """
    wanted = wanted_voxels(shard, itemsize, memory)
    plane = shape[1] * shape[2]
    if plane <= wanted:
        yield from Box.whole(shape).tiles((min(shard[0], wanted // plane), shape[1], shape[2]))
        return
    yield from Box.whole(shape).tiles((1, max(1, wanted // shape[2]), shape[2]))


def bands(level: LevelPlan, itemsize: int, memory: int) -> Iterator[Box]:
    """Slab after slab of a shard's depth, each in bands of rows that cut no shard, else no chunk, else as many as fit."""
    depth = min(level.shard[0], level.shape[0])
    rows = max(1, wanted_voxels(level.shard, itemsize, memory) // (depth * level.shape[2]))
    height, chunk = level.shard[1], level.chunk[1]
    whole = [n for n in range(chunk, height + 1, chunk) if height % n == 0 and n <= rows]
    if rows >= height:
        rows = rows // height * height
    elif whole:
        rows = whole[-1]
    for slab in Box.whole(level.shape).tiles((depth, level.shape[1], level.shape[2])):
        yield from slab.tiles((depth, rows, level.shape[2]))


class VoxelHash(Protocol):
    """Takes the voxels of a level in one order, box after box."""

    def add(self, voxels: NDArray[Any]) -> None:
        """The next box."""

    def hexdigest(self) -> str:
        """Of all of them, little-endian."""


def voxel_hash(order: Order, shape: Shape3) -> VoxelHash:
    """What hashes voxels that come in this order."""
    return _InCOrder() if order == "C" else _OfPlanes(shape[1])


class _InCOrder:
    """SHA-256 of all voxels in C order."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, voxels: NDArray[Any]) -> None:
        self._digest.update(_little(voxels).data)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


class _OfPlanes:
    """SHA-256 over the SHA-256 of every plane, 32 bytes each, in the order of z."""

    def __init__(self, height: int) -> None:
        self._height = height
        self._rows = 0
        self._digest = hashlib.sha256()
        self._planes: list[Any] = []

    def add(self, voxels: NDArray[Any]) -> None:
        if not self._planes:
            self._planes = [hashlib.sha256() for _ in voxels]
        for digest, plane in zip(self._planes, _little(voxels), strict=True):
            digest.update(plane.data)
        self._rows += voxels.shape[1]
        if self._rows == self._height:
            for digest in self._planes:
                self._digest.update(digest.digest())
            self._planes, self._rows = [], 0

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def _little(voxels: NDArray[Any]) -> NDArray[Any]:
    return voxels.astype(voxels.dtype.newbyteorder("<"), copy=False)
