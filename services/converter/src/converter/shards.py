"""Arrays of a level as Zarr v3 says them, and single shards of them as bytes.

Shards are encoded and decoded by TensorStore, between voxels and a key in memory: one GET or PUT moves a whole shard, the
store's errors stay ours, and what is encoded is the same bytes whoever does it.
"""

from __future__ import annotations

import math
import threading
from typing import Any, Literal

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from converter.errors import CorruptVolumeError
from emporter_contracts.geometry import Box, Index3, Shape3
from emporter_contracts.plans import LevelPlan

Codec = Literal["zstd", "blosc", "none"]

ZSTD_LEVEL = 1
"""Same ratio as level 3 on EM voxels at two to six times its speed (docs/decisions/0003-chunks-and-shards.md)."""
BLOSC_BLOCK_BYTES = 4 * 2**20
"""At most, else a whole chunk. The automatic choice is 32 KiB at level 1, whose shuffled halves are too short to compress: on
16-bit voxels a whole chunk encodes twice and decodes four times as fast, and saves 21 % instead of 12 %."""
ABSENT = 2**64 - 1
"""Offset in a shard's index of a chunk that is not stored (Zarr v3, sharding codec)."""


def array_metadata(level: LevelPlan, dtype: str, codec: Codec) -> dict[str, Any]:
    """The `zarr.json` of one level (Zarr v3 core specification, section "array metadata")."""
    kind = np.dtype(dtype)
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(level.shape),
        "data_type": kind.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(level.shard)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0 if kind.kind == "f" else 0,
        "codecs": [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": list(level.chunk),
                    # A flipped bit inside compressed voxels mostly decodes, to others: the checksum makes it an error.
                    "codecs": [_bytes(kind), *_compression(codec, kind.itemsize, math.prod(level.chunk)), {"name": "crc32c"}],
                    "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
                    "index_location": "end",
                },
            }
        ],
        "attributes": {},
        "dimension_names": ["z", "y", "x"],
    }


def _bytes(kind: np.dtype[Any]) -> dict[str, Any]:
    # One byte has no order, and some readers refuse to be told one.
    return {"name": "bytes", "configuration": {"endian": "little"}} if kind.itemsize > 1 else {"name": "bytes"}


def _compression(codec: Codec, itemsize: int, voxels: int) -> list[dict[str, Any]]:
    if codec == "none":
        return []
    if codec == "zstd":
        return [{"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}}]
    shuffle = {"shuffle": "shuffle", "typesize": itemsize} if itemsize > 1 else {"shuffle": "noshuffle", "typesize": 1}
    block = min(voxels * itemsize, BLOSC_BLOCK_BYTES)
    return [{"name": "blosc", "configuration": {"cname": "zstd", "clevel": ZSTD_LEVEL, "blocksize": block, **shuffle}}]


class ShardCodec:
    """Encodes and decodes the shards of one level. May be used from several threads at once."""

    def __init__(self, level: LevelPlan, dtype: str, codec: Codec) -> None:
        self.level = level
        self.dtype = np.dtype(dtype)
        self._metadata = array_metadata(level, dtype, codec)
        self._local = threading.local()

    def encode(self, index: Index3, voxels: NDArray[Any]) -> bytes:
        """The shard at `index` of the level's shard grid; `voxels` are those of it that lie in the level, axes z, y, x."""
        store, key = self._store(), _key(index)
        box = self.box(index)
        # Not copied: the write is over, and the voxels are read, before this returns.
        store[box.slices()].write(voxels, can_reference_source_data_indefinitely=True).result()
        data = bytes(store.kvstore.read(key).result().value)
        store.kvstore.write(key, None).result()
        self._require_complete(box, data)
        return data

    def decode(self, index: Index3, data: bytes, box: Box) -> NDArray[Any]:
        """The voxels of `box` (of the level, inside this shard). Raises CorruptVolumeError."""
        store, key = self._store(), _key(index)
        store.kvstore.write(key, data).result()
        try:
            voxels: NDArray[Any] = store[box.slices()].read(order="C").result()
        except ValueError as error:
            reason = str(error).split("\n", 1)[0][:300]
            raise CorruptVolumeError(f"shard {key} can't be decoded: {reason}", hint="convert again with --force") from error
        finally:
            store.kvstore.write(key, None).result()
        return voxels

    def box(self, index: Index3) -> Box:
        """The voxels of a shard that lie in the level."""
        start = tuple(i * s for i, s in zip(index, self.level.shard, strict=True))
        stop = tuple(min(a + s, n) for a, s, n in zip(start, self.level.shard, self.level.shape, strict=True))
        return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))

    def indices(self, box: Box) -> list[Index3]:
        """The shards that hold voxels of `box`, in C order."""
        return [shard_index(tile.start, self.level.shard) for tile in box.tiles(self.level.shard)]

    def _store(self) -> Any:
        # One per thread: two that decode the same shard would otherwise share its key.
        if not hasattr(self._local, "store"):
            self._local.store = ts.open(
                {
                    "driver": "zarr3",
                    "kvstore": {"driver": "memory"},
                    "metadata": self._metadata,
                    # An absent chunk would read as zeros; then a lost one would look black (PROTOCOL section 3).
                    "store_data_equal_to_fill_value": True,
                    "fill_missing_data_reads": False,
                },
                create=True,
                context=ts.Context({"cache_pool": {"total_bytes_limit": 0}, "data_copy_concurrency": {"limit": 1}}),
            ).result()
        return self._local.store

    def _require_complete(self, box: Box, data: bytes) -> None:
        chunks = [s // c for s, c in zip(self.level.shard, self.level.chunk, strict=True)]
        size = 16 * math.prod(chunks)
        index = np.frombuffer(data[-size - 4 : -4], "<u8").reshape(*chunks, 2)
        z, y, x = (-(-n // c) for n, c in zip(box.shape, self.level.chunk, strict=True))
        if (index[:z, :y, :x, 0] == ABSENT).any():
            raise CorruptVolumeError(f"the encoder left out chunks of the shard at {list(box.start)}", hint="report this")


def shard_index(start: Index3, shard: Shape3) -> Index3:
    """The shard that holds voxel `start`."""
    return (start[0] // shard[0], start[1] // shard[1], start[2] // shard[2])


def _key(index: Index3) -> str:
    return "c/" + "/".join(map(str, index))
