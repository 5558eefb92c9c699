"""A ByteSource as a file object for header reads: small blocks, kept for a while, read ahead where reading is sequential."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from emporter_readers.errors import CorruptObjectError
from emporter_readers.protocol import ByteSource

BLOCK_BYTES = 16 * 1024
"""Bytes of one block. An IFD with its tag values is 0.2 to 2 KiB; larger blocks read more data beside it over HTTP, smaller
ones cost a request per tag value."""
READ_AHEAD_BLOCKS = 16
"""Blocks fetched at once at most where blocks are asked for in sequence: 256 KiB, so directories side by side cost little."""
KEPT_BLOCKS = 512
"""8 MiB, while the headers of a file are read."""
HEADER_BYTES = 64 * 2**20
"""Of one header read at most. The largest honest ones are OME-XML and strip tables of a few MiB; damaged counts ask for more."""
PARALLEL = 8
"""Blocks fetched at a time where several are foreseen: what hides the latency of an HTTP server without pressing it."""


class SourceFile(io.RawIOBase):
    """Read-only and seekable. Not for several threads at once.

    Parsers turn errors of a read into errors of their own, or swallow them: `check` raises the first that reading the source
    raised, and is called after every parse.
    """

    def __init__(self, source: ByteSource) -> None:
        super().__init__()
        self.source = source
        self.name = source.name
        self._position = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._ahead = 1
        self._expected = -1
        self._failure: Exception | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.source.size}[whence]
        if base + offset < 0:
            raise ValueError("seek before the start of the file")
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = max(0, self.source.size - self._position)
        size = left if size < 0 else min(size, left)
        if size > HEADER_BYTES:
            self._failure = self._failure or CorruptObjectError(f"{self.name}: a header claims {size} bytes")
            raise self._failure
        data = self._bytes(self._position, self._position + size)
        self._position += len(data)
        return data

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return self.read()

    def check(self) -> None:
        """Raises what the source raised, if it ever did."""
        if self._failure is not None:
            raise self._failure

    def forget(self) -> None:
        """Let go of what was read: a folder of ten thousand slices is ten thousand of these."""
        self._blocks.clear()

    def foresee(self, offsets: Iterable[int]) -> None:
        """Fetch the blocks at `offsets` at once, in parallel; they are about to be read."""
        blocks = {offset // BLOCK_BYTES for offset in offsets if 0 <= offset < self.source.size}
        missing = sorted(block for block in blocks if block not in self._blocks)
        if len(missing) < 2:
            return
        with ThreadPoolExecutor(PARALLEL) as pool:
            for block, data in zip(missing, pool.map(lambda block: self._fetch(block, 1), missing), strict=True):
                self._keep(block, data)

    def _bytes(self, start: int, stop: int) -> bytes:
        first, last = start // BLOCK_BYTES, (stop - 1) // BLOCK_BYTES
        if stop <= start:
            return b""
        if last - first >= READ_AHEAD_BLOCKS:
            return self._read(start, stop)
        within = slice(start - first * BLOCK_BYTES, stop - first * BLOCK_BYTES)
        if first == last:
            return self._block(first)[within]
        return b"".join(self._block(block) for block in range(first, last + 1))[within]

    def _block(self, block: int) -> bytes:
        if block in self._blocks:
            self._blocks.move_to_end(block)
            return self._blocks[block]
        self._ahead = min(2 * self._ahead, READ_AHEAD_BLOCKS) if block == self._expected else 1
        data = self._fetch(block, self._ahead)
        for k in range(0, len(data), BLOCK_BYTES):
            self._keep(block + k // BLOCK_BYTES, data[k : k + BLOCK_BYTES])
        self._expected = block + self._ahead
        return self._blocks[block]

    def _keep(self, block: int, data: bytes) -> None:
        self._blocks[block] = data
        while len(self._blocks) > KEPT_BLOCKS:
            self._blocks.popitem(last=False)

    def _fetch(self, block: int, count: int) -> bytes:
        start = block * BLOCK_BYTES
        return self._read(start, min(start + count * BLOCK_BYTES, self.source.size))

    def _read(self, start: int, stop: int) -> bytes:
        try:
            return self.source.read(start, stop)
        except Exception as error:
            self._failure = self._failure or error
            raise
