"""What the tasks of a volume counted, put together: its statistics, and its index of where there is anything."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from converter.census import Census, counted_again, read_census
from converter.digesting import Sum, Sums, sum_of
from converter.memory import REQUESTS
from converter.occupancy import OccupancyIndex
from converter.reading import Stop
from converter.statistics import counter
from emporter_contracts import storage
from emporter_contracts.fills import Fill
from emporter_contracts.geometry import Box, Index3, negative
from emporter_contracts.plans import LevelPlan, VolumePlan
from emporter_contracts.records import Statistics
from emporter_runtime.objects import Objects


@dataclass(frozen=True, slots=True)
class Counted:
    """Of all voxels of level 0: their statistics, the objects of the occupancy index that was stored, and of what it is made."""

    statistics: Statistics
    occupancy: Sums
    censuses: Sums


def gather(objects: Objects, plan: VolumePlan, revision: int, empty: Fill, stop: Stop) -> Counted:
    """Put the census of every task together and store the index; blocking. The same whoever does it, and how often.

    Raises CorruptVolumeError where a task has to be counted again and a shard of it can't be read.
    """
    index, totals = OccupancyIndex(objects, plan, revision, empty), counter(np.dtype(plan.dtype))
    censuses = _Censuses(objects, plan, revision, empty, stop)
    for rows in index.rows():
        counts = np.zeros(rows.shape, np.uint32)
        for census in censuses.of(rows):
            part = census.grid.overlap(rows)
            assert part is not None
            counts[part.moved(negative(rows.start)).slices()] = census.occupancy[part.moved(negative(census.grid.start)).slices()]
            if part.start == census.grid.start:  # a task that goes on into the next rows comes again with them
                totals.take(census.tally)
        index.store(rows, counts)
    index.close()
    return Counted(totals.statistics(window=plan.role == "image"), index.stored, censuses.sums)


class _Censuses:
    """What the tasks of a volume left. What has to be counted again is stored again."""

    def __init__(self, objects: Objects, plan: VolumePlan, revision: int, empty: Fill, stop: Stop) -> None:
        self._objects = objects
        self._plan = plan
        self._revision = revision
        self._empty = empty
        self._stop = stop
        self.sums: dict[str, Sum] = {}
        """Of what was read so far, by key below the folder of the revision."""

    def of(self, rows: Box) -> Iterator[Census]:
        """Of the tasks that hold any of these chunks, in order; REQUESTS of them are read while one is looked at."""
        coming: deque[tuple[int, Future[bytes]]] = deque()
        with ThreadPoolExecutor(REQUESTS, "census") as pool:
            try:
                for n in _tasks(self._plan.levels[0], rows):
                    coming.append((n, pool.submit(self._read, n)))
                    if len(coming) > REQUESTS:
                        yield self._arrived(*coming.popleft())
                while coming:
                    yield self._arrived(*coming.popleft())
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _read(self, n: int) -> bytes:
        self._stop()
        return self._objects.find_sync(storage.VOLUMES, self._key(n)) or b""

    def _arrived(self, n: int, coming: Future[bytes]) -> Census:
        data = coming.result()
        census = read_census(data, self._plan, n, self._empty)
        if census is None:
            census = counted_again(self._objects, self._plan, self._revision, n, self._empty, self._stop)
            data = census.encoded()
            self._objects.put_sync(storage.VOLUMES, self._key(n), data)
        self.sums[self._key(n).removeprefix(storage.revision_folder(self._plan.volume, self._revision))] = sum_of(data)
        return census

    def _key(self, n: int) -> str:
        return storage.census(self._plan.volume, self._revision, n)


def _tasks(level: LevelPlan, rows: Box) -> Iterator[int]:
    """Numbers of the tasks that hold any of these chunks."""
    voxels = Box.at(_times(rows.start, level.chunk), _times(rows.shape, level.chunk)).overlap(Box.whole(level.shape))
    assert voxels is not None
    _, grid_y, grid_x = level.grid
    for tile in voxels.tiles(level.task):
        z, y, x = (a // t for a, t in zip(tile.start, level.task, strict=True))
        yield (z * grid_y + y) * grid_x + x


def _times(a: Index3, b: Index3) -> Index3:
    return (a[0] * b[0], a[1] * b[1], a[2] * b[2])
