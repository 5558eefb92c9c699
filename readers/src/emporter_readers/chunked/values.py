"""Values of metadata that a stranger wrote: each is checked once, and a wrong one names its document."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from emporter_contracts.commands import MAX_VOXELS_PER_AXIS
from emporter_readers.errors import CorruptObjectError, UnsupportedContentError

MOST_DIMENSIONS = 16
"""More than any format of images names."""
MOST_CHUNK_BYTES = 2**30
"""Of one chunk, decoded: a box must not cost more than a converter has, and archives write a thousandth of it."""

Shape = tuple[int, ...]

_DTYPE = re.compile(r"[<>|]?([biuf])([1248])\Z")
_NAMED = re.compile(r"(u?int)(8|16|32|64)\Z|float(16|32|64)\Z|bool\Z")


def whole_numbers(value: Any, least: int, name: str, what: str) -> Shape:
    """A list of integers, each at least `least` and small enough to be a number of voxels. Raises CorruptObjectError."""
    if (
        not isinstance(value, list)
        or not 1 <= len(value) <= MOST_DIMENSIONS
        or any(not isinstance(n, int) or isinstance(n, bool) or not least <= n <= MAX_VOXELS_PER_AXIS for n in value)
    ):
        raise CorruptObjectError(f"{name}: {what} is {str(value)[:100]}", hint="its metadata is damaged, or of no array")
    return tuple(value)


def shape_of(value: Any, name: str, what: str = "shape") -> Shape:
    """The shape of an array that holds at least one voxel. Raises CorruptObjectError or UnsupportedContentError."""
    shape = whole_numbers(value, 0, name, what)
    if 0 in shape:
        raise UnsupportedContentError(f"{name}: {list(shape)} is the shape of nothing", hint="choose an array that holds voxels")
    return shape


def chunk_of(value: Any, shape: Shape, dtype: np.dtype[Any], name: str, what: str = "chunks") -> Shape:
    """The shape of one chunk. Raises CorruptObjectError, or UnsupportedContentError where it is too large to decode."""
    chunk = whole_numbers(value, 1, name, what)
    if len(chunk) != len(shape):
        raise CorruptObjectError(f"{name}: {len(shape)} axes, but {what} of {len(chunk)}", hint="its metadata is damaged")
    size = math.prod(chunk) * dtype.itemsize
    if size > MOST_CHUNK_BYTES:
        raise UnsupportedContentError(
            f"{name}: one chunk is {list(chunk)} voxels, {size / 2**30:.1f} GiB",
            hint=f"chunks up to {MOST_CHUNK_BYTES / 2**30:.0f} GiB are read; rechunk it",
        )
    return chunk


def numpy_dtype(text: Any, name: str) -> np.dtype[Any]:
    """From numpy's type strings, such as `<i2`. Raises UnsupportedContentError naming what it is."""
    match = _DTYPE.match(text) if isinstance(text, str) else None
    if match is None or (match[1], match[2]) in {("b", "2"), ("b", "4"), ("b", "8"), ("f", "1")}:
        raise _no_image(text, name)
    return np.dtype(match[0])


def named_dtype(text: Any, name: str) -> np.dtype[Any]:
    """From names such as `uint16`. Raises UnsupportedContentError naming what it is."""
    if not isinstance(text, str) or _NAMED.match(text) is None:
        raise _no_image(text, name)
    return np.dtype(text)


def required(document: dict[str, Any], key: str, name: str) -> Any:
    """A member that must be there. Raises CorruptObjectError."""
    if key not in document:
        raise CorruptObjectError(f"{name}: says no {key}", hint="its metadata is damaged")
    return document[key]


def numbers(value: Any, count: int) -> tuple[float, ...] | None:
    """`count` finite numbers, None where `value` is anything else."""
    if not isinstance(value, list | tuple) or len(value) != count:
        return None
    if any(not isinstance(v, int | float) or isinstance(v, bool) or abs(v) > 1e300 or v != v for v in value):  # noqa: PLR0124
        return None
    return tuple(float(v) for v in value)


def texts(value: Any, count: int) -> tuple[str, ...] | None:
    """`count` strings; one string is said of all. None where `value` is anything else."""
    if isinstance(value, str):
        return (value,) * count
    if not isinstance(value, list) or len(value) != count or any(not isinstance(v, str) for v in value):
        return None
    return tuple(value)


def _no_image(text: Any, name: str) -> UnsupportedContentError:
    return UnsupportedContentError(
        f"{name}: dtype {str(text)[:100]!r} is not that of an image volume",
        hint="integers of 8 to 64 bits, floats of 16 to 64 bits and booleans are read",
    )
