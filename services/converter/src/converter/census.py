"""What a task counts of level 0 while it has the voxels in hand: values, and in each chunk what is foreground.

A census is an object beside the record, one for each task, written before the task is entered in the ledger and once: two workers
that do a task count the same. Nobody has to trust one: where it is missing, broken or of another version of this program, the
task's shards are read and counted again.
"""

from __future__ import annotations

import io
import threading
import zipfile
import zlib
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from converter.occupancy import per_chunk
from converter.reading import Stop
from converter.statistics import Tally, counter
from converter.stored import StoredLevel
from emporter_contracts.fills import Fill
from emporter_contracts.geometry import Box, grid_shape
from emporter_contracts.plans import FetchPlan, VolumePlan
from emporter_readers.filling import background
from emporter_runtime.objects import Objects

VERSION = 1
"""Of what is counted and how it is written."""
BROKEN = (KeyError, TypeError, ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error)
"""What numpy raises of bytes that are none of its archives, or of one that holds something else."""


class Census:
    """The counts of one task of level 0, added shard by shard; several threads may. Foreground is what is not `empty`."""

    def __init__(self, plan: VolumePlan, n: int, empty: Fill) -> None:
        self._box = plan.levels[0].box(n)
        self._chunk = plan.levels[0].chunk
        self._empty = empty
        self._voxels = counter(np.dtype(plan.dtype))
        self._lock = threading.Lock()
        z, y, x = (a // c for a, c in zip(self._box.start, self._chunk, strict=True))
        self.grid = Box.at((z, y, x), grid_shape(self._box.shape, self._chunk))
        """The task's chunks, counted from the volume's first."""
        self.occupancy: NDArray[np.uint32] = np.zeros(self.grid.shape, np.uint32)
        """Voxels of foreground in each of them."""

    @property
    def tally(self) -> Tally:
        """What was counted of values, for the counter of the whole volume."""
        return self._voxels.tally()

    @property
    def complete(self) -> bool:
        """Whether every voxel of the task was counted."""
        return self._voxels.n == self._box.size

    def add(self, box: Box, voxels: NDArray[Any]) -> None:
        """Count a box of whole chunks."""
        found = per_chunk(voxels, self._chunk, self._empty)
        z, y, x = ((a - b) // c for a, b, c in zip(box.start, self._box.start, self._chunk, strict=True))
        self.occupancy[Box.at((z, y, x), _shape(found)).slices()] = found
        with self._lock:
            self._voxels.add(voxels)

    def encoded(self) -> bytes:
        """As numpy's archive of arrays (npz)."""
        file = io.BytesIO()
        arrays: dict[str, Any] = {"version": np.array(VERSION), "occupancy": self.occupancy, **self._voxels.tally()}
        np.savez_compressed(file, **arrays)
        return file.getvalue()

    def take(self, data: bytes) -> Self:
        """Add what `encoded` wrote. Raises one of BROKEN."""
        with np.load(io.BytesIO(data), allow_pickle=False) as said:
            if int(said["version"]) != VERSION or said["occupancy"].shape != self.occupancy.shape:
                raise ValueError("a census of something else")
            self.occupancy += said["occupancy"].astype(np.uint32, casting="equiv")
            self._voxels.take(said)
        return self


def empty_of(fetch: FetchPlan, volume: str) -> Fill:
    """What voxels of a volume are that are no foreground."""
    planned = next(v for v in fetch.volumes if v.volume == volume)
    return background(planned.fill_value, planned.role)


def read_census(data: bytes, plan: VolumePlan, n: int, empty: Fill) -> Census | None:
    """What `Census.encoded` wrote of task `n`; None where it is anything else."""
    try:
        census = Census(plan, n, empty).take(data)
    except BROKEN:
        return None
    return census if census.complete else None


def counted_again(objects: Objects, plan: VolumePlan, revision: int, n: int, empty: Fill, stop: Stop) -> Census:
    """The census of a task, of its shards as they are stored. Raises CorruptVolumeError where one can't be read."""
    census, level = Census(plan, n, empty), StoredLevel(objects, plan, revision, 0)
    for shard in plan.levels[0].box(n).tiles(plan.levels[0].shard):
        stop()
        census.add(shard, level.read(shard))
    return census


def _shape(counts: NDArray[Any]) -> tuple[int, int, int]:
    z, y, x = counts.shape
    return (z, y, x)
