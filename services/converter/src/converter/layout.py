"""Chunks and shards of a level. Shapes are voxels z, y, x; reasons in docs/decisions/0003-chunks-and-shards.md."""

from __future__ import annotations

import math

from emporter_contracts.geometry import Shape3, grid_shape

CHUNK_EDGE = 64
"""Voxels: what a reader decodes at least to get one voxel, against how many decodes a 128³ crop takes."""
CHUNK_VOXELS = CHUNK_EDGE**3
WHOLE_EDGE = 96
"""An axis up to this long is one chunk: 65 planes as 64 and 1 would be half padding, and twice the decodes."""
SHARD_BYTES = 16 * 2**20
"""Of one object before compression. Large enough that a PUT is bandwidth, not latency, and that a terabyte is 60,000 objects, not
millions; at 32 MiB a conversion holds 430 MB instead of 290 and is no faster."""


def chunk_shape(shape: Shape3, asked: Shape3 | None = None, voxels: int = CHUNK_VOXELS) -> Shape3:
    """About `voxels`, as near to a cube as the level allows; `asked` is cut to the level, where it would be padding."""
    if asked is not None:
        return _smaller(asked, shape)
    edges = [_edge(n, CHUNK_EDGE) for n in shape]
    while 2 * math.prod(edges) <= voxels:
        growing = [axis for axis in (2, 1, 0) if edges[axis] < shape[axis]]
        if not growing:
            break
        axis = min(growing, key=lambda a: edges[a])
        edges[axis] = _edge(shape[axis], 2 * edges[axis])
    return (edges[0], edges[1], edges[2])


def shard_shape(
    shape: Shape3, chunk: Shape3, itemsize: int, *, flat: bool, asked: Shape3 | None = None, size: int = SHARD_BYTES
) -> Shape3:
    """Whole chunks of up to `size` bytes before compression; `asked` is cut to whole chunks of the level.

    `flat` grows z last. Flat shards are for sources that come as pages: a slab of pages is then a row of shards, and each page
    is decoded once.
    """
    cover = grid_shape(shape, chunk)
    if asked is not None:
        return _times(chunk, _smaller(grid_shape(asked, chunk), cover))
    limit = size // itemsize
    counts = [1, 1, 1]
    for axes in ((2, 1), (0,)) if flat else ((2, 1, 0),):
        _grow(counts, axes, chunk, cover, limit)
    return _times(chunk, (counts[0], counts[1], counts[2]))


def cut_to(shape: Shape3, wanted: Shape3, unit: Shape3) -> Shape3:
    """`wanted`, no further than the whole units that cover `shape`."""
    return _smaller(wanted, _times(unit, grid_shape(shape, unit)))


def _grow(counts: list[int], axes: tuple[int, ...], chunk: Shape3, cover: Shape3, limit: int) -> None:
    """Double the shortest of `axes` until the shard holds `limit` voxels or the level."""
    while True:
        growing = [axis for axis in axes if counts[axis] < cover[axis]]
        if not growing:
            return
        axis = min(growing, key=lambda a: counts[a] * chunk[a])
        more = min(2 * counts[axis], cover[axis])
        if math.prod(counts) // counts[axis] * more * math.prod(chunk) > limit:
            return
        counts[axis] = more


def _edge(n: int, wanted: int) -> int:
    """`wanted`, or all of an axis that is not much longer."""
    return n if n * CHUNK_EDGE <= wanted * WHOLE_EDGE else wanted


def _times(a: Shape3, b: Shape3) -> Shape3:
    return (a[0] * b[0], a[1] * b[1], a[2] * b[2])


def _smaller(a: Shape3, b: Shape3) -> Shape3:
    return (min(a[0], b[0]), min(a[1], b[1]), min(a[2], b[2]))
