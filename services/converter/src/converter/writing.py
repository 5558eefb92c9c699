"""One task: a box of voxels becomes whole shards in the store, and with it the boxes of the fused levels above.

Three things happen at once: the next band is read, the shards of this one are encoded and sent, what is done is halved into the
shards of the level above. A band, two shards in the making and a row of shards per fused level are all that is held (memory.py).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.census import Census
from converter.downsampling import halved_shape, halving
from converter.memory import THREADS, readers_of
from converter.reading import Reading, Stop, all_of
from converter.shards import ShardCodec, shard_index
from converter.stored import shard_written, source_of
from emporter_contracts import storage
from emporter_contracts.events import ShardWritten
from emporter_contracts.fills import Fill
from emporter_contracts.geometry import Box, Index3, negative
from emporter_contracts.plans import VolumePlan
from emporter_readers.protocol import Reader
from emporter_runtime.objects import Objects

Look = Callable[[Box, NDArray[Any]], None]
"""Called with the box and the voxels of every shard of level 0, by several threads."""


def _unseen(box: Box, voxels: NDArray[Any]) -> None:
    """Of a level that nobody counts."""


def write_task(
    objects: Objects,
    plan: VolumePlan,
    revision: int,
    level: int,
    n: int,
    empty: Fill,
    reader_of: Callable[[], Reader],
    stop: Stop,
) -> dict[int, tuple[ShardWritten, ...]]:
    """Write the shards of task `n` of `level`, and of the levels fused with it (LevelPlan.fused); blocking.

    By level, sorted by key: what task `n` of each has to write. The same bytes whoever writes them,
    in one pass or level by level. Of level 0 also the census, of which `empty` is no foreground. `reader_of` gives the raw volume
    and is called for level 0 only. Raises what readers and store raise, and what `stop` raises.
    """
    levels = range(level, fused_until(plan, level) + 1)
    if level > 0:
        return write_pass(objects, plan, revision, levels, n, reader_of, stop)
    census = Census(plan, n, empty)
    written = write_pass(objects, plan, revision, levels, n, reader_of, stop, census.add)
    objects.create_sync(storage.VOLUMES, storage.census(plan.volume, revision, n), census.encoded())
    return written


def write_pass(
    objects: Objects,
    plan: VolumePlan,
    revision: int,
    levels: range,
    n: int,
    reader_of: Callable[[], Reader],
    stop: Stop,
    look: Look = _unseen,
) -> dict[int, tuple[ShardWritten, ...]]:
    """Write task `n` of `levels`, of which all but the first are fused with the one below; the shards by level, sorted by key.

    Raises as write_task.
    """
    base = levels[0]
    reader = reader_of() if base == 0 else source_of(objects, plan, revision, base)
    return _Task(objects, plan, revision, levels, plan.levels[base].box(n), reader, stop, look).run()


def fused_until(plan: VolumePlan, level: int) -> int:
    """The last level that a task of `level` makes in the same pass."""
    while level + 1 < len(plan.levels) and plan.levels[level + 1].fused:
        level += 1
    return level


class _Task:
    """One pass over one box."""

    def __init__(
        self,
        objects: Objects,
        plan: VolumePlan,
        revision: int,
        levels: range,
        box: Box,
        reader: Reader,
        stop: Stop,
        look: Look,
    ) -> None:
        self._objects = objects
        self._plan = plan
        self._root = storage.zarr_root(plan.volume, revision)
        self._levels = levels
        self._box = box
        self._reader = reader
        self._stop = stop
        self._look = look
        self._halve = halving(plan.role)
        self._codecs = {k: ShardCodec(plan.levels[k], plan.dtype, plan.codec) for k in levels}
        self._growing = {k: _Growing(self._codecs[k]) for k in levels[1:]}
        self._written: dict[int, list[ShardWritten]] = {k: [] for k in levels}

    def run(self) -> dict[int, tuple[ShardWritten, ...]]:
        base = self._plan.levels[self._levels[0]]
        bands = list(self._box.tiles(base.band or base.task))
        with ThreadPoolExecutor(self._readers(), "read") as readers, ThreadPoolExecutor(THREADS, "encode") as encoders:
            try:
                coming, encoding = self._read(bands[0], readers), list[Future[None]]()
                for n, band in enumerate(bands):
                    following = self._encode(band, coming.result(), encoders)
                    # Only now, so that encoders are never without work; and before the next band takes the room of the last.
                    all_of(encoding)
                    encoding = following
                    if n + 1 < len(bands):
                        coming = self._read(bands[n + 1], readers)
                all_of(encoding)
            finally:
                # Whatever is queued is not wanted any more after an error; what runs notices by `stop` or ends soon.
                readers.shutdown(wait=True, cancel_futures=True)
                encoders.shutdown(wait=True, cancel_futures=True)
        return {k: tuple(sorted(shards, key=lambda s: s.key)) for k, shards in self._written.items()}

    def _readers(self) -> int:
        cell = Box.whole(self._reader.shape).overlap(Box.at((0, 0, 0), self._reader.native.cell))
        assert cell is not None
        base = self._levels[0]
        made_of = math.prod(self._plan.levels[base].factor) if base else 1
        return readers_of(cell.size * made_of * self._reader.dtype.itemsize)

    def _read(self, band: Box, readers: ThreadPoolExecutor) -> Reading:
        return Reading(self._reader, band, self._codecs[self._levels[0]].dtype, readers, self._stop)

    def _encode(self, band: Box, voxels: NDArray[Any], encoders: ThreadPoolExecutor) -> list[Future[None]]:
        """Begin to make shards of a band."""
        level = self._levels[0]
        z, y, x = (-a for a in band.start)
        tiles = band.tiles(self._plan.levels[level].shard)
        return [encoders.submit(self._shard, level, t, voxels[t.moved((z, y, x)).slices()]) for t in tiles]

    def _shard(self, level: int, box: Box, voxels: NDArray[Any]) -> None:
        """Store one shard, halve it into the level above, and store what that completes."""
        self._stop()
        if level == self._levels[0]:
            self._look(box, voxels)
        index = shard_index(box.start, self._plan.levels[level].shard)
        key = storage.shard_key(level, index)
        data = self._codecs[level].encode(index, voxels)
        self._objects.put_sync(storage.VOLUMES, self._root + key, data)
        self._written[level].append(shard_written(key, data))
        del data
        if level + 1 not in self._growing:
            return
        factor = self._plan.levels[level + 1].factor
        start = tuple(a // f for a, f in zip(box.start, factor, strict=True))
        above = Box.at((start[0], start[1], start[2]), halved_shape(box.shape, factor))
        for whole, complete in self._growing[level + 1].add(above, self._halve(voxels, factor)):
            self._shard(level + 1, whole, complete)


class _Growing:
    """Shards of a fused level of which some voxels are still to come."""

    def __init__(self, codec: ShardCodec) -> None:
        self._codec = codec
        self._shards: dict[Index3, NDArray[Any]] = {}
        self._missing: dict[Index3, int] = {}
        self._lock = threading.Lock()

    def add(self, box: Box, voxels: NDArray[Any]) -> list[tuple[Box, NDArray[Any]]]:
        """Put `voxels` where they belong; the shards this completes, with their boxes. Parts never overlap."""
        complete = []
        for index in self._codec.indices(box):
            whole = self._codec.box(index)
            part = whole.overlap(box)
            assert part is not None
            shard = self._begun(index, whole)
            shard[part.moved(negative(whole.start)).slices()] = voxels[part.moved(negative(box.start)).slices()]
            if self._completes(index, part.size):
                complete.append((whole, shard))
        return complete

    def _begun(self, index: Index3, whole: Box) -> NDArray[Any]:
        with self._lock:
            if index not in self._shards:
                self._shards[index] = np.empty(whole.shape, self._codec.dtype)
                self._missing[index] = whole.size
            return self._shards[index]

    def _completes(self, index: Index3, voxels: int) -> bool:
        with self._lock:
            self._missing[index] -= voxels
            if self._missing[index]:
                return False
            del self._shards[index], self._missing[index]
            return True
