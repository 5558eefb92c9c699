"""Which compression a volume gets, by its dtype and a sample of its voxels."""

from __future__ import annotations

import numpy as np

from converter.shards import Codec, ShardCodec
from emporter_contracts.geometry import Box, Index3, Shape3
from emporter_contracts.plans import LevelPlan
from emporter_readers.protocol import Reader

SAVES_ENOUGH = 0.95
"""Encoded bytes over voxel bytes above which compression is left out: reading then costs a copy, and no decoder."""
SAMPLES = 4
"""Boxes that are looked at."""
FLAT_SAMPLE = (4, 256, 256)
"""Of a source that is made of pages, each of which may be decoded whole for it; else a chunk is looked at."""


def usual_codec(itemsize: int) -> Codec:
    """Zstd alone for 8-bit voxels; wider ones compress a fifth better with their bytes shuffled first."""
    return "zstd" if itemsize == 1 else "blosc"


def choose_codec(reader: Reader, levels: list[LevelPlan]) -> Codec:
    """The usual codec of the reader's dtype, or none where a sample of the first task says it saves under 5 %.

    Never none where a chunk of any level is padded: the padding, which compresses to nothing, would be stored in full.
    """
    usual = usual_codec(reader.dtype.itemsize)
    if any(n % c for level in levels for n, c in zip(level.shape, level.chunk, strict=True)):
        return usual
    level = levels[0]
    wanted = FLAT_SAMPLE if reader.native.cell[0] == 1 else level.chunk
    z, y, x = (min(w, n) for w, n in zip(wanted, level.box(0).shape, strict=True))
    one = level.model_copy(update=dict.fromkeys(("shape", "chunk", "shard", "task"), (z, y, x)))
    encoder = ShardCodec(one, reader.dtype.name, usual)
    voxels = [reader.read(box) for box in _sample(level.box(0).shape, (z, y, x))]
    encoded = sum(len(encoder.encode((0, 0, 0), v)) for v in voxels)
    return "none" if encoded > SAVES_ENOUGH * sum(v.nbytes for v in voxels) else usual


def _sample(shape: Shape3, size: Shape3) -> list[Box]:
    """The box in the middle and some drawn by the shape alone: the same volume is always sampled in the same places.

    `shape` is that of the first task, which is what is fetched first: no conversion waits for what lies behind it.
    """
    random = np.random.default_rng(list(shape))
    free = [n - s for n, s in zip(shape, size, strict=True)]
    picks: set[Index3] = {(free[0] // 2, free[1] // 2, free[2] // 2)}
    for _ in range(SAMPLES - 1):
        z, y, x = (int(random.integers(n + 1)) for n in free)
        picks.add((z, y, x))
    return [Box.at(pick, size) for pick in sorted(picks)]
