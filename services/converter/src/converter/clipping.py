"""Whether a slice is clipped: how many of its voxels have the largest value, and whether that is more than happens by itself.

A detector of 12 bits clips at 4095 whatever dtype its numbers are stored in, and floats are clipped where they were scaled. What
clipping leaves is a spike: the values below the largest one are rare and it is not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

SPIKE = 8
"""Times as many voxels as the next smaller value that the largest one has where it is clipped. The tail of a histogram has fewer,
however coarse its values; a bright background that ends softly some times as many (5.8 in a real picture); a block at 4095
hundreds.
"""

Voxels = NDArray[Any]


class Crest:
    """The largest value of a slice and its count, and of sampled voxels the counts of the two largest ones."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._end = np.iinfo(dtype).max if dtype.kind in "ui" else None
        self._sampled: list[tuple[float, int]] = []
        self.top: Any = None
        self._count = 0

    def add(self, voxels: Voxels, sample: NDArray[np.float64]) -> None:
        """More rows, and the finite ones of them that are sampled."""
        top = voxels.max()
        if not np.isfinite(top):
            voxels = voxels[np.isfinite(voxels)]
            if voxels.size == 0:
                return
            top = voxels.max()
        if self.top is None or top >= self.top:
            self._count = int(np.count_nonzero(voxels == top)) + (self._count if top == self.top else 0)
            self.top = top
        counts = dict(self._sampled)
        for value, count in _two_largest(sample):
            counts[value] = counts.get(value, 0) + count
        self._sampled = sorted(counts.items(), reverse=True)[:2]

    def clipped(self) -> int:
        """Voxels at the largest value; 0 where that is neither the end of the dtype nor a spike."""
        if self.top is None or self.top == self._end:
            return self._count
        if len(self._sampled) < 2 or self._sampled[0][0] != float(self.top):
            return 0
        (_, most), (_, next_most) = self._sampled
        return self._count if most >= SPIKE * next_most else 0


def _two_largest(sample: NDArray[np.float64]) -> list[tuple[float, int]]:
    """The two largest values that occur, with how often."""
    found: list[tuple[float, int]] = []
    for _ in range(2):
        if sample.size == 0:
            break
        top = sample.max()
        smaller = sample[sample < top]
        found.append((float(top), sample.size - smaller.size))
        sample = smaller
    return found
