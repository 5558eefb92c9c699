from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
from hypothesis import given
from hypothesis import strategies as st

from block_server import arrays
from block_server.arrays import Level, OpenVolume
from block_server.cropping import crop, source_indices
from block_server.errors import OutsideVolumeError
from emporter_contracts.geometry import Box
from emporter_contracts.ids import VolumeRef

EXTENT = st.integers(1, 9)
START = st.integers(-25, 25)
LENGTH = st.integers(1, 20)
THREE = st.tuples
AROUND = 50


def volume_of(voxels: np.ndarray) -> tuple[OpenVolume, Level]:
    """An open volume over an array in memory, in chunks of 2 x 3 x 4."""
    store = ts.array(voxels)
    level = Level(0, "0", voxels.shape, (2, 3, 4), (4, 6, 8), voxels.dtype, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1, 1, 1), store)
    return OpenVolume(VolumeRef("v", 1), "", Nothing(), (level,)), level


@dataclass
class Nothing:
    """Cropping does not look at the record."""

    metadata: Any = None


@given(
    THREE(EXTENT, EXTENT, EXTENT),
    THREE(START, START, START),
    THREE(LENGTH, LENGTH, LENGTH),
    st.sampled_from(["constant", "reflect", "edge"]),
)
def test_every_crop_is_a_slice_of_numpys_padded_array(extents, origin, shape, outside):
    voxels = np.arange(1, np.prod(extents) + 1, dtype=np.uint16).reshape(extents)
    volume, level = volume_of(voxels)
    got = asyncio.run(crop(volume, level, Box.at(origin, shape), outside).read())
    padded = np.pad(voxels, AROUND, mode=outside)
    expected = padded[tuple(slice(o + AROUND, o + AROUND + n) for o, n in zip(origin, shape, strict=True))]
    assert got.flags.c_contiguous
    assert np.array_equal(got, expected)


@given(THREE(EXTENT, EXTENT, EXTENT), THREE(START, START, START), THREE(LENGTH, LENGTH, LENGTH))
def test_by_default_a_box_is_exact_or_refused(extents, origin, shape):
    voxels = np.arange(np.prod(extents), dtype=np.int32).reshape(extents)
    volume, level = volume_of(voxels)
    inside = all(o >= 0 and o + n <= extent for o, n, extent in zip(origin, shape, extents, strict=True))
    if not inside:
        with pytest.raises(OutsideVolumeError, match="leaves"):
            crop(volume, level, Box.at(origin, shape), "error")
        return
    got = asyncio.run(crop(volume, level, Box.at(origin, shape), "error").read())
    assert np.array_equal(got, voxels[tuple(slice(o, o + n) for o, n in zip(origin, shape, strict=True))])


@given(EXTENT, START, LENGTH)
def test_source_indices_stay_in_the_volume_however_far_away(extent, start, length):
    for outside in ("reflect", "edge"):
        index = source_indices(start * 10**9, start * 10**9 + length, extent, outside)
        assert index.min() >= 0
        assert index.max() < extent


@given(THREE(EXTENT, EXTENT, EXTENT), st.data(), st.integers(1, 200))
def test_reading_in_pieces_changes_nothing(extents, data, limit):
    voxels = np.arange(np.prod(extents), dtype=np.uint8).reshape(extents)
    volume, level = volume_of(voxels)
    start = tuple(data.draw(st.integers(0, n - 1)) for n in extents)
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, extents, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "VOXELS", limit)
        got = asyncio.run(volume.read(level, Box(start, stop)))
    assert np.array_equal(got, voxels[Box(start, stop).slices()])


@given(st.integers(1, 10_000), st.integers(0, 12))
def test_the_factor_of_a_level_is_told_by_its_shape(extent, halvings):
    shape = extent
    factor = 1
    for _ in range(halvings):
        if shape > 1:
            shape, factor = -(-shape // 2), factor * 2
    assert arrays._factor(extent, shape) == factor
