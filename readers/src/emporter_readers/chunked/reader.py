"""Boxes of one channel and time of a stored array, from the chunks they touch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emporter_contracts.commands import Select
from emporter_contracts.geometry import Box, ChunkGrid, Shape3, VoxelSize
from emporter_readers.bounds import require_within
from emporter_readers.chunked.axes import SPACE, Placed
from emporter_readers.chunked.decoding import decoded, native
from emporter_readers.chunked.images import Level
from emporter_readers.chunked.stored import Cell, Lookup, StoredArray
from emporter_readers.errors import CorruptObjectError, OutsideVolumeError
from emporter_readers.reaching import Reach, whole

PARALLEL = 8
"""Chunks read at a time: what hides the latency of a store without pressing it."""


@dataclass(frozen=True, slots=True)
class ChunkedReader:
    """A Reader of one volume of an array. `region` is what was fetched, where that is not all: nothing outside is ever filled."""

    level: Level
    placed: Placed
    select: Select
    lookup: Lookup
    region: Box | None = None

    @property
    def array(self) -> StoredArray:
        return self.level.array

    @property
    def shape(self) -> Shape3:
        z, y, x = (self.placed.size(letter) for letter in SPACE)
        return (z, y, x)

    @property
    def dtype(self) -> np.dtype[Any]:
        return native(self.array.dtype)

    @property
    def voxel_size(self) -> VoxelSize:
        z, y, x = (self._along(letter)[0] for letter in SPACE)
        return VoxelSize.said("file", (z, y, x))

    @property
    def translation_nm(self) -> tuple[float, float, float]:
        """Where the centre of voxel 0 lies; 0 where nobody says."""
        z, y, x = (self._along(letter)[1] for letter in SPACE)
        return (z, y, x)

    @property
    def native(self) -> ChunkGrid:
        z, y, x = (self._chunk(letter) for letter in SPACE)
        return ChunkGrid((z, y, x))

    @property
    def fetched(self) -> Box:
        """All voxels whose chunks were fetched: the region, grown to whole chunks."""
        whole = Box.whole(self.shape)
        if self.region is None:
            return whole
        start = [a // c * c for a, c in zip(self.region.start, self.native.cell, strict=True)]
        stop = [-(-b // c) * c for b, c in zip(self.region.stop, self.native.cell, strict=True)]
        grown = Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2])).overlap(whole)
        assert grown is not None
        return grown

    def cells(self, box: Box) -> Iterator[Cell]:
        """The chunks that hold voxels of `box`."""
        return self.array.cells(*self._own(box))

    def chunks(self, box: Box) -> int:
        """How many they are."""
        start, stop = self._own(box)
        return math.prod(-(-b // c) - a // c for a, b, c in zip(start, stop, self.array.chunk, strict=True))

    def reach(self, box: Box) -> Iterator[Reach]:
        for cell in self.cells(box):
            for name in self.array.names(cell):
                source = self.lookup(name)
                if source is not None:
                    yield whole(source)

    def read(self, box: Box) -> NDArray[Any]:
        require_within(box, self.shape, self.array.name)
        if not box.within(self.fetched):
            raise OutsideVolumeError(
                f"{self.array.name}: box {list(box.start)}..{list(box.stop)} was not fetched, only {list(self.fetched.start)}"
                f"..{list(self.fetched.stop)}",
                hint="ingest it with a larger region",
            )
        start, stop = self._own(box)
        voxels = decoded(self.array, self._stored(list(self.array.cells(start, stop))), start, stop)
        if self.array.dtype.kind == "b":
            voxels = voxels.view(np.uint8)
        turned = voxels.transpose(self.placed.order()).reshape(box.shape)
        return np.ascontiguousarray(turned)

    def _stored(self, cells: list[Cell]) -> dict[Cell, bytes]:
        """Those chunks that are stored, as the decoder wants them."""
        if len(cells) == 1:
            found = [self._chunk_at(cells[0])]
        else:
            with ThreadPoolExecutor(min(PARALLEL, len(cells))) as pool:
                found = list(pool.map(self._chunk_at, cells))
        if self.array.fill_unknown and None in found:
            raise CorruptObjectError(
                f"{self.array.object_name(cells[found.index(None)])}: is not stored, and the fill value of the array is none",
                hint="choose a region where all is stored",
            )
        return {cell: data for cell, data in zip(cells, found, strict=True) if data is not None}

    def _chunk_at(self, cell: Cell) -> bytes | None:
        data = self.array.layout.read(cell, self.lookup)
        if data is None or self.array.unpack is None:
            return data
        try:
            return self.array.unpack(data)
        except ValueError as error:
            name = self.array.object_name(cell)
            raise CorruptObjectError(f"{name}: this chunk is {error}", hint="fetch it again") from error

    def _own(self, box: Box) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return self.placed.box(box.start, box.stop, self.select.channel or 0, self.select.time or 0)

    def _along(self, letter: str) -> tuple[float | None, float]:
        if letter not in self.placed.letters:
            return None, 0.0
        return self.level.space.along(self.placed.letters.index(letter))

    def _chunk(self, letter: str) -> int:
        if letter not in self.placed.letters:
            return 1
        k = self.placed.letters.index(letter)
        return min(self.array.chunk[k], self.array.shape[k])
