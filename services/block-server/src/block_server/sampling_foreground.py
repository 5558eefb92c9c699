"""How many voxels that are not 0 a box can hold, known from counts by chunk: pure bounds, no voxel is read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from block_server.sampling import Ground, Int64s, Rules
from emporter_contracts.geometry import Index3, Shape3

AT_ONCE = 2**20
"""Counts looked at together: a few tens of MB."""
MANY = 2**12
"""Cells under a box past which sums of whole cells are taken instead of each cell's share: looser, and as dear for any box."""


@dataclass(frozen=True, slots=True)
class Occupancy:
    """Foreground voxels of level 0, by cell of `cell` voxels laid from the origin of a volume of `shape`, all z, y, x."""

    counts: NDArray[np.uint32]
    cell: Shape3
    shape: Shape3
    table: Int64s
    """Sums of `counts` before each corner, one longer along each axis."""

    @classmethod
    def of(cls, counts: NDArray[np.uint32], cell: Shape3, shape: Shape3) -> Self:
        table = np.zeros([n + 1 for n in counts.shape], np.int64)
        sums = counts.astype(np.int64)
        for axis in range(3):
            np.cumsum(sums, axis=axis, out=sums)
        table[1:, 1:, 1:] = sums
        return cls(counts, cell, shape, table)


