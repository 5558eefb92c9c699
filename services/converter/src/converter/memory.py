"""What a conversion holds in memory, so that a plan is only made of tasks that fit. All in bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from emporter_contracts.geometry import Shape3

MIB = 2**20
BASE_BYTES = 192 * MIB
"""Kept out of plans. Interpreter and libraries are 110 MiB; over nine kinds of volume a process held at most that much more than
its plan in all, and the rest is for connections and long days. Measure again when a large library is added: peak of a process
less `Pass.memory`."""
THREADS = 2
"""That read, and as many that encode, in one task. Both release the GIL; a converter is scaled by processes, not by threads."""
BANDS = 2
"""One is being encoded while the next is being read."""
ENCODED = 2.5
"""Bytes held for a shard while it is encoded, per byte of its voxels: its chunks, the shard they make, the copy that is sent."""
LARGE_CELL_BYTES = 32 * MIB
"""A strip, page or chunk past this, as decoded, is read one at a time: two of them would take the room of half a band."""
PIECE_BYTES = 8 * MIB
"""Of one call to a reader: large enough for whole runs of strips, small enough that two of them don't count."""


REQUESTS = 16
"""In flight at most, of a pass that reads what is stored: a store 20 ms away then gives 800 shards a second, not 50."""
REQUESTED_BYTES = 32 * MIB
"""Of decoded shards they are together; of larger ones there are as few as a task reads, and one more."""


def readers_of(cell_bytes: int) -> int:
    """How many threads read a source whose cells take this much."""
    return 1 if cell_bytes > LARGE_CELL_BYTES else THREADS


def requests_of(shard_bytes: int) -> int:
    """How many shards of this size, as decoded, are read from the store at once."""
    return max(THREADS + 1, min(REQUESTS, REQUESTED_BYTES // shard_bytes))


def working_memory(memory_bytes: int) -> int:
    """What of a process's budget is left for voxels."""
    return memory_bytes - BASE_BYTES


@dataclass(frozen=True, slots=True)
class TaskMemory:
    """What one task of so many `bands` holds, in voxels: a `band`, the largest `shard`, `live` of fused levels, a `cell` of the
    source.
    """

    itemsize: int
    band: Shape3
    shard: int
    live: int
    cell: int
    bands: int = BANDS

    @property
    def bytes(self) -> int:
        bands = min(BANDS, self.bands) * math.prod(self.band)
        encoding = THREADS * ENCODED * self.shard
        # A cell is held as it came and decoded; a piece holds whole cells, or is part of one.
        reading = readers_of(self.cell * self.itemsize) * 2 * max(self.cell, PIECE_BYTES // self.itemsize)
        return math.ceil(self.itemsize * (bands + encoding + self.live + reading))
