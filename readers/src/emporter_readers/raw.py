"""Voxels that lie uncompressed in a file: boxes of them by byte ranges, from one array or from one plane per file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emporter_contracts.geometry import Box, ChunkGrid, Index3, Shape3, VoxelSize
from emporter_readers.bounds import require_within
from emporter_readers.protocol import ByteSource
from emporter_readers.reaching import Reach, whole

MOST_READ_BYTES = 16 * 2**20
"""Of one ranged read: the request's cost has vanished by then, and it bounds what a read holds beside its result."""
PARALLEL = 8
"""Files read at a time where a box lies in several: what hides the latency of a server without pressing it."""


@dataclass(frozen=True, slots=True)
class RawBlock:
    """A C-ordered array of `shape` that begins at byte `offset` of `source`; `dtype` has the byte order of the file."""

    source: ByteSource
    offset: int
    shape: Shape3
    dtype: np.dtype[Any]

    @property
    def stop(self) -> int:
        """The byte behind its last."""
        planes, rows, columns = self.shape
        return self.offset + planes * rows * columns * self.dtype.itemsize

    def end_of(self, box: Box) -> int:
        """The byte behind the last that reading `box` (axes as stored) touches: whole rows are read."""
        z, y, _ = box.stop
        return self.offset + self._position((z - 1, y, 0)) * self.dtype.itemsize

    def read(self, box: Box) -> NDArray[Any]:
        """Values of `box`, axes as stored, native byte order. Whole rows are read, a long one in pieces."""
        values = np.empty(box.shape, self.dtype.newbyteorder("="))
        for run in self._runs(box):
            first = self.offset + self._position(run.start) * self.dtype.itemsize
            data = self.source.read(first, first + run.size * self.dtype.itemsize)
            wanted = run.overlap(box)
            assert wanted is not None
            stored = np.frombuffer(data, self.dtype).reshape(run.shape)
            values[wanted.moved(_back(box.start)).slices()] = stored[wanted.moved(_back(run.start)).slices()]
        return values

    def _position(self, at: Index3) -> int:
        _, rows, columns = self.shape
        return (at[0] * rows + at[1]) * columns + at[2]

    def _runs(self, box: Box) -> Iterator[Box]:
        """Boxes whose bytes lie in one piece, that hold all of `box`, none larger than MOST_READ_BYTES."""
        _, rows, columns = self.shape
        item = self.dtype.itemsize
        (z0, y0, _), (z1, y1, _) = box.start, box.stop
        if columns * item > MOST_READ_BYTES:
            yield from box.tiles((1, 1, MOST_READ_BYTES // item))
        elif y0 == 0 and y1 == rows:
            yield from _cut(Box((z0, 0, 0), (z1, rows, columns)), MOST_READ_BYTES // item)
        else:
            step = MOST_READ_BYTES // (columns * item)
            for z in range(z0, z1):
                for y in range(y0, y1, step):
                    yield Box((z, y, 0), (z + 1, min(y + step, y1), columns))


def _cut(planes: Box, most: int) -> Iterator[Box]:
    """Whole planes, as many at a time as hold at most `most` voxels; planes larger than that in bands of rows."""
    _, rows, columns = planes.shape
    deep = most // (rows * columns)
    step = (deep, rows, columns) if deep else (1, most // columns, columns)
    for z in range(planes.start[0], planes.stop[0], step[0]):
        for y in range(0, rows, step[1]):
            yield Box((z, y, 0), (min(z + step[0], planes.stop[0]), min(y + step[1], rows), columns))


@dataclass(frozen=True, slots=True)
class RawReader:
    """A Reader of one block whose axes may be stored in another order."""

    block: RawBlock
    voxel_size: VoxelSize
    order: tuple[int, int, int] = (0, 1, 2)
    """For each of z, y, x the axis of the block it is."""

    @property
    def shape(self) -> Shape3:
        z, y, x = (self.block.shape[axis] for axis in self.order)
        return (z, y, x)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.block.dtype.newbyteorder("=")

    @property
    def native(self) -> ChunkGrid:
        """A row as it is stored."""
        row = (1, 1, self.block.shape[2])
        z, y, x = (row[axis] for axis in self.order)
        return ChunkGrid((z, y, x))

    def reach(self, box: Box) -> Iterator[Reach]:
        yield Reach(self.block.source.name, self.block.end_of(self._as_stored(box)))

    def read(self, box: Box) -> NDArray[Any]:
        require_within(box, self.shape, self.block.source.name)
        values = self.block.read(self._as_stored(box))
        return np.ascontiguousarray(values.transpose(self.order))

    def _as_stored(self, box: Box) -> Box:
        start, stop = [0, 0, 0], [0, 0, 0]
        for ours, stored in enumerate(self.order):
            start[stored], stop[stored] = box.start[ours], box.stop[ours]
        return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


@dataclass(frozen=True, slots=True)
class RawStack:
    """A Reader of one plane per source, in z order. A source's header is parsed when its plane is first asked for."""

    sources: Sequence[ByteSource]
    locate: Callable[[ByteSource], RawBlock]
    """Where the plane of a source lies: a block of `plane`'s shape and dtype, or CorruptObjectError."""
    plane: RawBlock
    """The first one."""
    voxel_size: VoxelSize
    _known: dict[int, RawBlock] = field(default_factory=dict)

    @property
    def shape(self) -> Shape3:
        _, rows, columns = self.plane.shape
        return (len(self.sources), rows, columns)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.plane.dtype.newbyteorder("=")

    @property
    def native(self) -> ChunkGrid:
        return ChunkGrid((1, 1, self.plane.shape[2]))

    def reach(self, box: Box) -> Iterator[Reach]:
        return map(whole, self.sources[box.start[0] : box.stop[0]])

    def read(self, box: Box) -> NDArray[Any]:
        require_within(box, self.shape, f"{self.sources[0].name} and following")
        values = np.empty(box.shape, self.dtype)

        def fill(z: int) -> None:
            values[z - box.start[0]] = self._block(z).read(Box((0, *box.start[1:]), (1, *box.stop[1:])))[0]

        for_each(range(box.start[0], box.stop[0]), fill)
        return values

    def _block(self, z: int) -> RawBlock:
        block = self._known.get(z)
        if block is None:
            block = self._known[z] = self.locate(self.sources[z])
        return block


def for_each(planes: Sequence[int], work: Callable[[int], None], at_once: int = PARALLEL) -> None:
    """`work` of every plane, some at a time. Raises what the first of them that failed raised."""
    if len(planes) == 1 or at_once == 1:
        for plane in planes:
            work(plane)
        return
    with ThreadPoolExecutor(min(at_once, len(planes))) as pool:
        results = pool.map(work, planes)
        try:
            for _ in results:
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _back(start: Index3) -> Index3:
    return (-start[0], -start[1], -start[2])
