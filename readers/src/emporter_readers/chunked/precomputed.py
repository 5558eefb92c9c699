"""One scale of a neuroglancer precomputed volume. Source: `volume.md` of neuroglancer's precomputed format.

All of it is x, y, z; here it becomes channel, z, y, x. What is stored is cut on a grid that begins at `voxel_offset`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from emporter_contracts.plans import Caveat
from emporter_readers.chunked.packing import Unpack, inflating
from emporter_readers.chunked.shards import ShardedChunks, ShardSpec
from emporter_readers.chunked.stored import Cell, Layout, Single, StoredArray
from emporter_readers.chunked.tree import Document, under
from emporter_readers.chunked.values import Shape, chunk_of, named_dtype, numbers, required, shape_of
from emporter_readers.errors import CorruptObjectError, UnsupportedContentError

INFO = "info"
ENCODINGS = ("raw", "jpeg", "png", "compressed_segmentation")
AXES = ("c", "z", "y", "x")
MOST_SCALES = 64
MOST_CHANNELS = 2**16
ENCODED_SHARE = 4
"""Times its voxels that an encoded chunk may be: compressed segmentation of noise needs twice."""


@dataclass(frozen=True, slots=True)
class Scale:
    """One resolution: its array, where it begins (z, y, x) and nm per voxel (z, y, x; None where not said)."""

    array: StoredArray
    start: tuple[int, int, int]
    resolution: tuple[float, ...] | None


def is_info(document: Document) -> bool:
    """Whether a document describes a volume, not a mesh or annotations."""
    kind = document.get("@type", "neuroglancer_multiscale_volume")
    return kind == "neuroglancer_multiscale_volume" and "scales" in document


def scale_count(folder: str, document: Document) -> int:
    """How many scales an `info` lists. Raises CorruptObjectError."""
    scales = document.get("scales")
    if not isinstance(scales, list) or not 1 <= len(scales) <= MOST_SCALES:
        raise CorruptObjectError(f"{under(folder, INFO)}: scales are {str(scales)[:50]}")
    return len(scales)


def scale_of(folder: str, document: Document, number: int) -> Scale:
    """Scale `number` of an `info`. Raises CorruptObjectError or UnsupportedContentError."""
    name = under(folder, INFO)
    said = document["scales"][number]
    if not isinstance(said, dict):
        raise CorruptObjectError(f"{name}: scale {number} is {str(said)[:50]}")
    dtype = named_dtype(required(document, "data_type", name), name)
    grid = _grid(document, said, dtype, name)
    key = under(folder, _text(required(said, "key", name), name))
    if key.startswith(".."):
        raise UnsupportedContentError(f"{name}: scale {number} lies outside of its folder", hint="ingest that folder")
    if said.get("encoding") not in ENCODINGS:
        raise UnsupportedContentError(
            f"{name}: encoding {str(said.get('encoding'))[:50]!r}", hint=f"read are {', '.join(ENCODINGS)}"
        )
    plain = Single(lambda cell: f"{key}/{grid.coordinates(cell, grid.begin)}")
    layout, unpack = _layout(said.get("sharding"), key, grid, plain, ENCODED_SHARE * grid.chunk_voxels * dtype.itemsize, name)
    array = StoredArray(
        path=key,
        shape=(grid.channels, *reversed(grid.size)),
        chunk=(grid.channels, *reversed(grid.chunk)),
        dtype=dtype,
        driver="neuroglancer_precomputed",
        layout=layout,
        document_name=INFO,
        document=_plain(document, said, grid),
        key_of=lambda cell: f"0/{grid.coordinates(cell, (0, 0, 0))}",
        axes=AXES,
        fastest_first=True,
        unpack=unpack,
        caveats=_lossy(said),
        said={name: document},
    )
    resolution = numbers(said.get("resolution"), 3)
    x, y, z = grid.begin
    return Scale(array, (z, y, x), None if resolution is None else resolution[::-1])


@dataclass(frozen=True, slots=True)
class _Grid:
    """Of one scale, x, y, z."""

    size: Shape
    begin: tuple[int, int, int]
    chunk: Shape
    channels: int

    @property
    def chunk_voxels(self) -> int:
        return math.prod(self.chunk) * self.channels

    @property
    def chunks(self) -> tuple[int, int, int]:
        x, y, z = (-(-n // c) for n, c in zip(self.size, self.chunk, strict=True))
        return (x, y, z)

    def coordinates(self, cell: Cell, begin: tuple[int, int, int]) -> str:
        """The name of a chunk where the volume begins at `begin`."""
        first = [c * n for c, n in zip(reversed(cell[1:]), self.chunk, strict=True)]
        edges = zip(first, self.chunk, self.size, begin, strict=True)
        return "_".join(f"{a + o}-{min(a + n, s) + o}" for a, n, s, o in edges)


def _grid(document: Document, said: Document, dtype: Any, name: str) -> _Grid:
    channels = document.get("num_channels", 1)
    if not isinstance(channels, int) or isinstance(channels, bool) or not 1 <= channels <= MOST_CHANNELS:
        raise CorruptObjectError(f"{name}: num_channels is {str(channels)[:50]}")
    size = shape_of(required(said, "size", name), name, "size")
    offset = numbers(said.get("voxel_offset", [0, 0, 0]), 3)
    if len(size) != 3 or offset is None or any(v != int(v) or abs(v) >= 2**31 for v in offset):
        raise CorruptObjectError(f"{name}: size {list(size)[:5]} at voxel_offset {str(said.get('voxel_offset'))[:50]}")
    sizes = required(said, "chunk_sizes", name)
    first = sizes[0] if isinstance(sizes, list) and sizes and isinstance(sizes[0], list) else None
    chunk = chunk_of([*(first or []), channels], (*size, channels), dtype, name, "chunk_sizes")
    return _Grid(size, (int(offset[0]), int(offset[1]), int(offset[2])), chunk[:3], channels)


def _layout(sharding: Any, key: str, grid: _Grid, plain: Single, most: int, name: str) -> tuple[Layout, Unpack | None]:
    if sharding is None:
        return plain, None
    spec = ShardSpec.parsed(sharding, name)
    return ShardedChunks(spec, key, grid.chunks, plain), inflating("gzip", most) if spec.data_gzipped else None


def _plain(document: Document, said: Document, grid: _Grid) -> Document:
    """The `info` of this scale alone, without shards, beginning at 0."""
    scale = {k: v for k, v in said.items() if k in ("encoding", "compressed_segmentation_block_size")}
    scale |= {
        "key": "0",
        "size": list(grid.size),
        "voxel_offset": [0, 0, 0],
        "chunk_sizes": [list(grid.chunk)],
        "resolution": [1, 1, 1],
    }
    kind = document.get("type") if document.get("type") in ("image", "segmentation") else "image"
    return {
        "@type": "neuroglancer_multiscale_volume",
        "type": kind,
        "data_type": document["data_type"],
        "num_channels": grid.channels,
        "scales": [scale],
    }


def _lossy(said: Document) -> tuple[Caveat, ...]:
    if said["encoding"] != "jpeg":
        return ()
    quality = said.get("jpeg_quality")
    of = f" of quality {quality}" if isinstance(quality, int) else ""
    return (Caveat(code="lossy", evidence=f"the archive stores JPEG{of}: voxels are the decoder's, not the microscope's"),)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value or len(value) > 500:
        raise CorruptObjectError(f"{name}: a scale's key is {str(value)[:50]!r}")
    return value
