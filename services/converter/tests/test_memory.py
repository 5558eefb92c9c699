"""What is held is what was planned: a level made from the one below holds little of it, and a process what its plan says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from converter.downsampling import mean
from converter.memory import MIB, PIECE_BYTES
from converter.pyramid import HalvedReader
from emporter_contracts.geometry import Box, ChunkGrid, VoxelSize
from emporter_readers.array import ArrayReader


class Watched(ArrayReader):
    """Says how much was asked of it, in bytes, call by call."""

    asked: list[int]

    def read(self, box: Box) -> np.ndarray:
        self.asked.append(box.size * self.dtype.itemsize)
        return super().read(box)


@pytest.mark.parametrize(("cell", "most"), [((16, 32, 32), PIECE_BYTES), ((15, 33, 31), PIECE_BYTES), ((64, 512, 512), 16 * MIB)])
def test_a_level_is_made_from_one_piece_or_one_shard_at_a_time_of_the_level_below(cell: tuple[int, int, int], most: int) -> None:
    below = Watched(np.arange(64 * 512 * 1023, dtype=np.uint8).reshape(64, 512, 1023), VoxelSize(), ChunkGrid(cell))
    below.asked = []
    above = HalvedReader(below, (2, 2, 2), mean)
    box = Box((0, 0, 0), (32, 256, 512))
    np.testing.assert_array_equal(above.read(box), mean(below.array, (2, 2, 2)))
    assert max(below.asked) <= most
    assert sum(below.asked) == math.prod(below.shape)
    assert len(below.asked) <= 2 * math.prod(below.shape) / most + 8
