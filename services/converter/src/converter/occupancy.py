"""Where in a volume there is anything: of every chunk of level 0, how many voxels are foreground.

Samplers of training blocks ask it, and would otherwise have to read the volume. Tasks count it (census.py), each for its own box;
who finishes the volume puts it together a layer of chunks at a time, so the memory it takes is that of one piece of the index.
"""

from __future__ import annotations

from collections.abc import Iterator
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


def per_chunk(voxels: NDArray[Any], chunk: Shape3, empty: Fill) -> NDArray[np.uint32]:
    """Of every chunk of a box that begins where a chunk does, how many voxels are not `empty`; axes z, y, x."""
    layers = [_flat(voxels[z : z + chunk[0]], empty) for z in range(0, len(voxels), chunk[0])]
    return np.stack([_summed(_summed(flat, 0, chunk[1]), 1, chunk[2]) for flat in layers])


class OccupancyIndex:
    """Stores the counts of a volume, one row of its objects after another. Counted is what is not `empty`."""

    def __init__(self, objects: Objects, plan: VolumePlan, revision: int, empty: Fill) -> None:
        self._objects = objects
        self._background = empty
        self._root = storage.occupancy(plan.volume, revision)
        self._level = plan.levels[0]
        self._index = _index_plan(grid_shape(self._level.shape, self._level.chunk))
        self._codec = ShardCodec(self._index, COUNT, "zstd")
        self.stored: dict[str, Sum] = {}
        """What was stored, by key below the folder of the revision."""

    def rows(self) -> Iterator[Box]:
        """What is stored together, in chunks from the volume's first: layers of the whole volume, in order."""
        return Box.whole(self._index.shape).tiles((self._index.shard[0], *self._index.shape[1:]))

    def store(self, rows: Box, counts: NDArray[np.uint32]) -> None:
        """Store the counts of one of `rows`."""
        for index in self._codec.indices(rows):
            box = self._codec.box(index).moved((-rows.start[0], 0, 0))
            # The same counts whoever finishes: what a finisher that comes late writes changes nothing.
            self._put(_key(index), self._codec.encode(index, np.ascontiguousarray(counts[box.slices()])))

    def close(self) -> None:
        """Store the metadata, by which readers know that the index is there."""
        metadata = array_metadata(self._index, COUNT, "zstd")
        level = self._level
        said = {"chunk_shape": list(level.chunk), "volume_shape": list(level.shape), "fill_value": self._background}
        self._put("zarr.json", document({**metadata, "attributes": said}))

    def _put(self, key: str, data: bytes) -> None:
        self._objects.put_sync(storage.VOLUMES, self._root + key, data)
        folder = self._root.rstrip("/").rpartition("/")[2]
        self.stored[f"{folder}/{key}"] = sum_of(data)


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


def _summed(values: NDArray[Any], axis: int, cell: int) -> NDArray[np.uint32]:
    """Sums over cells along one axis."""
    edges = np.arange(0, values.shape[axis], cell)
    sums: NDArray[np.uint32] = np.add.reduceat(values, edges, axis=axis, dtype=np.uint32)
    return sums


def _key(index: Index3) -> str:
    return "c/" + "/".join(map(str, index))
