"""Pixels of several samples: when they are grey, and what becomes of them when they are not."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from emporter_readers.errors import UnsupportedContentError

SAY_RGB = "say rgb: luma for one grey volume, or rgb: split for one volume per colour"


def combined(voxels: NDArray[Any], into: Literal["grey", "luma"], name: str) -> NDArray[Any]:
    """Colours as grey, `voxels` with the samples last; a fourth sample is opacity and left out.

    Raises UnsupportedContentError where `grey` was promised by a sample of the image and this part of it is coloured.
    """
    if into == "luma":
        return luma(voxels)
    if not is_grey(voxels):
        raise UnsupportedContentError(f"{name}: its colours differ, here and there", hint=SAY_RGB)
    return np.ascontiguousarray(voxels[..., 0])


def is_grey(voxels: NDArray[Any]) -> bool:
    """Whether red, green and blue are equal everywhere."""
    red, green, blue = (voxels[..., k] for k in range(3))
    return bool(np.array_equal(red, green) and np.array_equal(red, blue))


def luma(voxels: NDArray[Any]) -> NDArray[Any]:
    """ITU-R BT.601 luma, 0.299 R + 0.587 G + 0.114 B, of gamma-coded values as stored, rounded half up; dtype is kept.

    Exact in integers, so equal colours give back their value.
    """
    if voxels.dtype.kind == "f":
        weights = np.array([0.299, 0.587, 0.114])
        return np.ascontiguousarray((voxels[..., :3].astype(np.float64) @ weights).astype(voxels.dtype))
    wide = np.int64 if voxels.dtype.itemsize > 2 or voxels.dtype.kind == "i" else np.uint32
    weighted: NDArray[Any] = voxels[..., :3].astype(wide) @ np.array([299, 587, 114], wide)
    return np.ascontiguousarray(((weighted + 500) // 1000).astype(voxels.dtype))
