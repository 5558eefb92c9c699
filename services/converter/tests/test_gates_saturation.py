"""Clipped voxels are found at whatever value they are clipped, in their slices, and are not taken for lost slices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from converter.testing_faults import a_phantom, dropped, saturated_block
from converter.testing_gates import facts_of, found, gate, quality_of

Voxels = NDArray[Any]
BLOCK = tuple(range(12, 17))


def scaled(dtype: str, by: float = 1.0, *, offset: float = 0.0, seed: int = 0) -> Voxels:
    return (a_phantom(seed=seed).astype(np.float64) * by + offset).astype(dtype)


def with_a_block(voxels: Voxels, top: float) -> Voxels:
    """A quarter of slices 12 to 16 at `top`."""
    changed = voxels.copy()
    changed[12:17, : voxels.shape[1] // 2, : voxels.shape[2] // 2] = top
    return changed


CLIPPED: dict[str, Callable[[], Voxels]] = {
    "8 bits": lambda: saturated_block(a_phantom(), 12, 17),
    "16 bits": lambda: with_a_block(scaled("uint16", 200), 65535),
    "12 bits in 16": lambda: with_a_block(scaled("uint16", 16), 4095),
    "14 bits in signed 16": lambda: with_a_block(scaled("int16", 60, offset=-8192), 8191),
    "16 bits in 32": lambda: with_a_block(scaled("uint32", 200), 65535),
    "floats to 1": lambda: with_a_block(scaled("float32", 1 / 255), 1.0),
    "floats below 0": lambda: with_a_block(scaled("float64", 1 / 255, offset=-10), -9.0),
    "8 bits in floats": lambda: with_a_block(scaled("float32"), 255.0),
}


@pytest.mark.parametrize("kind", CLIPPED)
def test_a_saturated_block_is_found_in_its_slices_and_nothing_else_is(kind: str) -> None:
    quality = quality_of(CLIPPED[kind]())
    assert found(quality) == {"saturated": BLOCK}
    assert gate(quality, "saturated").measured == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("kind", ["8 bits", "12 bits in 16", "floats to 1"])
def test_a_slice_lost_beside_a_saturated_block_is_found_all_the_same(kind: str) -> None:
    for z in (12, 15, 25):
        quality = found(quality_of(dropped(CLIPPED[kind](), z)))
        assert quality["missing"] == (z,)
        assert set(quality) == {"missing", "saturated"}


def test_a_camera_that_clips_everywhere_is_found_by_all_slices() -> None:
    fine = (a_phantom(dtype="float32") * 4080).astype(np.uint16)
    quality = quality_of(np.minimum(fine, 2400))
    assert found(quality) == {"saturated": tuple(range(40))}
    assert "2400" in gate(quality, "saturated").evidence


def test_one_hot_pixel_above_the_clipped_value_hides_nothing() -> None:
    voxels = CLIPPED["12 bits in 16"]()
    voxels[30, 5, 5] = 5000
    assert found(quality_of(voxels)) == {"saturated": BLOCK}


def few_greys(values: int) -> Voxels:
    return (a_phantom(seed=3).astype(np.uint16) * values // 200).astype(np.uint8)


def with_a_soft_background() -> Voxels:
    """A bright background of a size that varies, whose greys end at 254 in fewer and fewer steps."""
    soft = 255 - np.random.default_rng(1).geometric(0.6, (20, 96, 96))
    phantom = a_phantom((20, 96, 96), seed=6)
    for z in range(20):
        phantom[z, : 10 + 3 * z] = soft[z, : 10 + 3 * z]
    return phantom


def with_a_dim_slice() -> Voxels:
    phantom = a_phantom((20, 96, 96), seed=7)
    phantom[8] = np.random.default_rng(2).random((96, 96)) < 0.95
    return phantom


UNCLIPPED: dict[str, Callable[[], Voxels]] = {
    "few greys": lambda: few_greys(12),
    "a soft background": with_a_soft_background,
    "a dim slice": with_a_dim_slice,
    "counts": lambda: np.random.default_rng(0).poisson(1.5, (20, 64, 64)).astype(np.uint8),
    "one of many floats": lambda: a_phantom(dtype="float32", seed=4),
    "scaled slice by slice": lambda: np.stack([s / s.max() for s in a_phantom(seed=5).astype(np.float32)]),
    "a drawing": lambda: np.stack([np.where(np.arange(64 * 64).reshape(64, 64) < 150 * z, 255, 9) for z in range(20)]).astype(
        np.uint8
    ),
    "a labelled picture": lambda: (np.indices((20, 64, 64)).sum(0) // 30).astype(np.uint8),
    "floats that are not numbers": lambda: np.where(np.indices((20, 64, 64))[2] < 20, np.nan, a_phantom((20, 64, 64), "float32")),
}


@pytest.mark.parametrize("kind", UNCLIPPED)
def test_a_largest_value_that_is_merely_frequent_is_not_saturation(kind: str) -> None:
    assert "saturated" not in found(quality_of(UNCLIPPED[kind]()))


@pytest.mark.parametrize("kind", ["12 bits in 16", "floats to 1"])
def test_rows_of_a_clipped_slice_one_by_one_give_the_same_facts(kind: str) -> None:
    voxels = CLIPPED[kind]()[10:14]
    assert facts_of(voxels, rows=7).document() == facts_of(voxels).document()
