"""Where the counts come from that say how much foreground lies where: the index made at conversion, or the voxels themselves."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from block_server.admission import Admission
from block_server.arrays import Level, OpenVolume, cache_context
from block_server.caching import Kept
from block_server.errors import DamagedVolumeError
from block_server.reading_faults import fault_of
from block_server.sampling_foreground import Occupancy
from block_server.volumes import Volumes
from emporter_contracts import storage
from emporter_contracts.fills import Fill
from emporter_contracts.geometry import Box, Shape3, grid_shape
from emporter_contracts.ids import VolumeRef
from emporter_readers.filling import background, foreground
from emporter_runtime.objects import Objects

Key = tuple[VolumeRef, Fill]
"""A revision, and what is no foreground of it."""

KEPT = 16
"""Volumes whose counts are kept in mind, at most 12 MB each."""
MAX_COUNTS = 2**20
"""Past it neighbouring chunks are counted together, so that 10 TB need no more memory than 250 GB; the bounds stay true."""
AT_ONCE = 2
"""Samples whose places are laid out at the same time: each may take some 100 MB for a moment."""
READ_AT_ONCE = 2**22
"""Counts of the stored index read at once."""
COUNTED_NOW = 2**29
"""Bytes of voxels that are read to count them where there is no index: a second or two, once. Past it only the boxes that are
drawn are looked at, and others are drawn: whoever changes it raises SAMPLER_VERSION."""


def background_of(volume: OpenVolume) -> Fill:
    """What voxels are that are no foreground of a volume."""
    known = volume.record.metadata
    return background(known.technical.fill_value, known.core.role)


class Occupancies:
    """The counts of revisions, each found once. `turn` is held by who lays out places."""

    def __init__(self, objects: Objects, volumes: Volumes, decoding: Admission) -> None:
        self._objects = objects
        self._volumes = volumes
        self._decoding = decoding
        self._kept: Kept[Key, Occupancy | None] = Kept(self._find, most=KEPT)
        self.turn = asyncio.Semaphore(AT_ONCE)

    async def of(self, ref: VolumeRef, empty: Fill) -> Occupancy | None:
        """Of what is not `empty`; None where nobody counted that and it would take too long now. Raises DamagedVolumeError."""
        return await self._kept.get((ref, empty))

    async def _find(self, key: Key) -> Occupancy | None:
        ref, empty = key
        volume = await self._volumes.opened(ref)
        prefix = storage.occupancy(ref.volume, volume.arrays_of)
        index = await self._objects.find(storage.VOLUMES, prefix + "zarr.json")
        if index is not None and _counts(index, volume.ref) == empty:
            return await _stored(volume, self._objects.kvstore(storage.VOLUMES, prefix))
        level = volume.levels[0]
        if math.prod(level.shape) * level.dtype.itemsize > COUNTED_NOW:
            return None
        return await self._counted(volume, level, empty)

    async def _counted(self, volume: OpenVolume, level: Level, empty: Fill) -> Occupancy:
        counts = np.zeros(grid_shape(level.shape, level.chunk), np.uint32)
        for box in Box.whole(level.shape).tiles(_several(level.chunk, level.dtype.itemsize)):
            with await self._decoding.hold(2 * box.size * level.dtype.itemsize + level.decoded_bytes(box)):
                voxels = await volume.read(level, box)
                found = await asyncio.to_thread(pooled, foreground(voxels, empty), level.chunk)
            first = [a // c for a, c in zip(box.start, level.chunk, strict=True)]
            counts[tuple(slice(a, a + n) for a, n in zip(first, found.shape, strict=True))] = found
        return Occupancy.of(counts, level.chunk, level.shape)


def _counts(index: bytes, ref: VolumeRef) -> Fill:
    """What the index took for no foreground, by its metadata. Raises DamagedVolumeError."""
    try:
        empty: Fill = json.loads(index).get("attributes", {}).get("fill_value", 0)
    except (ValueError, AttributeError) as error:
        raise DamagedVolumeError(f"{ref}: the metadata of its index of foreground is damaged", hint="convert it again") from error
    return empty


async def _stored(volume: OpenVolume, kvstore: dict[str, Any]) -> Occupancy:
    """The index made at conversion: voxels of foreground, one count for each chunk of level 0 (Zarr v3, uint32)."""
    level = volume.levels[0]
    try:
        spec = {"driver": "zarr3", "kvstore": kvstore, "fill_missing_data_reads": False}
        store = await ts.open(spec, open=True, read=True, context=cache_context(0))
        grid = grid_shape(level.shape, level.chunk)
        if tuple(store.shape) != grid:
            raise DamagedVolumeError(f"{volume.ref}: its index of foreground is of another volume", hint="convert it again")
        factor = _together(grid)
        rows = max(1, READ_AT_ONCE // (grid[1] * grid[2]) // factor[0]) * factor[0]
        slabs = [pooled(await store[z : min(z + rows, grid[0])].read(), factor) for z in range(0, grid[0], rows)]
    except ValueError as error:
        raise fault_of(error, str(volume.ref), "its index of foreground") from error
    z, y, x = (c * f for c, f in zip(level.chunk, factor, strict=True))
    return Occupancy.of(np.concatenate(slabs), (z, y, x), level.shape)


def pooled(values: NDArray[Any], cell: Shape3) -> NDArray[np.uint32]:
    """Sums of `values` over cells of `cell`, the last ones smaller."""
    sums = values
    for axis in range(3):
        sums = np.add.reduceat(sums, np.arange(0, sums.shape[axis], cell[axis]), axis=axis, dtype=np.int64)
    if sums.max(initial=0) > np.iinfo(np.uint32).max:
        raise AssertionError("a cell holds more than 2^32 voxels")
    return sums.astype(np.uint32)


def _together(grid: Shape3) -> Shape3:
    """How many chunks along each axis are counted together so that there are MAX_COUNTS at most."""
    factor = [1, 1, 1]
    while math.prod(-(-n // f) for n, f in zip(grid, factor, strict=True)) > MAX_COUNTS:
        longest = max(range(3), key=lambda axis: grid[axis] / factor[axis])
        factor[longest] *= 2
    return (factor[0], factor[1], factor[2])


def _several(chunk: Shape3, itemsize: int) -> Shape3:
    """Whole chunks of about 16 MiB."""
    cell: list[int] = list(chunk)
    while math.prod(cell) * itemsize < 2**23:
        cell[cell.index(min(cell))] *= 2
    z, y, x = cell
    return (z, y, x)
