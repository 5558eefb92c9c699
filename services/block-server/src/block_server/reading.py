"""Boxes read together and handed on in order: each chunk decoded once, memory bounded, nothing read for who has gone."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import tensorstore as ts
from numpy.typing import NDArray

from block_server.admission import Hold
from block_server.arrays import Level, OpenVolume, Reading, covered_voxels
from block_server.cropping import Crop
from emporter_contracts.geometry import Box, Index3, Shape3

SLAB_BYTES = 16 * 2**20
"""Of a large box made and sent at once, where its chunks allow: large enough to keep all cores decoding, small enough that the
first bytes come soon."""
AHEAD = 4
"""Slabs of a large box that are being read or sent at once: while one is sent, the next ones are decoded."""


TOGETHER = 1024
"""Boxes begun in one go. Each takes some 30 µs, in which nobody else is served; those of 1,024 share every chunk."""


class Part(Protocol):
    """Some voxels of one volume. `begin` asks for them, `bytes` is what they take, `hull` what of the level is read."""

    @property
    def volume(self) -> OpenVolume: ...
    @property
    def level(self) -> Level: ...
    @property
    def bytes(self) -> int: ...
    @property
    def needed_bytes(self) -> int: ...
    @property
    def hull(self) -> Box | None: ...
    def begin(self, batch: ts.Batch | None) -> Reading: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """How parts are read: `at_once` bytes are held; where that is `all_bytes`, every chunk is decoded once."""

    parts: Sequence[Part]
    at_once: int
    all_bytes: int

    @property
    def output_bytes(self) -> int:
        """Of all voxels asked for."""
        return sum(part.bytes for part in self.parts)


def planned(parts: Sequence[Part], most: int) -> Plan:
    """All at once where that takes at most `most` bytes; else as many as do, the next ones begun as the first ones are sent."""
    if len(parts) == 1:
        needed = parts[0].needed_bytes
        return Plan(parts, needed, needed)
    together = sum(part.bytes for part in parts) + _decoded(parts)
    largest = max(part.needed_bytes for part in parts)
    return Plan(parts, together if together <= most else max(largest, most), together)


async def in_order(plan: Plan, hold: Hold) -> AsyncGenerator[NDArray[Any], None]:
    """The voxels of every part, in the order of the parts; what was taken is given back to `hold` as the consumer goes on.

    Raises what reading raises. Closing it, or an error, abandons what is being read.
    """
    begun: deque[tuple[Reading, int]] = deque()
    once, waiting, used = plan.at_once >= plan.all_bytes, deque(plan.parts), 0
    left, decoded = plan.output_bytes, False
    try:
        while waiting or begun:
            # Issued together: chunks that several parts share are read and decoded once (TensorStore joins them).
            with ts.Batch() as batch:
                until = len(begun) + TOGETHER
                while waiting and len(begun) < until and (once or not begun or used + waiting[0].needed_bytes <= plan.at_once):
                    part = waiting.popleft()
                    begun.append((part.begin(batch), part.needed_bytes))
                    used += part.needed_bytes
            reading, needed = begun.popleft()
            voxels = await reading.voxels()
            yield voxels
            used -= needed
            left -= voxels.nbytes
            del voxels
            decoded = decoded or (not waiting and all(one.done() for one, _ in begun))
            if decoded:
                hold.shrink(left)
    finally:
        for reading, _ in begun:
            reading.cancel()


def slabs(part: Crop, most: int, usual: int = SLAB_BYTES) -> list[Crop]:
    """A box of more than `usual` bytes cut across z into boxes whose voxels follow each other in C order: as many whole layers of
    chunks as `usual` bytes hold, one where that takes at most `most` bytes; else thinner, at last rows of single planes.
    """
    box, cell = part.box, part.level.chunk
    plane = box.shape[1] * box.shape[2] * part.level.dtype.itemsize
    if part.bytes <= usual:
        return [part]
    if plane > most:
        rows = max(1, most // (box.shape[2] * part.level.dtype.itemsize))
        return [part.of(tile) for tile in _aligned(box, (1, rows, _beyond(box)))]
    layers = max(1, usual // (plane * cell[0]))
    thick = cell[0] * layers if plane * cell[0] <= most else max(1, most // plane)
    return [part.of(tile) for tile in _aligned(box, (thick, _beyond(box), _beyond(box)))]


def _aligned(box: Box, tile: Shape3) -> list[Box]:
    """Tiles of a box of which only z (and y, in single planes) is cut, at multiples of the tile; indices may be negative."""
    (z0, y0, x0), (z1, y1, x1) = box.start, box.stop
    found = []
    for z in range(z0 // tile[0] * tile[0], z1, tile[0]):
        for y in [y0] if tile[0] != 1 or tile[1] >= y1 - y0 else range(y0, y1, tile[1]):
            start: Index3 = (max(z, z0), y, x0)
            found.append(Box(start, (min(z + tile[0], z1), min(y + tile[1], y1), x1)))
    return found


def _beyond(box: Box) -> int:
    return max(box.shape)


def _decoded(parts: Sequence[Part]) -> int:
    """Bytes of all chunks that parts touch, at most: those of each box, or of the box around all of one level."""
    touched: dict[int, list[Part]] = {}
    for part in parts:
        if part.hull is not None:
            touched.setdefault(id(part.level), []).append(part)
    return sum(_touched(together) for together in touched.values())


def _touched(parts: list[Part]) -> int:
    """Held while the chunks that parts of one level touch are decoded together."""
    level = parts[0].level
    hulls = [part.hull for part in parts if part.hull is not None]
    each = sum(covered_voxels(hull, level.chunk) for hull in hulls)
    around = covered_voxels(_around(hulls), level.chunk)
    return level.decoding_bytes(min(each, around) * level.dtype.itemsize)


def decoded_in_turn(parts: Sequence[Part], kept: int) -> int:
    """Bytes of chunks decoded for parts that are read in this order, where the last `kept` bytes need not be decoded again."""
    return sum(_in_turn([one.hull for one in run if one.hull is not None], run[0].level, kept) for run in _by_level(parts))


def _by_level(parts: Sequence[Part]) -> Iterable[list[Part]]:
    return (list(run) for _, run in groupby(parts, lambda part: id(part.level)))


def _in_turn(hulls: Sequence[Box], level: Level, kept: int) -> int:
    """Runs of boxes whose chunks are `kept` bytes at most decode each of them once."""
    decoded, each, around = 0, 0, None
    for hull in hulls:
        grown = hull if around is None else _around([around, hull])
        if around is not None and covered_voxels(grown, level.chunk) * level.dtype.itemsize > kept:
            decoded += min(each, covered_voxels(around, level.chunk))
            each, grown = 0, hull
        each, around = each + covered_voxels(hull, level.chunk), grown
    return (decoded + (0 if around is None else min(each, covered_voxels(around, level.chunk)))) * level.dtype.itemsize


def _around(boxes: Sequence[Box]) -> Box:
    """The smallest box that holds them all."""
    z, y, x = ((min(one.start[k] for one in boxes), max(one.stop[k] for one in boxes)) for k in range(3))
    return Box((z[0], y[0], x[0]), (z[1], y[1], x[1]))


def amplification(parts: Sequence[Part]) -> tuple[int, int]:
    """Bytes of voxels asked for, and of the chunks that hold them, each counted as often as a part needs it."""
    asked = sum(part.bytes for part in parts)
    hulls = ((part.level, part.hull) for part in parts)
    decoded = sum(covered_voxels(hull, level.chunk) * level.dtype.itemsize for level, hull in hulls if hull is not None)
    return asked, decoded
