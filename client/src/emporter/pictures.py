"""Voxels into files people open: .npy, .tif, .png. Axis order z, y, x."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SUFFIXES = (".npy", ".tif", ".tiff", ".png")
PERCENTILES = (0.1, 99.9)
"""What is black and what white in a picture of voxels wider than 8 bits."""
GAP = 4
"""Pixels between the three slices of one picture."""


def write_block(path: Path, voxels: NDArray[Any]) -> None:
    """By the name's ending: all voxels as .npy or as a TIFF of z pages, or the middle z slice as an 8-bit .png."""
    if path.suffix == ".npy":
        with path.open("wb") as file:
            np.save(file, voxels)
    elif path.suffix == ".png":
        path.write_bytes(png(grey(voxels)[voxels.shape[0] // 2]))
    else:
        import tifffile

        tifffile.imwrite(path, voxels, photometric="minisblack", metadata=None)


def grey(voxels: NDArray[Any]) -> NDArray[np.uint8]:
    """8-bit voxels as they are; others from black to white between two percentiles of them all."""
    if voxels.dtype == np.uint8:
        return voxels
    finite = voxels[np.isfinite(voxels)].astype(np.float64)
    low, high = np.percentile(finite, PERCENTILES) if finite.size else (0.0, 1.0)
    scaled = (voxels.astype(np.float64) - low) / ((high - low) or 1.0)
    return np.asarray(np.clip(np.nan_to_num(scaled), 0, 1) * 255, dtype=np.uint8)


def three_slices(voxels: NDArray[Any]) -> NDArray[np.uint8]:
    """The three middle slices as one picture: z across at the upper left, y below it, x to its right."""
    z, y, x = (n // 2 for n in voxels.shape)
    shown = grey(voxels)
    across_z, across_y, across_x = shown[z], shown[:, y], shown[:, :, x].T
    height = across_z.shape[0] + GAP + across_y.shape[0]
    width = across_z.shape[1] + GAP + across_x.shape[1]
    picture = np.full((height, width), 255, np.uint8)
    picture[: across_z.shape[0], : across_z.shape[1]] = across_z
    picture[across_z.shape[0] + GAP :, : across_y.shape[1]] = across_y
    picture[: across_x.shape[0], across_z.shape[1] + GAP :] = across_x
    return picture


def png(picture: NDArray[np.uint8]) -> bytes:
    """A grey picture, rows and columns."""
    import imagecodecs

    return bytes(imagecodecs.png_encode(np.ascontiguousarray(picture)))
