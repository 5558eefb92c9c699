"""Means and modes against the plain judge, Python's own numbers, and by what they promise."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from converter import downsampling
from converter.downsampling import halved_shape, mean, mode
from converter.recomputing import recomputed
from converter.testing import segments, tissue

FACTORS = [(2, 2, 2), (1, 2, 2), (2, 1, 1), (1, 1, 2), (2, 1, 2), (1, 2, 1), (2, 2, 1), (1, 1, 1)]
WHOLE = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]
FLOATS = ["float16", "float32", "float64"]
shapes = st.tuples(st.integers(1, 7), st.integers(1, 9), st.integers(1, 9))


def exact_mean(cell: np.ndarray) -> int:
    """By fractions: nothing overflows, nothing is rounded twice. Python rounds halves to even."""
    return round(Fraction(sum(int(v) for v in cell.flat), cell.size))


def cells(voxels: np.ndarray, factor: tuple[int, int, int]):
    for index in np.ndindex(*halved_shape(voxels.shape, factor)):
        yield index, voxels[tuple(slice(i * f, (i + 1) * f) for i, f in zip(index, factor, strict=True))]


@pytest.mark.parametrize("dtype", WHOLE)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), factor=st.sampled_from(FACTORS))
def test_means_of_whole_numbers_are_exact_also_at_the_ends_of_the_dtype(dtype: str, data: st.DataObject, factor) -> None:
    voxels = data.draw(hnp.arrays(dtype, shapes))
    halved = mean(voxels, factor)
    assert halved.dtype == voxels.dtype
    for index, cell in cells(voxels, factor):
        assert int(halved[index]) == exact_mean(cell)


@pytest.mark.parametrize("dtype", WHOLE)
def test_a_volume_of_the_largest_number_stays_that(dtype: str) -> None:
    for value in (np.iinfo(dtype).max, np.iinfo(dtype).min):
        voxels = np.full((5, 7, 9), value, dtype)
        assert (mean(voxels, (2, 2, 2)) == value).all()


def test_halves_are_rounded_to_even_so_a_pyramid_does_not_drift() -> None:
    voxels = np.array([[[0, 1, 1, 2, 2, 3, 3, 4]]], np.uint8)
    np.testing.assert_array_equal(mean(voxels, (1, 1, 2)), [[[0, 2, 2, 4]]])
    noise = tissue((64, 64, 64), "uint8")
    assert abs(float(mean(noise, (2, 2, 2)).mean()) - float(noise.mean())) < 0.02


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("dtype", WHOLE + FLOATS)
def test_a_level_is_what_the_judge_computes(dtype: str, factor: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    voxels = tissue((9, 21, 33), dtype)
    np.testing.assert_array_equal(mean(voxels, factor), recomputed(voxels, factor, "image"))
    monkeypatch.setattr(downsampling, "BLOCK_BYTES", 1000)
    np.testing.assert_array_equal(mean(voxels, factor), recomputed(voxels, factor, "image"))


@pytest.mark.parametrize("dtype", FLOATS)
def test_float_voxels_that_are_no_number_are_left_out(dtype: str) -> None:
    voxels = np.array([[[1, np.nan], [3, 5]], [[np.nan] * 2] * 2], dtype)
    assert mean(voxels, (2, 2, 2)).item() == 3
    assert mean(voxels[:1], (1, 1, 2)).tolist() == [[[1], [4]]]
    assert np.isnan(mean(voxels[1:], (1, 2, 2)).item())


def test_large_floats_do_not_overflow_on_the_way() -> None:
    largest = np.finfo(np.float64).max
    assert mean(np.full((2, 2, 2), largest), (2, 2, 2)).item() == largest
    assert np.isinf(mean(np.full((2, 2, 2), np.inf), (2, 2, 2)).item())


@pytest.mark.parametrize("dtype", WHOLE)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), factor=st.sampled_from(FACTORS))
def test_a_mode_is_the_smallest_of_the_most_frequent(dtype: str, data: st.DataObject, factor) -> None:
    few = st.sampled_from([0, 1, 2, 7, int(np.iinfo(dtype).max)])
    labels = data.draw(hnp.arrays(dtype, shapes, elements=few))
    halved = mode(labels, factor)
    assert halved.dtype == labels.dtype
    for index, cell in cells(labels, factor):
        values, counts = np.unique(cell, return_counts=True)
        assert halved[index] == values[counts == counts.max()].min()


def test_labels_of_segments_are_what_the_judge_computes_and_are_never_new_ones() -> None:
    labels = segments((33, 50, 47), "uint64")
    halved = mode(labels, (2, 2, 2))
    np.testing.assert_array_equal(halved, recomputed(labels, (2, 2, 2), "labels"))
    assert set(np.unique(halved)) <= set(np.unique(labels))


def test_float_labels_are_compared_by_their_bits() -> None:
    labels = np.array([[[1.5, 1.5], [np.nan, np.nan]], [[1.5, 2.5], [2.5, 2.5]]], np.float32)
    assert mode(labels, (2, 2, 2)).item() == 1.5


def test_a_view_that_is_not_contiguous_is_halved_like_its_copy() -> None:
    voxels = tissue((20, 40, 60), "uint16")
    part = voxels[3:18, 5:31, 7:50]
    np.testing.assert_array_equal(mean(part, (2, 2, 2)), mean(part.copy(), (2, 2, 2)))
