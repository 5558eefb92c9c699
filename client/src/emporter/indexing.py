"""What `volume[z0:z1, y0:y1, x0:x1]` asks for: numpy's basic indexing as boxes to fetch. Pure; holds no voxel."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from operator import index
from typing import Any

from emporter_contracts.geometry import Box, Shape3

PIECE_BYTES = 64 * 2**20
"""Of one request: well below what a server holds for all of its clients (512 MiB), so that a large read is many polite ones."""
FAR_STEP = 64
"""A step past it skips whole chunks, so its voxels are asked for one plane at a time instead of all that lies between."""

Slices3 = tuple[slice, slice, slice]


@dataclass(frozen=True, slots=True)
class Piece:
    """One box to fetch: `inner` of it goes to `out` of the result, both z, y, x."""

    box: Box
    inner: Slices3
    out: Slices3


@dataclass(frozen=True, slots=True)
class Selection:
    """The voxels asked for: their indices along z, y, x, and which axes were given as one index and are left out."""

    axes: tuple[range, range, range]
    dropped: tuple[bool, bool, bool]

    @property
    def shape(self) -> Shape3:
        """Of the result before axes are left out; an axis may hold no voxel."""
        z, y, x = map(len, self.axes)
        return (z, y, x)

    def squeezed(self) -> tuple[int | slice, ...]:
        """The index that leaves out the axes given as one index."""
        return tuple(0 if gone else slice(None) for gone in self.dropped)

    def pieces(self, itemsize: int, chunk: Shape3) -> Iterator[Piece]:
        """Boxes of at most PIECE_BYTES (one voxel at least), cut where chunks of `chunk` voxels begin if that can be."""
        if 0 in self.shape:
            return
        cuts = [_far(axis) for axis in self.axes]
        sizes = [len(axis) if len(cut) == 1 else 1 for axis, cut in zip(self.axes, cuts, strict=True)]
        spans = [_span(axis, size) for axis, size in zip(self.axes, sizes, strict=True)]
        while math.prod(spans) * itemsize > PIECE_BYTES and max(sizes) > 1:
            longest = max((n for n in range(3) if sizes[n] > 1), key=lambda n: spans[n] / chunk[n])
            sizes[longest] = _smaller(sizes[longest], self.axes[longest].step, chunk[longest])
            spans[longest] = _span(self.axes[longest], sizes[longest])
        for n in range(3):
            if len(cuts[n]) == 1 and sizes[n] < len(self.axes[n]):
                cuts[n] = _cut(self.axes[n], sizes[n])
        for z, y, x in product(*cuts):
            yield _piece(self.axes, (z, y, x))


def select(key: Any, shape: Shape3) -> Selection:
    """What `key` means for an array of `shape`: numbers, slices and Ellipsis, with numpy's rules for negative ones and steps.

    Raises IndexError for a voxel outside or too many axes, TypeError for what is no basic index.
    """
    ranges, dropped = [], []
    for part, extent in zip(_expanded(key if isinstance(key, tuple) else (key,)), shape, strict=True):
        if isinstance(part, slice):
            ranges.append(range(*part.indices(extent)))
            dropped.append(False)
        else:
            at = _number(part)
            if not -extent <= at < extent:
                raise IndexError(f"index {at} is out of bounds for an axis of {extent} voxels")
            ranges.append(range(at % extent, at % extent + 1))
            dropped.append(True)
    (z, y, x), (dz, dy, dx) = ranges, dropped
    return Selection((z, y, x), (dz, dy, dx))


def _expanded(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """`key` with one part for each axis."""
    dots = [n for n, part in enumerate(key) if part is Ellipsis]
    if len(dots) > 1:
        raise IndexError("an index can hold one Ellipsis ('...') only")
    if len(key) - len(dots) > 3:
        raise IndexError(f"a volume has 3 axes, z, y, x, but {len(key) - len(dots)} were indexed")
    at = dots[0] if dots else len(key)
    filling = (slice(None),) * (3 - (len(key) - len(dots)))
    return (*key[:at], *filling, *key[at + 1 :])


def _number(part: Any) -> int:
    if isinstance(part, bool):
        raise TypeError("a volume is not indexed by booleans; fetch a box and mask that")
    try:
        return index(part)
    except TypeError:
        raise TypeError(
            f"a volume is indexed by whole numbers, slices and '...', not by {type(part).__name__}; "
            "for many boxes use .blocks(origins, shape)"
        ) from None


def _far(axis: range) -> list[range]:
    """Positions of the result along an axis that one fetch can serve."""
    places = range(len(axis))
    return [range(n, n + 1) for n in places] if abs(axis.step) > FAR_STEP and len(axis) > 1 else [places]


def _span(axis: range, size: int) -> int:
    """Voxels between the first and the last of `size` consecutive ones of an axis."""
    return (size - 1) * abs(axis.step) + 1


def _smaller(size: int, step: int, chunk: int) -> int:
    """About half of `size`, whole chunks where there are several."""
    half = -(-size // 2)
    whole = half - half % chunk if step == 1 else half
    return whole or half


def _cut(axis: range, size: int) -> list[range]:
    """Positions of the result in runs of at most `size`; voxels one by one are cut at multiples of `size`."""
    first = size - axis.start % size if axis.step == 1 else size
    starts = [0, *range(first, len(axis), size)]
    return [range(a, b) for a, b in zip(starts, [*starts[1:], len(axis)], strict=True)]


def _piece(axes: tuple[range, range, range], places: tuple[range, range, range]) -> Piece:
    ends = []
    for axis, place in zip(axes, places, strict=True):
        voxels = axis[place.start : place.stop]
        ends.append((min(voxels[0], voxels[-1]), max(voxels[0], voxels[-1]) + 1, voxels.step if len(voxels) > 1 else 1))
    (z0, z1, dz), (y0, y1, dy), (x0, x1, dx) = ends
    z, y, x = (slice(place.start, place.stop) for place in places)
    return Piece(
        Box((z0, y0, x0), (z1, y1, x1)), (slice(None, None, dz), slice(None, None, dy), slice(None, None, dx)), (z, y, x)
    )
