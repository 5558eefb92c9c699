"""Which boxes a sample takes. Pure: no voxel is read here, and nothing but the request, the seed and the revision matters.

The places open to a box are numbered 0 to `Ground.total` - 1; random numbers become places by that numbering, so every open place
is equally likely and none is drawn twice. The numbers are those of Philox 4x64-10 (Salmon et al., SC 2011), a counter-based
generator whose raw stream numpy keeps the same for ever, its key the first 128 bits, little-endian, of SHA-256 of
`emporter-sampler/<SAMPLER_VERSION>/<seed>`, its counter from 1: any replica draws the same, and more boxes of the same seed begin
with the same ones. Anything that changes which boxes come out, the constants below too, raises SAMPLER_VERSION.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from block_server.sampling_errors import UnsatisfiableSampleError
from emporter_contracts.geometry import AXES, Box, Index3, Shape3
from emporter_contracts.training import SAMPLER_VERSION, SampleRequest, Split

MAX_CELLS = 2**20
"""Cells the ground is cut into at most where chunks cut it, some tens of bytes each; past it several chunks share one."""
LISTED = 2**15
"""Places up to which all are put into a random order; above, numbers are drawn and those seen before passed over."""
DRAW = 1024
"""Raw numbers taken from the generator at once; the stream does not depend on it."""

Int64s = NDArray[np.int64]


def numbers(seed: int) -> Iterator[int]:
    """Random 64-bit numbers for ever, the same everywhere."""
    key = hashlib.sha256(f"emporter-sampler/{SAMPLER_VERSION}/{seed}".encode()).digest()[:16]
    source = np.random.Philox(key=int.from_bytes(key, "little"))
    while True:
        yield from source.random_raw(DRAW).tolist()


def below(limit: int, seed: int) -> Iterator[int]:
    """Different numbers from 0 to `limit` - 1, each order of them equally likely; all of them up to LISTED, else without end.

    A raw number of the last, incomplete round of `limit` is passed over, so no number is more likely than another.
    """
    drawn = numbers(seed)
    if limit <= LISTED:
        raw = np.fromiter(islice(drawn, limit), np.uint64, limit)
        yield from np.argsort(raw, kind="stable").tolist()
        return
    whole = 2**64 - 2**64 % limit
    seen: set[int] = set()
    for number in drawn:
        place = number % limit
        if number < whole and place not in seen:
            seen.add(place)
            yield place


@dataclass(frozen=True, slots=True)
class Ground:
    """Where boxes of one shape may begin: cells between `cuts` along z, y, x, of which `open_` says which are open."""

    cuts: tuple[Int64s, Int64s, Int64s]
    ends: Int64s
    """How many open places the cells up to and including each hold, in C order."""

    @classmethod
    def of(cls, cuts: tuple[Int64s, Int64s, Int64s], is_open: NDArray[np.bool_]) -> Self:
        z, y, x = (np.diff(cut) for cut in cuts)
        places = z[:, None, None] * y[:, None] * x * is_open
        return cls(cuts, np.cumsum(places.reshape(-1), dtype=np.int64))

    @property
    def total(self) -> int:
        """Places that are open."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def places(self, numbers: Sequence[int]) -> Int64s:
        """The places of these numbers, (N, 3)."""
        wanted = np.asarray(numbers, np.int64)
        cell = np.searchsorted(self.ends, wanted, side="right")
        rest = wanted - np.where(cell > 0, self.ends[cell - 1], 0)
        shape = tuple(len(cut) - 1 for cut in self.cuts)
        index = np.unravel_index(cell, shape)
        lengths = [np.diff(cut)[i] for cut, i in zip(self.cuts, index, strict=True)]
        within = (rest // (lengths[1] * lengths[2]), rest // lengths[2] % lengths[1], rest % lengths[2])
        return np.stack([cut[i] + w for cut, i, w in zip(self.cuts, index, within, strict=True)], axis=1)


@dataclass(frozen=True, slots=True)
class Rules:
    """Where boxes may lie, in voxels of their level: in `within`; in one of `inside` unless it is None; clear of `outside`."""

    within: Box
    inside: tuple[Box, ...] | None
    outside: tuple[Box, ...]

    def ground(self, shape: Shape3, chunk: Shape3 | None = None) -> Ground | None:
        """The places open to boxes of `shape`, cut where chunks begin too if `chunk` is given; None where no box fits in."""
        bounds = [(a, b - n + 1) for a, b, n in zip(self.within.start, self.within.stop, shape, strict=True)]
        if any(a >= b for a, b in bounds):
            return None
        forbidden = [_origins_touching(box, shape) for box in self.outside]
        wanted = None if self.inside is None else [_origins_inside(box, shape) for box in self.inside]
        edges = [*forbidden, *(box for box in wanted or () if box is not None)]
        cuts = _cuts(bounds, edges, chunk)
        is_open = np.full([len(cut) - 1 for cut in cuts], wanted is None)
        for box in wanted or ():
            if box is not None:
                is_open[_cells(cuts, box)] = True
        for box in forbidden:
            is_open[_cells(cuts, box)] = False
        return Ground.of(cuts, is_open)


def rules(request: SampleRequest, shape: Shape3, finest: Shape3, factor: Shape3, room: Box) -> Rules:
    """What a request says about places, for a level of `shape` whose voxels span `factor` of the `finest`; all lie in `room`.

    Raises UnsatisfiableSampleError where a region lies outside the volume.
    """
    within: Box | None = room
    if request.within is not None:
        within = request.within.box().overlap(room)
    if within is None:
        raise UnsatisfiableSampleError("`within` lies outside the volume", hint=f"the level holds {_text(shape)} voxels z,y,x")
    excluded = tuple(region.box() for region in request.exclude)
    if request.split is None:
        return Rules(within, None, excluded)
    held, guarded = _held_out(request.split, shape, finest, factor)
    if request.split.part == "validation":
        return Rules(within, held, excluded)
    return Rules(within, None, (*excluded, *(_grown(box, request.split.margin) for box in guarded)))


def _held_out(split: Split, shape: Shape3, finest: Shape3, factor: Shape3) -> tuple[tuple[Box, ...], tuple[Box, ...]]:
    """The regions held out: voxels wholly in them, and voxels that hold any of them (they differ by the rounding of a level)."""
    if not isinstance(split.validation, float):
        boxes = tuple(region.box() for region in split.validation)
        return boxes, boxes
    axis = AXES.index(split.axis) if split.axis is not None else finest.index(max(finest))
    extent = finest[axis]
    first = extent - math.ceil(split.validation * extent)
    if not 0 < first < extent:
        raise UnsatisfiableSampleError(
            f"{extent} voxels along {AXES[axis]} can't be split", hint="split along another axis, or name regions"
        )
    inner, outer = -(-first // factor[axis]), first // factor[axis]
    if inner >= shape[axis]:
        raise UnsatisfiableSampleError(
            f"at this level nothing is left to hold out along {AXES[axis]}", hint="take a finer level, or a greater share"
        )
    return (_end(shape, axis, inner),), (_end(shape, axis, outer),)


def _end(shape: Shape3, axis: int, first: int) -> Box:
    start = [0, 0, 0]
    start[axis] = first
    return Box((start[0], start[1], start[2]), shape)


def _grown(box: Box, margin: Index3) -> Box:
    (mz, my, mx), (z0, y0, x0), (z1, y1, x1) = margin, box.start, box.stop
    return Box((z0 - mz, y0 - my, x0 - mx), (z1 + mz, y1 + my, x1 + mx))


def _origins_touching(box: Box, shape: Shape3) -> Box:
    """Where boxes of `shape` begin that hold a voxel of `box`."""
    z, y, x = (a - n + 1 for a, n in zip(box.start, shape, strict=True))
    return Box((z, y, x), box.stop)


def _origins_inside(box: Box, shape: Shape3) -> Box | None:
    """Where boxes of `shape` begin that lie in `box`; None where it is too small."""
    z, y, x = (b - n + 1 for b, n in zip(box.stop, shape, strict=True))
    return Box(box.start, (z, y, x)) if all(a < b for a, b in zip(box.start, (z, y, x), strict=True)) else None


def _cuts(bounds: Sequence[tuple[int, int]], edges: Iterable[Box], chunk: Shape3 | None) -> tuple[Int64s, Int64s, Int64s]:
    """Along each axis the bounds, every edge between them, and multiples of some whole chunks: as few as MAX_CELLS allows."""
    own = [{a, b} for a, b in bounds]
    for box in edges:
        for axis, (a, b) in enumerate(bounds):
            own[axis] |= {edge for edge in (box.start[axis], box.stop[axis]) if a < edge < b}
    steps = list(chunk) if chunk is not None else [b for _, b in bounds]
    while math.prod(len(mine) + (b - a) // step for mine, (a, b), step in zip(own, bounds, steps, strict=True)) > MAX_CELLS:
        coarsest = max(range(3), key=lambda n: (bounds[n][1] - bounds[n][0]) / steps[n])
        if steps[coarsest] > bounds[coarsest][1] - bounds[coarsest][0]:
            break
        steps[coarsest] *= 2
    z, y, x = (
        np.array(sorted(mine | set(range(a // step * step + step, b, step))), np.int64)
        for mine, (a, b), step in zip(own, bounds, steps, strict=True)
    )
    return (z, y, x)


def _cells(cuts: tuple[Int64s, Int64s, Int64s], box: Box) -> tuple[slice, ...]:
    """The cells that make up `box`, whose edges are cuts or lie beyond them."""
    return tuple(slice(*np.searchsorted(cut[:-1], (a, b))) for cut, a, b in zip(cuts, box.start, box.stop, strict=True))


def needed(share: float, voxels: int) -> int:
    """The fewest voxels of `voxels` that make up `share` of them, by the same division anyone would check it with."""
    count = math.ceil(share * voxels)
    while count > 0 and (count - 1) / voxels >= share:
        count -= 1
    while count / voxels < share:
        count += 1
    return count


def in_order(origins: Int64s, shard: Shape3, chunk: Shape3) -> Int64s:
    """The positions of `origins` (N, 3) such that those of one shard follow each other, and within it those of one chunk."""
    shards, chunks = origins // np.array(shard), origins // np.array(chunk)
    _, first, of = np.unique(shards, axis=0, return_index=True, return_inverse=True)
    turn: Any = first[of.reshape(-1)]
    return np.lexsort((np.arange(len(origins)), chunks[:, 2], chunks[:, 1], chunks[:, 0], turn))


def _text(values: Index3) -> str:
    return ",".join(map(str, values))
