"""A phantom: made by a formula, so that anyone can compare every voxel. It is no microscopy, and its TIFF says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SHAPE = (160, 192, 224)
"""Voxels z, y, x: large enough for a pyramid and a 128³ block at an odd place, small enough for seconds."""
VOXEL_SIZE_NM = (16.0, 8.0, 8.0)
"""Anisotropic, as sections are: an exchange of axes would show."""
SEED = 20_240_229
MEMBRANE, CYTOSOL, VESICLE = 60, 170, 110
"""Grey values before noise."""


def phantom() -> NDArray[np.uint8]:
    """Wavy membranes, round vesicles and noise; uint8, z, y, x; the same on every machine."""
    z, y, x = (np.arange(n, dtype=np.float64)[(..., *(None,) * (2 - axis))] for axis, n in enumerate(SHAPE))
    # A gyroid's surfaces look like folded membranes: thin where its value is near zero.
    gyroid = np.sin(z / 9) * np.cos(y / 14) + np.sin(y / 14) * np.cos(x / 17) + np.sin(x / 17) * np.cos(z / 9)
    grey = np.where(np.abs(gyroid) < 0.18, MEMBRANE, CYTOSOL).astype(np.int16)
    drawn = np.random.Generator(np.random.PCG64(SEED))
    for cz, cy, cx in drawn.integers((8, 8, 8), np.array(SHAPE) - 8, (60, 3)):
        near = (slice(cz - 8, cz + 9), slice(cy - 8, cy + 9), slice(cx - 8, cx + 9))
        dz, dy, dx = np.ogrid[-8:9, -8:9, -8:9]
        grey[near][((dz * 2) ** 2 + dy**2 + dx**2 <= 49)[tuple(slice(0, n) for n in grey[near].shape)]] = VESICLE
    noise = drawn.integers(-20, 21, SHAPE, dtype=np.int16)
    voxels: NDArray[np.uint8] = np.clip(grey + noise, 0, 255).astype(np.uint8)
    return voxels


def write_tiff(path: Path, voxels: NDArray[np.uint8]) -> None:
    """A multipage TIFF as ImageJ writes it, with the voxel size in it."""
    import tifffile

    z, y, x = VOXEL_SIZE_NM
    metadata = {"axes": "ZYX", "spacing": z, "unit": "nm", "Info": "Phantom made by emporter demo: no microscopy."}
    tifffile.imwrite(path, voxels, imagej=True, resolution=(1 / x, 1 / y), metadata=metadata)
