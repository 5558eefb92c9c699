"""A reader over objects that are asked for by name when they are needed: whole where a chunk is an object, else by ranges."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

from emporter_readers.array import MemorySource
from emporter_readers.chunked.reader import ChunkedReader
from emporter_readers.chunked.shards import ShardedChunks
from emporter_readers.chunked.stored import Lookup, Single
from emporter_readers.errors import CorruptObjectError
from emporter_readers.protocol import ByteSource

ENCODED_SHARE = 4
"""Times its voxels that an encoded chunk may be: compressed segmentation of noise needs twice."""
AROUND = 2**16
"""Bytes of headers around the smallest chunks."""


class NamedObjects(Protocol):
    """The objects below a root, for worker threads."""

    def whole(self, name: str, most: int) -> bytes | None:
        """All of an object of at most `most` bytes, None where there is none."""

    def size(self, name: str) -> int | None:
        """Its bytes, None where there is none."""

    def part(self, name: str, start: int, stop: int) -> bytes:
        """Exactly these bytes of an object that is there."""


def attached(reader: ChunkedReader, objects: NamedObjects) -> ChunkedReader:
    """`reader`, with chunks out of `objects`."""
    return replace(reader, lookup=_lookup(reader, objects))


def _lookup(reader: ChunkedReader, objects: NamedObjects) -> Lookup:
    layout = reader.array.layout
    most = ENCODED_SHARE * math.prod(reader.array.chunk) * reader.array.dtype.itemsize + AROUND

    def whole(name: str) -> ByteSource | None:
        data = objects.whole(name, most)
        return None if data is None else MemorySource(name, data)

    def by_ranges(name: str) -> ByteSource | None:
        # Chunks beside their shards are an ingest's doing: in an archive all lie in shards.
        if isinstance(layout, ShardedChunks) and not name.endswith(".shard"):
            return None
        size = objects.size(name)
        return None if size is None else _Ranges(objects, name, size)

    return whole if isinstance(layout, Single) else by_ranges


@dataclass(frozen=True, slots=True)
class _Ranges:
    objects: NamedObjects
    name: str
    size: int

    def read(self, start: int, stop: int) -> bytes:
        if stop > self.size:
            raise CorruptObjectError(f"{self.name}: ends at byte {self.size}, needed up to {stop}")
        return b"" if start == stop else self.objects.part(self.name, start, stop)