@dataclass(frozen=True, slots=True)
class Foreground:
    """What the counts say of boxes of `shape` at a level whose voxels span `factor` of level 0; counted is `offset` further.

    At coarser levels a voxel can be foreground only where one of those it was made of is: of means and of modes alike.
    """

    occupancy: Occupancy
    shape: Shape3
    factor: Shape3
    offset: Index3
    wanted: int
    """Voxels of a box that must be foreground."""

    @property
    def chunk(self) -> Shape3:
        """The cells of the counts, in voxels of the level."""
        z, y, x = (max(1, c // f) for c, f in zip(self.occupancy.cell, self.factor, strict=True))
        return (z, y, x)

    def narrowed(self, rules: Rules) -> Ground | None:
        """The open places, less the cells where no box can hold enough."""
        ground = rules.ground(self.shape, self.chunk)
        if ground is None or ground.total == 0:
            return ground
        is_open = np.diff(ground.ends, prepend=0).reshape([len(cut) - 1 for cut in ground.cuts]) > 0
        return Ground.of(ground.cuts, is_open & (self._most(ground) >= self.wanted))

    def bounds(self, origins: Int64s) -> tuple[Int64s, Int64s]:
        """At least and at most how many voxels of foreground the boxes at `origins` (N, 3) hold."""
        voxels = math.prod(self.shape)
        spans = [self._span(origins[:, axis], axis) for axis in range(3)]
        if math.prod(int((b - a).max()) // c + 2 for (a, b), c in zip(spans, self.occupancy.cell, strict=True)) > MANY:
            low, high = self._summed(spans)
        else:
            low, high = self._shared(spans)
        return low if self.factor == (1, 1, 1) else np.zeros_like(low), np.minimum(high, voxels)

    def _summed(self, spans: list[tuple[Int64s, Int64s]]) -> tuple[Int64s, Int64s]:
        """All of the cells that lie in a box, and all of those it touches."""
        inner, outer = [], []
        for (a, b), cell, extent, n in zip(
            spans, self.occupancy.cell, self.occupancy.shape, self.occupancy.counts.shape, strict=True
        ):
            first = -(-a // cell)
            inner.append((first, np.maximum(first, np.where(b == extent, n, b // cell))))
            outer.append((a // cell, -(-b // cell)))
        return self._between(inner), self._between(outer)

    def _between(self, cells: list[tuple[Int64s, Int64s]]) -> Int64s:
        """Sums of the counts from the first to the last (exclusive) cells of each box."""
        found = np.zeros(len(cells[0][0]), np.int64)
        for corner in range(8):
            far = [corner >> axis & 1 for axis in range(3)]
            z, y, x = (pair[end] for pair, end in zip(cells, far, strict=True))
            found += self.occupancy.table[z, y, x] * (-1) ** (3 - sum(far))
        return found

    def _shared(self, spans: list[tuple[Int64s, Int64s]]) -> tuple[Int64s, Int64s]:
        """Of each cell a box touches what must, and what can, lie in the part that is the box's."""
        origins = spans[0][0]
        widest = [int((b - a).max()) // c + 2 for (a, b), c in zip(spans, self.occupancy.cell, strict=True)]
        low, high = np.zeros(len(origins), np.int64), np.zeros(len(origins), np.int64)
        step = max(1, AT_ONCE // math.prod(widest))
        for first in range(0, len(origins), step):
            some = slice(first, first + step)
            low[some], high[some] = self._counted([(a[some], b[some]) for a, b in spans], widest)
        return low, high

    def _span(self, origins: Int64s, axis: int) -> tuple[Int64s, Int64s]:
        """First and last (exclusive) voxel of level 0 along an axis of boxes that begin at `origins` of the level."""
        factor, first = self.factor[axis], origins + self.offset[axis]
        return first * factor, np.minimum((first + self.shape[axis]) * factor, self.occupancy.shape[axis])

    def _counted(self, spans: list[tuple[Int64s, Int64s]], widest: list[int]) -> tuple[Int64s, Int64s]:
        cells, overlaps, sizes = [], [], []
        for (a, b), most, cell, extent, number in zip(
            spans, widest, self.occupancy.cell, self.occupancy.shape, self.occupancy.counts.shape, strict=True
        ):
            index = (a // cell)[:, None] + np.arange(most)
            starts = index * cell
            ends = np.minimum(starts + cell, extent)
            overlaps.append(np.clip(np.minimum(ends, b[:, None]) - np.maximum(starts, a[:, None]), 0, None))
            sizes.append(np.clip(ends - starts, 0, None))
            cells.append(np.minimum(index, number - 1))
        z, y, x = cells
        counts = self.occupancy.counts[z[:, :, None, None], y[:, None, :, None], x[:, None, None, :]].astype(np.int64)
        shared, whole = (v[0][:, :, None, None] * v[1][:, None, :, None] * v[2][:, None, None, :] for v in (overlaps, sizes))
        # What lies in the rest of a cell can't lie in the box; cells not touched share nothing and count for nothing.
        low = np.where(shared > 0, np.clip(counts - (whole - shared), 0, None), 0).sum(axis=(1, 2, 3))
        return low, np.minimum(counts, shared).sum(axis=(1, 2, 3))

    def _most(self, ground: Ground) -> Int64s:
        """For each cell of the ground at most how many voxels of foreground a box beginning there holds."""
        firsts, lasts = [], []
        for axis, cut in enumerate(ground.cuts):
            start, _ = self._span(cut[:-1], axis)
            _, stop = self._span(cut[1:] - 1, axis)
            firsts.append(start // self.occupancy.cell[axis])
            lasts.append(-(-stop // self.occupancy.cell[axis]))
        found = np.zeros([len(cut) - 1 for cut in ground.cuts], np.int64)
        for corner in range(8):
            far = [bool(corner >> axis & 1) for axis in range(3)]
            picked = [lasts[axis] if far[axis] else firsts[axis] for axis in range(3)]
            found += self.occupancy.table[np.ix_(*picked)] * (-1) ** (3 - sum(far))
        return np.minimum(found, math.prod(self.shape))


@dataclass(frozen=True, slots=True)
class Uncounted:
    """Foreground of which nobody knows where it lies: any box may hold enough, and only its voxels tell."""

    shape: Shape3
    wanted: int
    """Voxels of a box that must be foreground."""
    remedy: str
    """What to do so that it is known, said where too few boxes are found by trying."""

    def narrowed(self, rules: Rules) -> Ground | None:
        """All the open places."""
        return rules.ground(self.shape)

    def bounds(self, origins: Int64s) -> tuple[Int64s, Int64s]:
        """None at least, all at most."""
        return np.zeros(len(origins), np.int64), np.full(len(origins), math.prod(self.shape), np.int64)
