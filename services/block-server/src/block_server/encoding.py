"""Voxels as bytes: raw, npy, and pictures of slices."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Literal

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from block_server.errors import UnsuitableViewError
from emporter_contracts.errors import InvalidValueError
from emporter_contracts.records import MetadataRecord

PNG_LEVEL = 1
"""Noise hardly compresses, so more effort buys little: on membranes, level 6 is 4 times slower for 3 % less."""
BAND_BYTES = 4 * 2**20
"""Of a slice brought to 8 bits at once, so that a large plane needs no second plane of floats."""

BlockFormat = Literal["raw", "npy"]
MEDIA_TYPES: dict[BlockFormat, str] = {"raw": "application/octet-stream", "npy": "application/x-npy"}


@dataclass(frozen=True, slots=True)
class Window:
    """What becomes black (`low` and below) and white (`high` and above) in a picture."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise InvalidValueError(f"window {self} is empty", hint="write window=low,high with low less than high")

    def __str__(self) -> str:
        return f"{self.low:.17g},{self.high:.17g}"


def raw(voxels: NDArray[Any]) -> memoryview:
    """The bytes of a C-ordered array, without a copy."""
    return voxels.reshape(-1).view(np.uint8).data


def npy_header(voxels: NDArray[Any]) -> bytes:
    """What stands before the raw bytes in a .npy file, version 1.0 (numpy.lib.format)."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, np.lib.format.header_data_from_array_1_0(voxels))
    return out.getvalue()


def window_of(text: str, dtype: np.dtype[Any], record: MetadataRecord) -> Window | None:
    """The window `auto`, `full` or `low,high` means for a volume; None where voxels are grey values as they are.

    `auto` is the record's (0.1 to 99.9 percentile), `full` the true minimum and maximum. Raises UnsuitableViewError where
    there is none: for 64-bit integers, which are names rather than grey values, and for labels.
    """
    if text not in {"auto", "full"}:
        return _given(text)
    if text == "auto" and dtype == np.uint8:
        return None
    statistics = record.metadata.technical.statistics
    labels = record.metadata.core.role == "labels"
    names = dtype.kind in "iu" and dtype.itemsize == 8
    if statistics is None or names or (labels and text == "auto"):
        raise _unsuitable(dtype, "labels" if labels else "voxels")
    extremes = (statistics.minimum, statistics.maximum)
    low, high = statistics.window if text == "auto" and statistics.window is not None else extremes
    if low is None or high is None:
        raise _unsuitable(dtype, "not finite everywhere")
    return _spread(float(low), float(high))


def grey(plane: NDArray[Any], window: Window | None) -> NDArray[np.uint8]:
    """An 8-bit picture of a 2-D array; NaN is black."""
    if window is None:
        return np.ascontiguousarray(plane, np.uint8)
    out = np.empty(plane.shape, np.uint8)
    rows = max(1, BAND_BYTES // (8 * plane.shape[1]))
    for first in range(0, plane.shape[0], rows):
        band = plane[first : first + rows].astype(np.float64)
        band -= window.low
        band *= 255
        band /= window.high - window.low
        np.clip(np.nan_to_num(band, copy=False, nan=0.0), 0, 255, out=band)
        np.rint(band, out=band)
        out[first : first + rows] = band
    return out


def png(picture: NDArray[np.uint8]) -> bytes:
    """An 8-bit grey PNG, rows first."""
    return bytes(imagecodecs.png_encode(picture, level=PNG_LEVEL))


def _given(text: str) -> Window:
    parts = text.split(",")
    try:
        low, high = (float(part) for part in parts)
    except ValueError:
        raise InvalidValueError(f"window {text[:40]!r} is no window", hint="write auto, full, or low,high") from None
    if not np.isfinite([low, high]).all():
        raise InvalidValueError(f"window {text[:40]!r} is not finite", hint="write auto, full, or low,high")
    return Window(low, high)


def _spread(low: float, high: float) -> Window:
    """A volume of one value everywhere is black."""
    return Window(low, high if high > low else low + 1)


def _unsuitable(dtype: np.dtype[Any], what: str) -> UnsuitableViewError:
    return UnsuitableViewError(
        f"{dtype.name} {what} have no grey values of their own", hint="say which: window=low,high; or ask for the block itself"
    )
