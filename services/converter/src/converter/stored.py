"""Levels that are in the store already, read like any other volume."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from converter.downsampling import halving
from converter.errors import CorruptVolumeError
from converter.pyramid import HalvedReader
from converter.shards import ShardCodec
from emporter_contracts import storage
from emporter_contracts.events import ShardWritten
from emporter_contracts.geometry import Box, ChunkGrid, Index3, Shape3, VoxelSize
from emporter_contracts.plans import VolumePlan
from emporter_readers.bounds import require_within
from emporter_runtime.errors import ObjectMissingError
from emporter_runtime.objects import Objects

Look = Callable[[str, bytes], None]
"""Called with the key (below the volume's OME-Zarr folder) and the bytes of every shard that is read."""


def shard_written(key: str, data: bytes) -> ShardWritten:
    """What the ledger says of a shard: `key` below the volume's OME-Zarr folder."""
    return ShardWritten(key=key, bytes=len(data), crc32c=f"{google_crc32c.value(data):08x}")


class StoredLevel:
    """A Reader over one level of a revision. One GET moves a whole shard; a missing one is an error, never zeros."""

    def __init__(self, objects: Objects, plan: VolumePlan, revision: int, level: int, look: Look | None = None) -> None:
        self.codec = ShardCodec(plan.levels[level], plan.dtype, plan.codec)
        self.voxel_size = VoxelSize()
        self._objects = objects
        self._root = storage.zarr_root(plan.volume, revision)
        self._level = level
        self._look = look

    @property
    def shape(self) -> Shape3:
        return self.codec.level.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.codec.dtype

    @property
    def native(self) -> ChunkGrid:
        return ChunkGrid(self.codec.level.shard)

    def read(self, box: Box) -> NDArray[Any]:
        """Voxels of `box`. Raises CorruptVolumeError where a shard is missing or broken."""
        require_within(box, self.shape, f"level {self._level}")
        indices = self.codec.indices(box)
        if len(indices) == 1:
            return self._part(indices[0], box)
        voxels = np.empty(box.shape, self.dtype)
        for index in indices:
            part = self.codec.box(index).overlap(box)
            assert part is not None
            z, y, x = (-a for a in box.start)
            voxels[part.moved((z, y, x)).slices()] = self._part(index, part)
        return voxels

    def _part(self, index: Index3, part: Box) -> NDArray[Any]:
        key = storage.shard_key(self._level, index)
        try:
            data = self._objects.get_sync(storage.VOLUMES, self._root + key)
        except ObjectMissingError as error:
            raise CorruptVolumeError(f"{self._root}{key} is not in the store", hint="convert again with --force") from error
        if self._look is not None:
            self._look(key, data)
        return self.codec.decode(index, data, part)


def source_of(objects: Objects, plan: VolumePlan, revision: int, level: int) -> HalvedReader:
    """What level `level` (1 or more) is made from: the stored level below it, halved."""
    below = StoredLevel(objects, plan, revision, level - 1)
    return HalvedReader(below, plan.levels[level].factor, halving(plan.role))
