"""A dataset of an HDF5 file, as its structure says, and how it is told from one process to another."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from emporter_readers.hdf5.filters import FILTERS, Filter

MAX_CHUNKS = 2**22
"""Of one dataset: where they lie takes 20 bytes of memory each. With chunks of 64 KiB that is 256 GiB."""
SAY_DATASET = 'say parameters: {"dataset": "/path"}'
UNWRITTEN = 2**64 - 1
"""Where a chunk that was never written lies: HDF5's undefined address."""


@dataclass(frozen=True, slots=True)
class Chunks:
    """Where each chunk lies: arrays over the grid of chunks. An `offset` of UNWRITTEN holds the fill value."""

    shape: tuple[int, ...]
    """Of one chunk; those at the edge are stored whole."""
    offsets: NDArray[np.uint64]
    sizes: NDArray[np.uint64]
    masks: NDArray[np.uint32]
    """Which filters were left out, as bits."""

    @property
    def missing(self) -> int:
        return int(np.count_nonzero(self.offsets == UNWRITTEN))


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset of numbers. Exactly one of `chunks`, `offset` and `values` says where these are."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    """With the byte order of the file."""
    is_bool: bool
    fill: Any
    labels: str
    """Axes it names, such as `zyx`; empty where it does not."""
    said: dict[str, JsonValue]
    filters: tuple[Filter, ...] = ()
    chunks: Chunks | None = None
    offset: int | None = None
    values: NDArray[Any] | None = None


def told(dataset: Dataset) -> tuple[bytes, bytes]:
    """What `heard` makes the same dataset of: words, and numbers."""
    chunks, values = dataset.chunks, dataset.values
    words = {
        "path": dataset.path,
        "shape": dataset.shape,
        "dtype": dataset.dtype.str,
        "is_bool": dataset.is_bool,
        "fill": np.asarray(dataset.fill, dataset.dtype).tobytes().hex(),
        "labels": dataset.labels,
        "said": dataset.said,
        "filters": dataset.filters,
        "chunk": None if chunks is None else chunks.shape,
        "offset": dataset.offset,
    }
    numbers = b""
    if chunks is not None:
        numbers = chunks.offsets.tobytes() + chunks.sizes.tobytes() + chunks.masks.tobytes()
    elif values is not None:
        numbers = values.tobytes()
    return json.dumps(words).encode(), numbers


def heard(words: bytes, numbers: bytes) -> Dataset:
    """The dataset that was told. Raises ValueError, KeyError or TypeError where it makes no sense: who told it may be broken."""
    said = json.loads(words)
    dtype = np.dtype(said["dtype"])
    shape = _lengths(said["shape"])
    chunk = None if said["chunk"] is None else _lengths(said["chunk"])
    offset = None if said["offset"] is None else int(said["offset"])
    filters = tuple(Filter(int(code), tuple(map(int, values))) for code, values in said["filters"])
    if dtype.kind not in "iuf" or (offset or 0) < 0 or any(one.code not in FILTERS for one in filters):
        raise ValueError("no dataset of numbers")
    values = np.frombuffer(numbers, dtype).reshape(shape) if chunk is None and offset is None else None
    return Dataset(
        path=str(said["path"]),
        shape=shape,
        dtype=dtype,
        is_bool=bool(said["is_bool"]),
        fill=np.frombuffer(bytes.fromhex(said["fill"]), dtype)[0],
        labels=str(said["labels"]),
        said=dict(said["said"]),
        filters=filters,
        chunks=None if chunk is None else _chunks(shape, chunk, numbers),
        offset=offset,
        values=values,
    )


def _chunks(shape: tuple[int, ...], chunk: tuple[int, ...], numbers: bytes) -> Chunks:
    grid = tuple(-(-n // c) for n, c in zip(shape, chunk, strict=True))
    count = math.prod(grid)
    if count > MAX_CHUNKS or len(numbers) != 20 * count:
        raise ValueError(f"{len(numbers)} bytes about {count} chunks")
    offsets = np.frombuffer(numbers, np.uint64, count)
    sizes = np.frombuffer(numbers, np.uint64, count, 8 * count)
    masks = np.frombuffer(numbers, np.uint32, count, 16 * count)
    return Chunks(chunk, offsets.reshape(grid), sizes.reshape(grid), masks.reshape(grid))


def _lengths(numbers: Any) -> tuple[int, ...]:
    lengths = tuple(int(n) for n in numbers)
    if len(lengths) < 2 or min(lengths) < 1:
        raise ValueError(f"lengths {lengths}")
    return lengths
