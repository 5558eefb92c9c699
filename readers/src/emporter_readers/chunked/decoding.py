"""Encoded chunks into voxels: tensorstore's drivers over a store in memory that holds what one box touches, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from emporter_readers.chunked.stored import Cell, StoredArray
from emporter_readers.chunked.values import Shape
from emporter_readers.errors import CorruptObjectError, UnsupportedContentError


def check(array: StoredArray) -> None:
    """Raises UnsupportedContentError where nothing here decodes this array."""
    try:
        opened = _opened(array, ts.Context(), {})
    except ValueError as error:
        raise UnsupportedContentError(
            f"{array.name}: {_reason(error)}", hint="re-encode it with a codec of the Zarr v3 core set: blosc, gzip, zstd or none"
        ) from error
    if tuple(opened.shape) != array.shape:
        raise CorruptObjectError(f"{array.name}: {list(opened.shape)} voxels, said are {list(array.shape)}")


def decoded(array: StoredArray, chunks: Mapping[Cell, bytes], start: Shape, stop: Shape) -> NDArray[Any]:
    """Voxels from `start` to `stop` of the array's own axes, C order, native byte order; what `chunks` lacks is fill value.

    Raises CorruptObjectError naming the object.
    """
    try:
        opened = _opened(array, ts.Context(), chunks)
        box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        voxels: NDArray[Any] = opened[box].read(order="C").result()
    except ValueError as error:
        raise CorruptObjectError(f"{_culprit(array, chunks, error)}: {_reason(error)}", hint="fetch it again") from error
    return voxels


def _opened(array: StoredArray, context: ts.Context, chunks: Mapping[Cell, bytes]) -> Any:
    store = ts.KvStore.open({"driver": "memory"}, context=context).result()
    store.write(array.document_name, json.dumps(array.document)).result()
    for cell, data in chunks.items():
        store.write(array.key_of(cell), data).result()
    opened = ts.open({"driver": array.driver, "kvstore": {"driver": "memory"}}, context=context, open=True, read=True).result()
    return opened.T[ts.d[:].translate_to[0]] if array.fastest_first else opened


def _culprit(array: StoredArray, chunks: Mapping[Cell, bytes], error: ValueError) -> str:
    """The object whose chunk the decoder could not read."""
    text = str(error)
    for cell in chunks:
        if f'"{array.key_of(cell)}"' in text:
            return array.object_name(cell)
    return array.name


def _reason(error: ValueError) -> str:
    """Its words without the code in front."""
    text = str(error).partition(": ")[2] or str(error)
    return text.replace("\n", " ")[:300]


def native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What voxels of `dtype` are given as: booleans as bytes, in this machine's byte order."""
    return np.dtype(np.uint8) if dtype.kind == "b" else dtype.newbyteorder("=")
