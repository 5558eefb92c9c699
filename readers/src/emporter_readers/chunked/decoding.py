"""Encoded chunks into voxels: tensorstore's drivers over a store in memory that holds what one box touches, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from emporter_contracts.fills import Fill
from emporter_readers.chunked.stored import Cell, StoredArray
from emporter_readers.chunked.values import Shape
from emporter_readers.errors import CorruptObjectError, UnsupportedContentError
from emporter_readers.filling import fill_said


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


def fill_of(array: StoredArray) -> Fill:
    """What its decoder gives for a chunk that is not stored. The array was checked."""
    fill = _opened(array, ts.Context(), {}).fill_value
    return 0 if fill is None else fill_said(fill)


def decoded(array: StoredArray, chunks: dict[Cell, bytes], start: Shape, stop: Shape) -> NDArray[Any]:
    """Voxels from `start` to `stop` of the array's own axes, C order, native byte order; what `chunks` lacks is fill value.
    `chunks` is empty afterwards: what is stored would else be held twice, and a chunk may be large.

    Raises CorruptObjectError naming the object.
    """
    cells = tuple(chunks)
    try:
        opened = _opened(array, ts.Context(), chunks)
        box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        voxels: NDArray[Any] = opened[box].read(order="C").result()
    except ValueError as error:
        raise CorruptObjectError(f"{_culprit(array, cells, error)}: {_reason(error)}", hint="fetch it again") from error
    return voxels


def _opened(array: StoredArray, context: ts.Context, chunks: dict[Cell, bytes]) -> Any:
    store = ts.KvStore.open({"driver": "memory"}, context=context).result()
    store.write(array.document_name, json.dumps(array.document)).result()
    for cell in tuple(chunks):
        store.write(array.key_of(cell), chunks.pop(cell)).result()
    opened = ts.open({"driver": array.driver, "kvstore": {"driver": "memory"}}, context=context, open=True, read=True).result()
    return opened.T[ts.d[:].translate_to[0]] if array.fastest_first else opened


def _culprit(array: StoredArray, cells: Iterable[Cell], error: ValueError) -> str:
    """The object whose chunk the decoder could not read."""
    text = str(error)
    for cell in cells:
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
