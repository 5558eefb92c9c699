"""EPFL's folder of TIFF files: small ones of the same dress, uncompressed pages without a word about voxel sizes."""

from __future__ import annotations

import io

import numpy as np
import tifffile
from numpy.typing import NDArray

from emporter_archives.server import FileServer

FOLDER = "/groups/c/cv/cvlab-unit/www/data/%20ElectronMicroscopy_Hippocampus/"
"""The `%20` is part of the name as it stands on the wire."""


def volume(shape: tuple[int, int, int] = (12, 48, 64), seed: int = 0) -> NDArray[np.uint8]:
    """Grey noise, z y x."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def labels(shape: tuple[int, int, int] = (12, 48, 64)) -> NDArray[np.uint8]:
    """One mitochondrion, 0 and 255, z y x."""
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(n // 4, 3 * n // 4) for n in shape)] = 255
    return mask


def multipage(voxels: NDArray[np.uint8]) -> bytes:
    """One page a slice, no metadata."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as tiff:
        for page in voxels:
            tiff.write(page, contiguous=False, metadata=None, photometric="minisblack")
    return file.getvalue()


def serve(server: FileServer) -> str:
    """Put the five files on a server; the base URL to configure."""
    for name, voxels in (
        ("volumedata", volume((16, 48, 64), 1)),
        ("training", volume(seed=2)),
        ("training_groundtruth", labels()),
        ("testing", volume(seed=3)),
        ("testing_groundtruth", labels()),
    ):
        server.put(f"{FOLDER}{name}.tif", multipage(voxels))
    return server.url(FOLDER)
