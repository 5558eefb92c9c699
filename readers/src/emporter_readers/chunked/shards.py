"""Shards of neuroglancer: which shard holds a chunk, and where in it.

Source: `sharded.md` of neuroglancer's precomputed format (`neuroglancer_uint64_sharded_v1`), and "compressed Morton code" of
`volume.md`. A fetcher keeps single chunks, named as if there were no shards; a chunk that lies there is read from there.
"""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from emporter_readers.chunked.stored import Cell, Lookup, Single
from emporter_readers.errors import CorruptObjectError, UnsupportedContentError
from emporter_readers.protocol import ByteSource

KIND = "neuroglancer_uint64_sharded_v1"
ENTRY = 16
"""Bytes of the shard index for one minishard: where its index starts and ends, behind the shard index."""
MOST_MINISHARD_BITS = 20
MOST_INDEX_BYTES = 256 * 2**20
"""Of one minishard index, decoded: ten million chunks."""
INDEXES_KEPT = 64
"""Minishard indexes held at once: 24 bytes a chunk, so a few MiB."""


class Span(NamedTuple):
    """Bytes of one object: `start` inclusive, `stop` exclusive."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class ShardSpec:
    """How chunk numbers are dealt out to shards and minishards."""

    preshift_bits: int
    minishard_bits: int
    shard_bits: int
    murmur: bool
    index_gzipped: bool
    data_gzipped: bool

    @classmethod
    def parsed(cls, said: Any, name: str) -> Self:
        """Raises CorruptObjectError or UnsupportedContentError."""
        if not isinstance(said, dict) or said.get("@type") != KIND:
            raise UnsupportedContentError(f"{name}: sharding is {str(said)[:100]}", hint=f"{KIND} is read")
        preshift, minishard, shard = (_bits(said, key, name) for key in ("preshift_bits", "minishard_bits", "shard_bits"))
        if minishard > MOST_MINISHARD_BITS or minishard + shard > 64:
            raise UnsupportedContentError(f"{name}: shards of 2^{minishard} minishards", hint="is its metadata damaged?")
        choices = {
            "hash": ("identity", "murmurhash3_x86_128"),
            "minishard_index_encoding": ("raw", "gzip"),
            "data_encoding": ("raw", "gzip"),
        }
        chosen = {key: said.get(key, allowed[0]) for key, allowed in choices.items()}
        for key, allowed in choices.items():
            if chosen[key] not in allowed:
                raise UnsupportedContentError(f"{name}: {key} {str(chosen[key])[:50]!r}", hint=f"read are {', '.join(allowed)}")
        return cls(
            preshift,
            minishard,
            shard,
            murmur=chosen["hash"] != "identity",
            index_gzipped=chosen["minishard_index_encoding"] == "gzip",
            data_gzipped=chosen["data_encoding"] == "gzip",
        )

    def place(self, chunk: int) -> tuple[int, int]:
        """(shard, minishard) of a chunk."""
        shifted = chunk >> self.preshift_bits
        hashed = murmur_64(shifted) if self.murmur else shifted
        minishard = hashed & ((1 << self.minishard_bits) - 1)
        shard = (hashed >> self.minishard_bits) & ((1 << self.shard_bits) - 1)
        return shard, minishard

    def file_name(self, shard: int) -> str:
        """Lower-case hexadecimal, as long as the highest shard's."""
        return f"{shard:0{-(-self.shard_bits // 4)}x}.shard" if self.shard_bits else "0.shard"


