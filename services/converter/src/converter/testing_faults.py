"""Phantoms that go on from slice to slice as tissue does, clean and with one fault each. For tests and measurements."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from emporter_contracts.geometry import Shape3

Voxels = NDArray[Any]


def a_phantom(
    shape: Shape3 = (40, 160, 192), dtype: str = "uint8", *, seed: int = 0, step: float = 1.0, noise: float = 6.0, grain: int = 10
) -> Voxels:
    """Membranes around blobs of about `grain` voxels; `step` is how many voxels of tissue lie between two slices.

    Band-limited noise, the same in every direction and place: no slice is special.
    """
    random = np.random.default_rng(seed)
    spectrum = np.fft.rfftn(random.normal(size=shape))
    for axis, n in enumerate(shape):
        frequency = np.fft.rfftfreq(n) if axis == 2 else np.fft.fftfreq(n)
        width = grain / (2 * step) if axis == 0 else grain / 2
        kernel = np.exp(-2 * np.square(np.pi * frequency * width))
        spectrum = spectrum * kernel.reshape([-1 if a == axis else 1 for a in range(3)])
    tissue = np.fft.irfftn(spectrum, s=shape, axes=(0, 1, 2))
    tissue /= tissue.std() or 1.0
    grey = 150 - 90 * np.exp(-np.square(tissue) / 0.3) + random.normal(0, noise, shape)
    return _as(np.clip(grey, 5, 250), dtype)


def dropped(voxels: Voxels, z: int) -> Voxels:
    """Without slice z: the gap lies before what is slice z now."""
    return np.delete(voxels, z, axis=0)


def duplicated(voxels: Voxels, z: int) -> Voxels:
    """Slice z - 1 once more, as slice z."""
    return np.insert(voxels, z, voxels[z - 1], axis=0)


def swapped(voxels: Voxels, z: int) -> Voxels:
    """Slices z and z + 1 exchanged."""
    changed = voxels.copy()
    changed[[z, z + 1]] = voxels[[z + 1, z]]
    return changed


def shifted(voxels: Voxels, z: int, by: tuple[int, int] = (9, -14)) -> Voxels:
    """Slice z alone displaced by (y, x) voxels."""
    changed = voxels.copy()
    changed[z] = np.roll(voxels[z], by, axis=(0, 1))
    return changed


def saturated_block(voxels: Voxels, first: int, stop: int) -> Voxels:
    """A quarter of each slice from `first` to `stop` at the top of the dtype."""
    changed = voxels.copy()
    changed[first:stop, : voxels.shape[1] // 2, : voxels.shape[2] // 2] = np.iinfo(voxels.dtype).max
    return changed


def empty_half(voxels: Voxels) -> Voxels:
    """The second half of the slices is 0."""
    changed = voxels.copy()
    changed[len(voxels) // 2 :] = 0
    return changed


def _as(grey: Voxels, dtype: str) -> Voxels:
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return (grey / 255).astype(kind)
    scale = {1: 1, 2: 200, 4: 60_000}[kind.itemsize]
    offset = -(128 * scale) if kind.kind == "i" else 0
    return (grey * scale + offset).astype(kind)
