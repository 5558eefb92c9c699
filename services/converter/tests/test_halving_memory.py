"""Halving works on a little at a time, however large a plane is, and gives what it gives of the whole."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from converter import downsampling
from converter.downsampling import BLOCK_BYTES, Halving, mean, mode
from converter.testing import segments, tissue


@pytest.mark.parametrize("factor", [(1, 2, 2), (2, 2, 2), (2, 1, 1), (1, 1, 2)])
@pytest.mark.parametrize("block", [1, 300, 5_000])
@pytest.mark.parametrize(("halve", "dtype"), [(mean, "uint8"), (mean, "float32"), (mean, "int16"), (mode, "uint32")])
def test_blocks_of_planes_and_rows_give_what_the_whole_gives(
    halve: Halving, dtype: str, block: int, factor: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    voxels = segments((5, 37, 41), dtype) if halve is mode else tissue((5, 37, 41), dtype)
    whole = halve(voxels, factor)
    monkeypatch.setattr(downsampling, "BLOCK_BYTES", block)
    np.testing.assert_array_equal(halve(voxels, factor), whole)


@pytest.mark.parametrize(("halve", "dtype"), [(mean, "uint8"), (mean, "float32"), (mode, "uint8")])
def test_a_single_large_plane_is_halved_in_the_memory_of_a_few_blocks(halve: Halving, dtype: str) -> None:
    plane = tissue((1, 2048, 2048), dtype)
    tracemalloc.start()
    try:
        above = halve(plane, (1, 2, 2))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - above.nbytes < 6 * BLOCK_BYTES
