"""Single shards as bytes: whatever is wrong with them is an error, never other voxels."""

from __future__ import annotations

import struct

import google_crc32c
import numpy as np
import pytest

from converter.errors import CorruptVolumeError
from converter.shards import Codec, ShardCodec
from converter.testing import a_run, tissue
from emporter_contracts.plans import LevelPlan
from emporter_runtime.objects import Objects

LEVEL = LevelPlan(
    shape=(70, 70, 70), chunk=(32, 32, 32), shard=(64, 64, 64), task=(64, 64, 64), scale=(1, 1, 1), translation=(0, 0, 0)
)
INDEX_BYTES = 8 * 16
CODECS: tuple[Codec, ...] = ("zstd", "blosc", "none")


def flipped(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 4
    return bytes(changed)


def without_first_chunk(data: bytes) -> bytes:
    """As a writer leaves it that takes zeros for nothing, with a checksum that is right."""
    index = b"\xff" * 16 + data[-INDEX_BYTES - 4 + 16 : -4]
    return data[: -INDEX_BYTES - 4] + index + struct.pack("<I", google_crc32c.value(index))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    "damage",
    [lambda d: flipped(d, 1000), lambda d: flipped(d, -20), lambda d: d[:-7], lambda _: b"", without_first_chunk],
    ids=["voxels", "index", "cut", "empty", "chunk left out"],
)
def test_a_damaged_shard_is_an_error(codec: Codec, damage) -> None:
    shards = ShardCodec(LEVEL, "uint16", codec)
    box = shards.box((0, 0, 0))
    data = shards.encode((0, 0, 0), tissue(box.shape, "uint16") % 999)
    shards.decode((0, 0, 0), data, box)
    with pytest.raises(CorruptVolumeError):
        shards.decode((0, 0, 0), damage(data), box)


@pytest.mark.parametrize("codec", CODECS)
def test_a_shard_at_the_edge_holds_what_lies_in_the_level(codec: Codec) -> None:
    shards = ShardCodec(LEVEL, "float32", codec)
    box = shards.box((1, 1, 0))
    assert box.shape == (6, 6, 64)
    voxels = tissue(box.shape, "float32")
    np.testing.assert_array_equal(shards.decode((1, 1, 0), shards.encode((1, 1, 0), voxels), box), voxels)


@pytest.mark.parametrize("shape", [(1, 1100, 1030), (2, 700, 900), (16, 300, 330), (65, 200, 210), (97, 97, 97)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_thin_volumes_of_noise_take_little_more_than_their_voxels(shape: tuple[int, int, int], dtype: str) -> None:
    run = a_run(tissue(shape, dtype))
    plan = run.plan().volumes[0]
    run.write(Objects.in_memory(), plan)
    stored = sum(shard.bytes for shards in run.shards.values() for shard in shards)
    voxels = sum(int(np.prod(level.shape)) for level in plan.levels) * np.dtype(dtype).itemsize
    assert stored <= 1.15 * voxels
