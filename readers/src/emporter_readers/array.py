"""The in-memory twins: an array that reads like a file, bytes that read like an object."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emporter_contracts.geometry import Box, ChunkGrid, Shape3, VoxelSize
from emporter_readers.bounds import require_within
from emporter_readers.errors import CorruptObjectError


@dataclass(slots=True)
class MemorySource:
    """A ByteSource over bytes; counts what is read from it."""

    name: str
    data: bytes
    bytes_read: int = 0
    furthest: int = 0
    """The byte behind the last that was read."""

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, start: int, stop: int) -> bytes:
        if stop > len(self.data):
            raise CorruptObjectError(f"{self.name}: ends at byte {len(self.data)}, needed up to {stop}")
        self.bytes_read += stop - start
        self.furthest = max(self.furthest, stop)
        return self.data[start:stop]


@dataclass(slots=True)
class FileSource:
    """A ByteSource over a local file."""

    name: str
    path: Path
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = self.path.stat().st_size

    def read(self, start: int, stop: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(start)
            data = file.read(stop - start)
        if len(data) != stop - start:
            raise CorruptObjectError(f"{self.name}: ends at byte {start + len(data)}, needed up to {stop}")
        return data


@dataclass(slots=True)
class ArrayReader:
    """A Reader over an array that is in memory already, axes z, y, x."""

    array: NDArray[Any]
    voxel_size: VoxelSize = VoxelSize()
    native: ChunkGrid = ChunkGrid((64, 64, 64))

    @property
    def shape(self) -> Shape3:
        z, y, x = self.array.shape
        return (z, y, x)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype.newbyteorder("=")

    def read(self, box: Box) -> NDArray[Any]:
        require_within(box, self.shape, "the array")
        return np.array(self.array[box.slices()], dtype=self.dtype.newbyteorder("="), order="C")


@dataclass(slots=True)
class RegionReader:
    """A region of another Reader, with its own origin at 0, 0, 0."""

    whole: Any
    region: Box
    voxel_size: VoxelSize

    @property
    def shape(self) -> Shape3:
        return self.region.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = self.whole.dtype
        return dtype

    @property
    def native(self) -> ChunkGrid:
        native: ChunkGrid = self.whole.native
        return native

    def read(self, box: Box) -> NDArray[Any]:
        require_within(box, self.shape, "the region")
        voxels: NDArray[Any] = self.whole.read(box.moved(self.region.start))
        return voxels
