"""What a conversion holds in memory, so that a plan is only made of tasks that fit. All in bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass

MIB = 2**20
PROCESS_BYTES = 144 * MIB
"""What a process holds besides its voxels: interpreter and libraries are 132 MiB, connections to bus and store the rest. Measure
again when a large library is added: resident memory of a converter that has done one small volume."""
BASE_BYTES = 192 * MIB
"""Kept out of plans: the process itself, and room for holes in a heap that several threads share: over forty kinds of volume
24 MiB at most."""
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


REQUESTS = 32
"""In flight at most, of a pass that reads what is stored: a store 20 ms away then gives up to 1,600 shards a second, not 50."""
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
    """What one task of `size` voxels holds, in voxels: a `band` of so many `shards`, the largest `shard`, `live` of fused levels;
    of the source, which has so many `cells`, a `cell` or a `piece` of several, `copies` times.
    """

    itemsize: int
    size: int
    band: int
    shards: int
    shard: int
    live: int
    cells: int
    cell: int
    piece: int
    copies: int = 2

    @property
    def bytes(self) -> int:
        bands = min(BANDS * self.band, self.size)
        making = min(THREADS, self.shards) * ENCODED * self.shard + self.live
        # Of a task of one band all is read before anything is made. What large cells held is taken again by shards, or goes back
        # to the system (allocator.py); smaller pieces leave holes in the heap that no shard fits.
        apart = self.size <= self.band and self.cell * self.itemsize > PIECE_BYTES
        working = max(self._reading, making) if apart else self._reading + making
        return math.ceil(self.itemsize * (bands + working))

    @property
    def _reading(self) -> int:
        readers = min(readers_of(self.cell * self.itemsize), self.cells)
        return readers * self.copies * max(self.cell, self.piece)
