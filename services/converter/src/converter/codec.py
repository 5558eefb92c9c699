"""Which compression a volume gets, by its dtype and a few of its chunks."""

from __future__ import annotations

import numpy as np

from converter.shards import Codec, ShardCodec
from emporter_contracts.geometry import Box, Index3, Shape3, grid_shape
from emporter_contracts.plans import LevelPlan
from emporter_readers.protocol import Reader

SAVES_ENOUGH = 0.95
"""Encoded bytes over voxel bytes above which compression is left out: reading then costs a copy, and no decoder."""
SAMPLES = 4
"""Chunks that are looked at."""


def usual_codec(itemsize: int) -> Codec:
    """Zstd alone for 8-bit voxels; wider ones compress a fifth better with their bytes shuffled first."""
    return "zstd" if itemsize == 1 else "blosc"


def choose_codec(reader: Reader, levels: list[LevelPlan]) -> Codec:
    """The usual codec of the reader's dtype, or none where a sample of chunks says it saves under 5 %.

    Never none where a chunk of any level is padded: the padding, which compresses to nothing, would be stored in full.
    """
    usual = usual_codec(reader.dtype.itemsize)
    if any(n % c for level in levels for n, c in zip(level.shape, level.chunk, strict=True)):
        return usual
    level = levels[0]
    one = level.model_copy(update=dict.fromkeys(("shape", "shard", "task"), level.chunk))
    encoder = ShardCodec(one, reader.dtype.name, usual)
    voxels = [reader.read(box) for box in _sample(level.shape, level.chunk)]
    encoded = sum(len(encoder.encode((0, 0, 0), v)) for v in voxels)
    return "none" if encoded > SAVES_ENOUGH * sum(v.nbytes for v in voxels) else usual


def _sample(shape: Shape3, chunk: Shape3) -> list[Box]:
    """The chunk in the middle and some drawn by the shape alone: the same volume is always sampled in the same places."""
    cells = grid_shape(shape, chunk)
    random = np.random.default_rng(list(shape))
    picks: set[Index3] = {(cells[0] // 2, cells[1] // 2, cells[2] // 2)}
    for _ in range(SAMPLES - 1):
        z, y, x = (int(random.integers(n)) for n in cells)
        picks.add((z, y, x))
    return [Box.at((z * chunk[0], y * chunk[1], x * chunk[2]), chunk) for z, y, x in sorted(picks)]
