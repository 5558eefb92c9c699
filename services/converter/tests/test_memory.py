"""What is held is what was planned: a level made from the one below holds little of it, and a process what its plan says."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from dataclasses import asdict, dataclass

import numpy as np
import pytest

from converter.downsampling import mean
from converter.memory import BASE_BYTES, MIB, PIECE_BYTES, PROCESS_BYTES
from converter.pyramid import HalvedReader
from emporter_contracts.geometry import Box, ChunkGrid, Shape3, VoxelSize
from emporter_readers.array import ArrayReader

DRAWS = int(os.environ.get("EMPORTER_MEMORY_DRAWS", "0"))
"""Volumes that are drawn besides the few that are always converted; half a minute each, at most."""


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


@dataclass(frozen=True)
class Asked:
    """A volume and the budget of the process that converts it. `origin` is where a region begins, in a source whose cells are laid
    from 0, 0, 0.
    """

    shape: Shape3
    dtype: str
    cell: Shape3
    memory: int
    origin: Shape3 = (0, 0, 0)
    role: str = "image"


FEW = [
    Asked((1, 5792, 5792), "uint8", (1, 5792, 5792), 512 * MIB),
    Asked((1, 4096, 8000), "uint16", (1, 1, 8000), 1024 * MIB),
    Asked((100, 500, 500), "uint16", (96, 96, 96), 384 * MIB),
    Asked((40, 300, 300), "float32", (40, 64, 64), 320 * MIB, origin=(0, 17, 33)),
    Asked((30, 200, 200), "uint32", (1, 200, 200), 1024 * MIB, role="labels"),
]


def drawn(seed: int) -> Asked:
    """Up to 160 MiB: planes, slabs, cubes and columns, in strips, pages and chunks on and off the grid of our shards."""
    choose = random.Random(seed)
    dtype = choose.choice(["uint8", "uint16", "float32", "uint64"])
    voxels = choose.choice([8, 40, 160]) * MIB // np.dtype(dtype).itemsize
    z = choose.choice([1, 2, choose.randint(3, 70), choose.randint(71, 400), choose.randint(401, 1500)])
    y = max(1, int(math.sqrt(voxels / z) * choose.uniform(0.6, 1.6)))
    x = max(1, voxels // z // y)
    cells = [(1, 16, x), (1, y, x), (1, y, x), (64, 64, 64), (1, 512, 512), (96, 96, 96), (128, 128, 128)]
    cz, cy, cx = map(min, choose.choice(cells), (z, y, x))
    origin = (0, choose.randint(0, 100), choose.randint(0, 100)) if choose.random() < 0.3 else (0, 0, 0)
    memory = choose.choice([320, 384, 512, 1024, 2048]) * MIB
    return Asked((z, y, x), dtype, (cz, cy, cx), memory, origin, choose.choice(["image", "image", "labels"]))


@pytest.mark.parametrize("asked", FEW + [drawn(seed) for seed in range(DRAWS)], ids=str)
def test_a_process_holds_what_the_plan_says_within_a_quarter_and_never_more_than_its_budget(asked: Asked) -> None:
    command = [sys.executable, "-m", "converter.testing_memory", json.dumps(asdict(asked))]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert 0.75 * found["planned"] <= found["peak"] <= 1.25 * found["planned"]
    assert found["planned"] + BASE_BYTES - PROCESS_BYTES <= asked.memory
    assert found["peak"] <= asked.memory
