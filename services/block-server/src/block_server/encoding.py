"""Slices as pictures, and what is black and white in them."""

from __future__ import annotations

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

PictureFormat = Literal["png", "jpeg", "webp"]
PICTURE_TYPES: dict[PictureFormat, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
QUALITY = 90
"""Of jpeg and webp: membranes stay sharp, at a quarter of the PNG's bytes."""
LONGEST_SIDE: dict[PictureFormat, int] = {"png": 2**31 - 1, "jpeg": 65500, "webp": 16383}
"""Pixels that the format (JPEG: libjpeg's limit) can hold along a side."""
Depth = Literal[8, 16]


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


def window_of(text: str, dtype: np.dtype[Any], record: MetadataRecord, depth: Depth = 8) -> Window | None:
    """The window `auto`, `full` or `low,high` means for a volume; None where voxels are grey values as they are: of as many bits,
    or, in a picture of 16, of fewer.

    `auto` is the record's (0.1 to 99.9 percentile), `full` the true minimum and maximum. Raises UnsuitableViewError where
    there is none: for 64-bit integers, which are names rather than grey values, and for labels.
    """
    if text not in {"auto", "full"}:
        return _given(text)
    if text == "auto" and dtype.kind == "u" and (dtype.itemsize == 1 or depth == 16 == 8 * dtype.itemsize):
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


def grey(plane: NDArray[Any], window: Window | None, depth: Depth = 8) -> NDArray[Any]:
    """An 8- or 16-bit picture of a 2-D array; NaN is black."""
    kind = np.uint8 if depth == 8 else np.uint16
    if window is None:
        return np.ascontiguousarray(plane, kind)
    out = np.empty(plane.shape, kind)
    white = np.iinfo(kind).max
    rows = max(1, BAND_BYTES // (8 * plane.shape[1]))
    for first in range(0, plane.shape[0], rows):
        band = plane[first : first + rows].astype(np.float64)
        band -= window.low
        band *= white
        band /= window.high - window.low
        np.clip(np.nan_to_num(band, copy=False, nan=0.0, posinf=np.inf, neginf=-np.inf), 0, white, out=band)
        np.rint(band, out=band)
        out[first : first + rows] = band
    return out


def check_picture(side: int, form: PictureFormat, depth: Depth) -> None:
    """Raises UnsuitableViewError where a format has no such pictures; `side` is the longer one, in pixels."""
    if depth == 16 and form != "png":
        raise UnsuitableViewError(f"{form} holds 8 bits", hint="say format=png with depth=16")
    if side > LONGEST_SIDE[form]:
        raise UnsuitableViewError(f"{form} holds {LONGEST_SIDE[form]} pixels along a side, not {side}", hint="say format=png")


def encoded(picture: NDArray[Any], form: PictureFormat) -> bytes:
    """A grey picture, rows first; jpeg and webp are lossy. Blocking, and worth a thread of its own."""
    match form:
        case "png":
            return bytes(imagecodecs.png_encode(picture, level=PNG_LEVEL))
        case "jpeg":
            return bytes(imagecodecs.jpeg8_encode(picture, level=QUALITY))
        case "webp":
            colours = np.repeat(picture[:, :, np.newaxis], 3, axis=2)  # WebP has no grey
            return bytes(imagecodecs.webp_encode(colours, level=QUALITY))


def png(picture: NDArray[Any]) -> bytes:
    """An 8- or 16-bit grey PNG, rows first."""
    return encoded(picture, "png")


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
