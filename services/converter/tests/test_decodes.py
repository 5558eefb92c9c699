"""How often a source really decodes what one voxel lies in, counted as a task reads it: what the plan says, and once where it can be."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import numpy as np
import pytest

from converter.memory import MIB
from converter.testing import a_volume, run_of
from converter.testing_memory import Noise
from emporter_contracts.geometry import Box, Shape3
from emporter_runtime.objects import Objects
from emporter_runtime.testing import file_store


class Counting(Noise):
    """Decodes whole cells, as files do, and counts their voxels; a call that cuts a cell pays for all of it."""

    def __init__(self, shape: Shape3, dtype: str, cell: Shape3) -> None:
        super().__init__(shape, dtype, cell)
        self.decoded = 0
        self._lock = threading.Lock()

    def read(self, box: Box) -> np.ndarray:
        axes = zip(box.start, box.stop, self.native.cell, self.shape, strict=True)
        cells = math.prod(min(n, -(-stop // c) * c) - start // c * c for start, stop, c, n in axes)
        with self._lock:
            self.decoded += cells
        return super().read(box)


@pytest.mark.parametrize(
    ("shape", "dtype", "cell", "memory", "once"),
    [
        ((64, 512, 700), "uint8", (1, 512, 700), 1024, True),
        ((1, 2000, 3000), "uint16", (1, 16, 3000), 1024, True),
        ((100, 150, 200), "uint16", (96, 96, 96), 512, True),
        ((64, 512, 512), "uint8", (1, 512, 512), 216, False),
        ((100, 300, 300), "uint8", (96, 96, 96), 210, False),
    ],
    ids=["pages", "one plane in strips", "chunks", "pages and little memory", "chunks and little memory"],
)
def test_a_voxel_is_decoded_as_often_as_the_plan_says_and_once_where_memory_allows(
    shape: Shape3, dtype: str, cell: Shape3, memory: int, once: bool, tmp_path: Path
) -> None:
    source = Counting(shape, dtype, cell)
    run = run_of(source, a_volume(shape, dtype), memory=memory * MIB)
    plan = run.plan().volumes[0]
    source.decoded = 0  # not what the codec was chosen by
    run.write(Objects.open(file_store(tmp_path)), plan)
    assert source.decoded / math.prod(shape) == pytest.approx(plan.over_read, rel=1e-3)
    assert (plan.over_read == 1) == once