@dataclass(slots=True)
class ShardedChunks:
    """A Layout of chunks in shards below `key`; cells are channel, z, y, x of a grid of `grid` chunks x, y, z."""

    spec: ShardSpec
    key: str
    grid: tuple[int, int, int]
    plain: Single
    _kept: OrderedDict[tuple[str, int], NDArray[np.uint64]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def names(self, cell: Cell) -> tuple[str, ...]:
        return (self.plain.name_of(cell), self.shard(cell))

    def shard(self, cell: Cell) -> str:
        """Name of the shard that holds a chunk."""
        return f"{self.key}/{self.spec.file_name(self.spec.place(self._number(cell))[0])}"

    def read(self, cell: Cell, lookup: Lookup) -> bytes | None:
        alone = lookup(self.plain.name_of(cell))
        if alone is not None:
            return alone.read(0, alone.size)
        span = self.locate(cell, lookup)
        source = None if span is None else lookup(span.name)
        return None if span is None or source is None else source.read(span.start, span.stop)

    def minishards(self, cells: Iterable[Cell]) -> list[list[Cell]]:
        """`cells` sorted by the minishard they lie in: those of one share an index."""
        groups: dict[tuple[int, int], list[Cell]] = {}
        for cell in cells:
            groups.setdefault(self.spec.place(self._number(cell)), []).append(cell)
        return list(groups.values())

    def locate(self, cell: Cell, lookup: Lookup) -> Span | None:
        """Where in its shard a chunk lies, None where it is not stored. Raises CorruptObjectError."""
        number = self._number(cell)
        shard, minishard = self.spec.place(number)
        name = f"{self.key}/{self.spec.file_name(shard)}"
        source = lookup(name)
        if source is None:
            return None
        index = self._index(source, name, minishard)
        found = np.flatnonzero(index[0] == np.uint64(number))
        if not len(found):
            return None
        start, size = int(index[1][found[0]]), int(index[2][found[0]])
        if start + size > source.size:
            raise CorruptObjectError(f"{name}: its index leads to byte {start + size} of {source.size}")
        return Span(name, start, start + size)

    def _number(self, cell: Cell) -> int:
        _, z, y, x = cell
        return morton((x, y, z), self.grid)

    def _index(self, source: ByteSource, name: str, minishard: int) -> NDArray[np.uint64]:
        """Three rows: numbers of chunks, where each starts in the file, its bytes."""
        with self._lock:
            if (name, minishard) in self._kept:
                self._kept.move_to_end((name, minishard))
                return self._kept[name, minishard]
        index = self._read_index(source, name, minishard)
        with self._lock:
            self._kept[name, minishard] = index
            while len(self._kept) > INDEXES_KEPT:
                self._kept.popitem(last=False)
        return index

    def _read_index(self, source: ByteSource, name: str, minishard: int) -> NDArray[np.uint64]:
        behind = ENTRY << self.spec.minishard_bits
        if source.size < behind:
            raise CorruptObjectError(f"{name}: {source.size} bytes are no shard")
        entry = np.frombuffer(source.read(minishard * ENTRY, (minishard + 1) * ENTRY), "<u8")
        start, stop = behind + int(entry[0]), behind + int(entry[1])
        if start == stop:
            return np.zeros((3, 0), np.uint64)
        if not start < stop <= source.size or stop - start > MOST_INDEX_BYTES:
            raise CorruptObjectError(f"{name}: the index of minishard {minishard} leads to bytes {start} to {stop}")
        data = source.read(start, stop)
        if self.spec.index_gzipped:
            data = _inflated(data, name)
        if len(data) % 24:
            raise CorruptObjectError(f"{name}: the index of minishard {minishard} has {len(data)} bytes")
        said = np.frombuffer(data, "<u8").reshape(3, -1).astype(np.uint64)
        # Differences: of chunk numbers, and of each start from the end of the chunk before. Sums wrap round as the format's do.
        sizes = said[2]
        before = np.concatenate([np.zeros(1, np.uint64), np.cumsum(sizes[:-1], dtype=np.uint64)])
        starts = np.cumsum(said[1], dtype=np.uint64) + before
        return np.stack([np.cumsum(said[0], dtype=np.uint64), starts + np.uint64(behind), sizes])


def _bits(said: dict[str, Any], key: str, name: str) -> int:
    value = said.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 64:
        raise CorruptObjectError(f"{name}: {key} is {str(value)[:50]}")
    return value


def morton(cell: tuple[int, int, int], grid: tuple[int, int, int]) -> int:
    """Compressed Morton code: bits of x, y, z in turn, of each axis only as many as its grid needs."""
    code, place = 0, 0
    for bit in range(max(n.bit_length() for n in grid)):
        for at, n in zip(cell, grid, strict=True):
            if 1 << bit < n:
                code |= (at >> bit & 1) << place
                place += 1
    return code


def murmur_64(value: int) -> int:
    """The low 64 bits of MurmurHash3_x86_128, seed 0, of `value` as 8 little-endian bytes (A. Appleby, public domain)."""
    low, high = value & 0xFFFFFFFF, value >> 32 & 0xFFFFFFFF
    h1 = _rotated(low * 0x239B961B & 0xFFFFFFFF, 15) * 0xAB0E9789 & 0xFFFFFFFF
    h2 = _rotated(high * 0xAB0E9789 & 0xFFFFFFFF, 16) * 0x38B34AE5 & 0xFFFFFFFF
    hs = [h ^ 8 for h in (h1, h2, 0, 0)]
    hs = _mixed([_final(h) for h in _mixed(hs)])
    return hs[0] | hs[1] << 32


def _mixed(hs: list[int]) -> list[int]:
    first = sum(hs) & 0xFFFFFFFF
    return [first, *((h + first) & 0xFFFFFFFF for h in hs[1:])]


def _rotated(value: int, by: int) -> int:
    return (value << by | value >> (32 - by)) & 0xFFFFFFFF


def _final(h: int) -> int:
    h = (h ^ h >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    h = (h ^ h >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return h ^ h >> 16


def _inflated(data: bytes, name: str) -> bytes:
    try:
        inflater = zlib.decompressobj(wbits=31)
        out = inflater.decompress(data, MOST_INDEX_BYTES)
    except zlib.error as error:
        raise CorruptObjectError(f"{name}: the index of a minishard is damaged: {error}", hint="fetch it again") from error
    if inflater.unconsumed_tail or not inflater.eof:
        raise CorruptObjectError(f"{name}: the index of a minishard is damaged or huge", hint="fetch it again")
    return out
