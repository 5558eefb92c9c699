"""One array of Zarr v2. Source: Zarr storage specification, version 2 (`.zarray`)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from emporter_readers.chunked.packing import INFLATED, Unpack, checking_blosc, inflating
from emporter_readers.chunked.stored import Cell, Single, StoredArray
from emporter_readers.chunked.tree import Document, under
from emporter_readers.chunked.values import chunk_of, numpy_dtype, required, shape_of
from emporter_readers.errors import CorruptObjectError, UnsupportedContentError

ARRAY = ".zarray"
GROUP = ".zgroup"
ATTRIBUTES = ".zattrs"
CONSOLIDATED = ".zmetadata"


def zarr2_array(path: str, document: Document, attributes: Document) -> StoredArray:
    """The array of one `.zarray`. Raises CorruptObjectError or UnsupportedContentError."""
    name = under(path, ARRAY)
    if document.get("zarr_format") != 2:
        raise CorruptObjectError(f"{name}: zarr_format is {str(document.get('zarr_format'))[:50]}, not 2")
    dtype = numpy_dtype(required(document, "dtype", name), name)
    shape = shape_of(required(document, "shape", name), name)
    chunk = chunk_of(required(document, "chunks", name), shape, dtype, name)
    order = document.get("order", "C")
    separator = document.get("dimension_separator", ".")
    if order not in ("C", "F") or separator not in (".", "/"):
        raise CorruptObjectError(f"{name}: order {str(order)[:20]!r}, dimension_separator {str(separator)[:20]!r}")
    if document.get("filters"):
        raise UnsupportedContentError(f"{name}: has filters", hint="write it again without filters")
    compressor, unpack = _compressor(document.get("compressor"), math.prod(chunk) * dtype.itemsize, name)
    fill, unknown = _fill(document.get("fill_value"), dtype)
    plain = {
        "zarr_format": 2, "shape": list(shape), "chunks": list(chunk), "dtype": dtype.str, "order": order,
        "compressor": compressor, "filters": None, "fill_value": fill, "dimension_separator": ".",
    }  # fmt: skip
    return StoredArray(
        path=path,
        shape=shape,
        chunk=chunk,
        dtype=dtype,
        driver="zarr",
        layout=Single(lambda cell: under(path, separator.join(map(str, cell)))),
        document_name=ARRAY,
        document=plain,
        key_of=_key,
        unpack=unpack,
        fill_unknown=unknown,
        attributes=attributes,
        said={name: document} | ({under(path, ATTRIBUTES): attributes} if attributes else {}),
    )


def _key(cell: Cell) -> str:
    return ".".join(map(str, cell))


def _compressor(said: Any, decoded: int, name: str) -> tuple[Any, Unpack | None]:
    """What the decoder is told, and what is undone before it."""
    if said is None:
        return None, None
    if not isinstance(said, dict) or not isinstance(said.get("id"), str):
        raise CorruptObjectError(f"{name}: compressor is {str(said)[:100]}")
    if said["id"] in INFLATED:
        return None, inflating(said["id"], decoded)
    return said, checking_blosc(decoded) if said["id"] == "blosc" else None


def _fill(said: Any, dtype: np.dtype[Any]) -> tuple[Any, bool]:
    """The fill value, and whether it is one that the dtype can't hold."""
    if said is None:
        return None, False
    if dtype.kind == "f":
        named = said in ("NaN", "Infinity", "-Infinity")
        return (said, False) if named or _is_number(said) else (None, True)
    if dtype.kind == "b":
        return (bool(said), False) if said in (0, 1) else (None, True)
    if not _is_number(said) or int(said) != said:
        return None, True
    limits = np.iinfo(dtype)
    return (int(said), False) if limits.min <= said <= limits.max else (None, True)


def _is_number(said: Any) -> bool:
    return isinstance(said, int | float) and not isinstance(said, bool) and math.isfinite(said)
