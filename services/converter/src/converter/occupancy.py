"""Where in a volume there is anything: of every chunk of level 0, how many voxels are foreground.

Samplers of training blocks ask it, and would otherwise have to read the volume. It is counted in the ordered pass that hashes the
voxels, a layer of chunks at a time, so the memory it takes is that of one piece of the index, not of the volume.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.digesting import Sum, sum_of
from converter.ngff import document
from converter.shards import ShardCodec, array_metadata
from emporter_contracts import storage
from emporter_contracts.fills import Fill
from emporter_contracts.geometry import Box, Index3, Shape3, grid_shape
from emporter_contracts.plans import LevelPlan, VolumePlan
from emporter_readers.filling import foreground
from emporter_runtime.objects import Objects

COUNT = "uint32"
PIECE = 2**20
"""Counts in one object of the index: of a volume up to 275 GB in chunks of 64³, all."""
LOOKED_AT = 2**22
"""Voxels looked at together, each of which takes a byte for as long."""
EDGE = 1024
"""Counts along y and x of an object, of a volume whose layer of chunks has more than PIECE."""


class OccupancyIndex:
    """Takes the voxels of level 0 in C order, box after box, and stores the counts as soon as an object of them is full. Counted
    is what is not `empty`.
    """

    def __init__(self, objects: Objects, plan: VolumePlan, revision: int, empty: Fill) -> None:
        self._objects = objects
        self._background = empty
        self._root = storage.occupancy(plan.volume, revision)
        self._level = plan.levels[0]
        grid = grid_shape(self._level.shape, self._level.chunk)
        self._index = _index_plan(grid)
        self._codec = ShardCodec(self._index, COUNT, "zstd")
        self._first = 0
        self._rows = self._empty()
        self.stored: dict[str, Sum] = {}
        """What was stored, by key below the folder of the revision."""

    def add(self, box: Box, voxels: NDArray[Any]) -> None:
        """Count the voxels of `box`; none of them may come before those of the box that came last."""
        cut = self._level.chunk[0]
        z = box.start[0]
        while z < box.stop[0]:
            end = min(box.stop[0], (z // cut + 1) * cut)
            self._add(z // cut, box, _flat(voxels[z - box.start[0] : end - box.start[0]], self._background))
            z = end

    def _add(self, layer: int, box: Box, flat: NDArray[Any]) -> None:
        """Add to one layer of chunks: `flat` says of each y, x of the box how many voxels along z are foreground."""
        if layer >= self._first + self._codec.level.shard[0]:
            self._store()
            self._first = layer
        _, rows, columns = (a // c for a, c in zip(box.start, self._level.chunk, strict=True))
        found = _summed(_summed(flat, 0, box.start[1], self._level.chunk[1]), 1, box.start[2], self._level.chunk[2])
        self._rows[layer - self._first, rows : rows + found.shape[0], columns : columns + found.shape[1]] += found

    def close(self) -> None:
        """Store what is left, and the metadata, by which readers know that the index is there."""
        self._store()
        metadata = array_metadata(self._index, COUNT, "zstd")
        level = self._level
        said = {"chunk_shape": list(level.chunk), "volume_shape": list(level.shape), "fill_value": self._background}
        data = document({**metadata, "attributes": said})
        self._put("zarr.json", data)

    def _store(self) -> None:
        layers = min(len(self._rows), self._index.shape[0] - self._first)
        whole = Box.at((self._first, 0, 0), (layers, *self._index.shape[1:]))
        for index in self._codec.indices(whole):
            box = self._codec.box(index)
            counts = self._rows[box.moved((-self._first, 0, 0)).slices()]
            # The same counts whoever finishes: what a finisher that comes late writes changes nothing.
            self._put(_key(index), self._codec.encode(index, np.ascontiguousarray(counts)))
        self._rows = self._empty()

    def _put(self, key: str, data: bytes) -> None:
        self._objects.put_sync(storage.VOLUMES, self._root + key, data)
        folder = self._root.rstrip("/").rpartition("/")[2]
        self.stored[f"{folder}/{key}"] = sum_of(data)

    def _empty(self) -> NDArray[np.uint32]:
        return np.zeros((self._index.shard[0], *self._index.shape[1:]), np.uint32)


def _index_plan(grid: Shape3) -> LevelPlan:
    """The index as an array: objects of whole layers of chunks, cut along y and x where a layer is large."""
    layer = grid[1] * grid[2]
    piece = (min(grid[0], max(1, PIECE // layer)), min(grid[1], EDGE), min(grid[2], EDGE))
    if layer <= PIECE:
        piece = (piece[0], grid[1], grid[2])
    one = (1.0, 1.0, 1.0)
    return LevelPlan(shape=grid, chunk=piece, shard=piece, task=piece, scale=one, translation=(0.0, 0.0, 0.0))


def _flat(voxels: NDArray[Any], empty: Fill) -> NDArray[Any]:
    """How many along z are foreground, in whole numbers as narrow as hold it, for that is how fast it is."""
    depth, rows, columns = voxels.shape
    flat = np.empty((rows, columns), np.min_scalar_type(depth))
    step = max(1, LOOKED_AT // (depth * columns))
    for y in range(0, rows, step):
        there = foreground(voxels[:, y : y + step], empty)
        np.add.reduce(there.view(np.uint8), axis=0, dtype=flat.dtype, out=flat[y : y + step])
    return flat


def _summed(values: NDArray[Any], axis: int, start: int, cell: int) -> NDArray[np.uint32]:
    """Sums over cells along one axis, the first of which may have begun before `start`."""
    first = -(start % cell)
    edges = np.maximum(np.arange(first, values.shape[axis], cell), 0)
    sums: NDArray[np.uint32] = np.add.reduceat(values, edges, axis=axis, dtype=np.uint32)
    return sums


def _key(index: Index3) -> str:
    return "c/" + "/".join(map(str, index))
