"""Headers by ranges, for readers that know no latency: many tiny reads become few requests."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from emporter_readers.errors import CorruptObjectError

BLOCK_BYTES = 32 * 1024
"""Of one cached piece: a TIFF directory or a DM tag tree fits, and a thousand of them cost 32 MiB, not a volume."""
BLOCKS_KEPT = 256
"""Per object: 8 MiB."""

ReadRange = Callable[[int, int], bytes]
"""Blocking; exactly the bytes from start to stop."""


class CachedSource:
    """A ByteSource that asks for whole blocks, neighbours in one request, and keeps the last ones."""

    def __init__(self, name: str, size: int, read_range: ReadRange) -> None:
        self.name = name
        self.size = size
        self._read_range = read_range
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, start: int, stop: int) -> bytes:
        """Exactly these bytes. Raises CorruptObjectError past the end, and what the archive raises."""
        if stop > self.size:
            raise CorruptObjectError(f"{self.name}: ends at byte {self.size}, needed up to {stop}")
        if start >= stop:
            return b""
        first, last = start // BLOCK_BYTES, (stop - 1) // BLOCK_BYTES
        if last - first >= BLOCKS_KEPT:
            return self._read_range(start, stop)
        blocks = self._blocks_from(first, last)
        joined = b"".join(blocks)
        return joined[start - first * BLOCK_BYTES : stop - first * BLOCK_BYTES]

    def _blocks_from(self, first: int, last: int) -> list[bytes]:
        with self._lock:
            found = {n: self._blocks[n] for n in range(first, last + 1) if n in self._blocks}
            for n in found:
                self._blocks.move_to_end(n)
        missing = [n for n in range(first, last + 1) if n not in found]
        if missing:
            # From the first that is missing to the last in one request: a gap of blocks we have costs less than a second request.
            begin, end = missing[0] * BLOCK_BYTES, min(self.size, (missing[-1] + 1) * BLOCK_BYTES)
            data = self._read_range(begin, end)
            for n in range(missing[0], missing[-1] + 1):
                found[n] = data[n * BLOCK_BYTES - begin : (n + 1) * BLOCK_BYTES - begin]
            self._keep(found)
        return [found[n] for n in range(first, last + 1)]

    def _keep(self, blocks: dict[int, bytes]) -> None:
        with self._lock:
            for n, block in blocks.items():
                self._blocks[n] = block
                self._blocks.move_to_end(n)
            while len(self._blocks) > BLOCKS_KEPT:
                self._blocks.popitem(last=False)
