"""A level computed once more, in the plainest way there is and with none of the code that wrote it: the judge of the pyramid."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from emporter_contracts.geometry import Shape3
from emporter_contracts.plans import Role

Voxels = NDArray[Any]


def recomputed(voxels: Voxels, factor: Shape3, role: Role) -> Voxels:
    """`voxels`, axes z, y, x, halved by `factor`: the mean rounded half to even, for labels the smallest of the most frequent."""
    cells = _cells(voxels, factor)
    if role == "labels":
        return _modes(cells)
    if voxels.dtype.kind == "f":
        return _float_means(cells, factor)
    return _whole_means(cells)


def _cells(voxels: Voxels, factor: Shape3) -> Voxels:
    """The voxels of every cell along a fourth axis. Repeating the last plane of an odd edge changes neither mean nor mode."""
    even = np.pad(voxels, [(0, -n % f) for n, f in zip(voxels.shape, factor, strict=True)], mode="edge")
    (z, y, x), (fz, fy, fx) = even.shape, factor
    split = even.reshape(z // fz, fz, y // fy, fy, x // fx, fx)
    return split.transpose(0, 2, 4, 1, 3, 5).reshape(z // fz, y // fy, x // fx, fz * fy * fx)


def _whole_means(cells: Voxels) -> Voxels:
    n = cells.shape[-1]
    # Python's own whole numbers where eight 64-bit ones are summed: slow, and beyond doubt.
    wide = cells.astype(object) if cells.dtype.itemsize == 8 else cells.astype(np.int64)
    sums = wide.sum(axis=-1)
    floor, left = sums // n, sums % n
    up = (2 * left > n) | ((2 * left == n) & (floor % 2 == 1))
    return np.asarray(floor + up.astype(wide.dtype)).astype(cells.dtype)


def _float_means(cells: Voxels, factor: Shape3) -> Voxels:
    """Summed along x, then y, then z: float64 sums depend on their order, and this one is part of what a level is."""
    n = cells.shape[-1]
    known = ~np.isnan(cells)
    parts = np.where(known, cells.astype(np.float64) / n, 0.0).reshape(*cells.shape[:3], *factor)
    with np.errstate(all="ignore"):
        means: Voxels = parts.sum(axis=5).sum(axis=4).sum(axis=3) / (known.sum(axis=-1) / n)
        return means.astype(cells.dtype)


def _modes(cells: Voxels) -> Voxels:
    bits = cells.view(f"u{cells.dtype.itemsize}") if cells.dtype.kind == "f" else cells
    frequency = (bits[..., :, None] == bits[..., None, :]).sum(axis=-1)
    best = frequency == frequency.max(axis=-1, keepdims=True)
    largest = np.iinfo(bits.dtype).max
    modes: Voxels = np.where(best, bits, largest).min(axis=-1)
    return modes.view(cells.dtype)
