"""Reading a box out of a user's TIFF without Emporter, so that there is something to compare with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emporter_contracts.geometry import Box, Shape3

MOST_BYTES = 2**30
"""Of a compressed page or a whole series that would have to be read at once."""


def read_tiff_box(path: Path, box: Box, shape: Shape3, dtype: np.dtype[Any]) -> NDArray[Any] | None:
    """The voxels of `box` as tifffile reads them; None unless the file is one plain volume of this shape and dtype."""
    import tifffile

    if not path.is_file():
        return None
    try:
        with tifffile.TiffFile(path) as tiff:
            return _read(tiff, box, shape, dtype)
    except (tifffile.TiffFileError, ValueError, OSError):
        return None


def _read(tiff: Any, box: Box, shape: Shape3, dtype: np.dtype[Any]) -> NDArray[Any] | None:
    if len(tiff.series) != 1:
        return None
    series = tiff.series[0]
    kept = tuple(n for n in series.shape if n > 1)
    if kept != tuple(n for n in shape if n > 1) or series.dtype.newbyteorder("=") != dtype:
        return None
    z, y, x = box.slices()
    if len(tiff.pages) == shape[0]:
        if tiff.pages[0].nbytes > MOST_BYTES:
            return None
        pages = (np.squeeze(tiff.pages[n].asarray()).reshape(shape[1:])[y, x] for n in range(z.start, z.stop))
        return np.stack(list(pages)).astype(dtype, copy=False)
    if series.nbytes > MOST_BYTES:
        return None
    voxels: NDArray[Any] = series.asarray().reshape(shape)[z, y, x].astype(dtype, copy=False)
    return voxels
