"""Statistics against numpy over the whole array, and the same however the voxels are cut up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from converter.statistics import counter
from converter.testing import tissue
from emporter_contracts.records import Statistics

NARROW = ["uint8", "int8", "uint16", "int16"]
WIDE = ["uint32", "int32", "uint64", "int64", "float16", "float32", "float64"]


def statistics_of(voxels: np.ndarray, pieces: int = 1, *, window: bool = True) -> Statistics:
    counts = counter(voxels.dtype)
    for piece in np.array_split(voxels.reshape(-1), pieces):
        counts.add(piece)
    return counts.statistics(window=window)


@pytest.mark.parametrize("dtype", NARROW)
@settings(max_examples=80, deadline=None)
@given(data=st.data(), pieces=st.integers(1, 5))
def test_narrow_voxels_are_counted_exactly(dtype: str, data: st.DataObject, pieces: int) -> None:
    voxels = data.draw(hnp.arrays(dtype, st.integers(1, 300)))
    found = statistics_of(voxels, pieces)
    info = np.iinfo(dtype)
    assert (found.minimum, found.maximum) == (int(voxels.min()), int(voxels.max()))
    assert found.mean == pytest.approx(voxels.astype(float).mean(), abs=1e-9)
    assert found.std == pytest.approx(voxels.astype(float).std(), rel=1e-6, abs=1e-6)
    assert found.zero_share == (voxels == 0).mean()
    ends = {info.max} | ({info.min} if info.min else set())
    assert found.saturated_share == pytest.approx(np.isin(voxels, list(ends)).mean())
    assert sum(found.histogram) == voxels.size
    assert len(found.edges) == len(found.histogram) + 1 <= 257
    np.testing.assert_array_equal(found.histogram, np.histogram(voxels, bins=np.array(found.edges))[0])


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("pieces", [1, 7])
def test_wide_voxels_are_counted_well(dtype: str, pieces: int) -> None:
    voxels = tissue((20, 50, 60), dtype)
    voxels.flat[::10] = 0
    found = statistics_of(voxels, pieces)
    assert int(found.minimum) == int(voxels.min()) if voxels.dtype.kind != "f" else found.minimum == voxels.min()
    assert float(found.maximum) == float(voxels.max())
    assert found.mean == pytest.approx(voxels.astype(float).mean(), rel=1e-9, abs=1e-9)
    assert found.std == pytest.approx(voxels.astype(float).std(), rel=1e-6)
    assert found.zero_share == pytest.approx((voxels == 0).mean())
    assert sum(found.histogram) == voxels.size
    assert len(found.histogram) <= 256
    assert list(found.edges) == sorted(set(found.edges))
    low, high = np.quantile(voxels[voxels != 0].astype(float), [0.001, 0.999])
    spread = abs(high) + abs(low)
    assert float(found.window[0]) == pytest.approx(low, abs=0.01 * spread)
    assert float(found.window[1]) == pytest.approx(high, abs=0.01 * spread)


def test_voxels_that_are_no_number_are_counted_and_left_out() -> None:
    voxels = np.array([np.nan, 1, 3, np.inf, -np.inf, np.nan, 0, 4], np.float32)
    found = statistics_of(voxels)
    assert (found.minimum, found.maximum, found.mean) == (0, 4, 2)
    assert found.nan_share == 0.25
    assert found.zero_share == 0.125
    nothing = statistics_of(np.full(5, np.nan, np.float32))
    assert (nothing.minimum, nothing.mean, nothing.nan_share, nothing.window) == (None, None, 1, None)


def test_the_window_leaves_out_what_fills_a_stage() -> None:
    voxels = np.zeros(100_000, np.uint8)
    voxels[:20_000] = np.linspace(100, 200, 20_000).astype(np.uint8)
    assert statistics_of(voxels).window == (100, 199)
    wide = voxels.astype(np.float32)
    assert statistics_of(wide).window[0] == pytest.approx(100, rel=0.004)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "uint64"])
@pytest.mark.parametrize("value", [0, 7])
def test_a_window_is_never_empty(dtype: str, value: int) -> None:
    low, high = statistics_of(np.full(99, value, dtype)).window
    assert float(low) < float(high)


def test_numbers_past_what_json_holds_are_strings() -> None:
    found = statistics_of(np.array([2**63, 5], np.uint64))
    assert found.maximum == str(2**63)
    assert found.minimum == 5


def test_labels_have_no_window() -> None:
    assert statistics_of(tissue((3, 4, 5)), window=False).window is None


def test_large_floats_do_not_break_a_record() -> None:
    found = statistics_of(np.array([1e308, -1e308, 1e308], np.float64))
    assert found.std is None or np.isfinite(found.std)
    assert found.maximum == 1e308
