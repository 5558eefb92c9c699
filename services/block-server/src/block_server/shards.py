"""Chunks where they lie inside shards: byte ranges to be handed on without decoding (Zarr v3, sharding codec)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from block_server.arrays import Level, OpenVolume
from block_server.caching import Kept
from block_server.errors import RESTORE, DamagedVolumeError, UnsuitableViewError
from emporter_contracts import storage
from emporter_contracts.geometry import Index3, grid_shape
from emporter_runtime.errors import ObjectMissingError
from emporter_runtime.objects import Objects

ABSENT = 2**64 - 1
"""Offset and length of a chunk that is not stored."""
CHECKSUM_BYTES = 4
"""Of a CRC-32C, little-endian, at the end of what it is of (Zarr v3, crc32c codec)."""
INDEXES = 4096
"""Shard indexes kept: 16 bytes a chunk, so 64 of our shards' are 64 kB."""

_SHUFFLE = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}


@dataclass(frozen=True, slots=True)
class Layout:
    """How the chunks of a level are encoded, as far as a reader of plain chunks must know; `compressor` as Zarr v2 writes it."""

    compressor: dict[str, Any] | None
    dtype: str
    """As Zarr v2 writes it, such as `<u2`."""
    checksummed: bool
    index_checksummed: bool
    index_location: Literal["start", "end"]

    @classmethod
    def of(cls, level: Level) -> Layout:
        """Raises UnsuitableViewError for shards whose chunks mean nothing by themselves."""
        codecs = level.store.spec().to_json(include_defaults=True)["metadata"]["codecs"]
        try:
            (sharding,) = codecs
            inner = sharding["configuration"]
            assert sharding["name"] == "sharding_indexed"
            order, *others = inner["codecs"]
            assert order["name"] == "bytes"
            checksummed = bool(others) and others[-1]["name"] == "crc32c"
            squeezed = others[:-1] if checksummed else others
            assert len(squeezed) <= 1
            index_codecs = [codec["name"] for codec in inner["index_codecs"]]
            assert index_codecs in (["bytes"], ["bytes", "crc32c"])
            dtype = level.dtype.newbyteorder(">" if order.get("configuration", {}).get("endian") == "big" else "<")
            compressor = _compressor(squeezed[0], level) if squeezed else None
            return cls(compressor, dtype.str, checksummed, len(index_codecs) == 2, inner.get("index_location", "end"))
        except (AssertionError, KeyError, ValueError) as error:
            raise UnsuitableViewError(
                f"level {level.number} is not stored in shards of plain chunks", hint="open the Zarr itself, or ask for blocks"
            ) from error


def _compressor(codec: dict[str, Any], level: Level) -> dict[str, Any]:
    said = codec.get("configuration", {})
    match codec["name"]:
        case "zstd":
            return {"id": "zstd", "level": said.get("level", 1)}
        case "gzip":
            return {"id": "gzip", "level": said.get("level", 5)}
        case "blosc":
            shuffle = _SHUFFLE[said.get("shuffle", "noshuffle")]
            # An explicit block size is a hint to writers; readers take it from the bytes.
            return {"id": "blosc", "cname": said["cname"], "clevel": said["clevel"], "shuffle": shuffle, "blocksize": 0}
    raise KeyError(f"level {level.number}: {codec['name']}")


@dataclass(frozen=True, slots=True)
class Place:
    """Bytes `start` to `stop` of the shard at `key` in VOLUMES hold a chunk, and its checksum where chunks have one."""

    key: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Index:
    """Which index of which shard, and how it is stored."""

    key: str
    chunks: int
    checksummed: bool
    location: Literal["start", "end"]


class Shards:
    """Where the chunks of open volumes lie. Revisions never change, so an index is read once."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._indexes: Kept[_Index, NDArray[np.uint64]] = Kept(self._read_index, most=INDEXES)

    async def place(self, volume: OpenVolume, level: Level, layout: Layout, chunk: Index3) -> Place:
        """Raises DamagedVolumeError where the shard is missing or broken, or leaves the chunk out: all of ours are stored."""
        grid = grid_shape(level.shard, level.chunk)
        shard = _index(c // g for c, g in zip(chunk, grid, strict=True))
        within = _index(c % g for c, g in zip(chunk, grid, strict=True))
        root = storage.zarr_root(volume.ref.volume, volume.arrays_of)
        key = f"{root}{level.path}/c/{'/'.join(map(str, shard))}"
        where = f"{volume.ref} level {level.number}: chunk {list(chunk)}, in shard {list(shard)},"
        try:
            index = await self._indexes.get(_Index(key, math.prod(grid), layout.index_checksummed, layout.index_location))
        except ObjectMissingError as error:
            raise DamagedVolumeError(f"{where} is missing", hint=RESTORE) from error
        except ValueError as error:
            raise DamagedVolumeError(f"{where} can't be read", hint=RESTORE) from error
        offset, size = (int(v) for v in index.reshape(*grid, 2)[within])
        if offset == ABSENT or size <= CHECKSUM_BYTES * layout.checksummed:
            # A reader of Zarr v2 would take 404 for zeros.
            raise DamagedVolumeError(f"{where} is missing", hint=RESTORE)
        return Place(key, offset, offset + size)

    async def read(self, place: Place, layout: Layout) -> memoryview:
        """The chunk as it is encoded, without its checksum, which is right. Raises ValueError where it is not."""
        part = await self._objects.get_part(storage.VOLUMES, place.key, place.start, place.stop)
        if len(part.data) < place.stop - place.start:
            raise ValueError("the shard ends too soon")
        return checked(part.data) if layout.checksummed else part.data

    async def _read_index(self, index: _Index) -> NDArray[np.uint64]:
        size = 16 * index.chunks + CHECKSUM_BYTES * index.checksummed
        if index.location == "end":
            part = await self._objects.get_tail(storage.VOLUMES, index.key, size)
        else:
            part = await self._objects.get_part(storage.VOLUMES, index.key, 0, size)
        if len(part.data) < size:
            raise ValueError("the shard is shorter than its index")
        data = checked(part.data) if index.checksummed else part.data
        return np.frombuffer(bytes(data), "<u8")


def checked(data: memoryview) -> memoryview:
    """`data` without the CRC-32C it ends with. Raises ValueError where that is of other bytes."""
    body, said = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
    if google_crc32c.value(bytes(body)) != int.from_bytes(said, "little"):
        raise ValueError("the checksum is of other bytes")
    return body


def _index(values: Any) -> Index3:
    z, y, x = values
    return (z, y, x)
