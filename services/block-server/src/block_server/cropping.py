"""Boxes: from what was asked, in voxels, source voxels or nanometres, to what is read, and what lies around the volume."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from block_server.arrays import Level, OpenVolume, Reading
from block_server.errors import OutsideVolumeError
from emporter_contracts.errors import InvalidValueError
from emporter_contracts.geometry import Box, Index3, Shape3

DEFAULT_EXTENT = 128
"""Voxels along each axis where no shape is asked for, fewer where the level holds fewer."""
FARTHEST = 2**40
"""Voxels from the origin past which an index is a slip of the pen; small enough that sums stay exact in 64 bits."""

Outside = Literal["error", "constant", "reflect", "edge"]
"""What to do with voxels that lie outside the volume: refuse, or give 0, mirror at the border voxel (numpy's `reflect`: the
border voxel itself is not repeated), or repeat the border voxel (numpy's `edge`)."""
Frame = Literal["voxel", "source"]
"""Whose index an origin is in: the stored array at the level asked for, or the archive's own (full resolution)."""
Floats3 = tuple[float, float, float]
Axis = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Asked:
    """Where a box lies, as the request says it: voxels or nm, z, y, x; None where it does not say."""

    origin: Index3 | None = None
    shape: Shape3 | None = None
    origin_nm: Floats3 | None = None
    shape_nm: Floats3 | None = None
    frame: Frame = "voxel"

    def __post_init__(self) -> None:
        if self.origin is not None and self.origin_nm is not None:
            raise InvalidValueError("origin and origin_nm say the same thing twice", hint="give one of them")
        if self.shape is not None and self.shape_nm is not None:
            raise InvalidValueError("shape and shape_nm say the same thing twice", hint="give one of them")
        if self.frame == "source" and (self.origin_nm is not None or self.shape_nm is not None):
            raise InvalidValueError("frame=source is about voxels, not nanometres", hint="give origin and shape, or drop frame")
        if self.shape is not None and not all(1 <= n <= FARTHEST for n in self.shape):
            raise InvalidValueError(f"shape {_text(self.shape)} holds no voxel", hint="each of z,y,x must be 1 or more")
        if self.shape_nm is not None and not all(n > 0 for n in self.shape_nm):
            raise InvalidValueError("shape_nm holds no voxel", hint="each of z,y,x must be more than 0")
        if self.origin is not None and any(abs(n) > FARTHEST for n in self.origin):
            raise InvalidValueError(f"origin {_text(self.origin)} lies nowhere", hint="give the index of a voxel")

    def box(self, volume: OpenVolume, level: Level) -> Box:
        """The box in voxels of `level`. Raises VoxelSizeUnknownError where nm are asked of a volume that has none."""
        if self.frame == "source":
            return self._source_box(volume, level)
        origin = self.origin or (0, 0, 0)
        shape = self.shape or _at_most(level.shape)
        if self.origin_nm is not None or self.shape_nm is not None:
            volume.check_voxel_size()
        if self.origin_nm is not None:
            origin = _nearest(tuple((p - t) / s for p, t, s in zip(self.origin_nm, level.translation, level.scale, strict=True)))
        if self.shape_nm is not None:
            extents = _nearest(tuple(n / s for n, s in zip(self.shape_nm, level.scale, strict=True)))
            shape = (max(1, extents[0]), max(1, extents[1]), max(1, extents[2]))
        return Box.at(origin, shape)

    def _source_box(self, volume: OpenVolume, level: Level) -> Box:
        """The voxels of `level` that cover the source voxels asked for."""
        cut = volume.record.metadata.core.source_origin
        first = self.origin or cut
        asked = Box.at(first, self.shape or _at_most(level.shape, level.factor)).moved((-cut[0], -cut[1], -cut[2]))
        z0, y0, x0 = (a // f for a, f in zip(asked.start, level.factor, strict=True))
        z1, y1, x1 = (-(-b // f) for b, f in zip(asked.stop, level.factor, strict=True))
        return Box((z0, y0, x0), (z1, y1, x1))


@dataclass(frozen=True, slots=True)
class Crop:
    """A box of one level, what of it is read, and how the rest is made of that."""

    volume: OpenVolume
    level: Level
    box: Box
    outside: Outside
    inside: Box | None
    """The part that lies in the volume."""

    @property
    def bytes(self) -> int:
        """Of the voxels asked for."""
        return self.box.size * self.level.dtype.itemsize

    @property
    def needed_bytes(self) -> int:
        """Held at once while the crop is made: the voxels, the chunks they come from, and what the edges take."""
        inside = self.inside
        if inside is self.box:
            return self.bytes + self.level.decoded_bytes(inside)
        indices = 8 * sum(self.box.shape)
        return 3 * self.bytes + indices + (0 if inside is None else self.level.decoded_bytes(inside))

    @property
    def hull(self) -> Box | None:
        """What of the level is read; None for nothing. Of mirrored edges it may be a little more than the part inside."""
        return self.inside

    def of(self, box: Box) -> Crop:
        """The same of a part of its box."""
        return crop(self.volume, self.level, box, self.outside)

    def begin(self, batch: ts.Batch | None = None) -> Reading:
        """Ask for the voxels, in C order, little-endian."""
        inside = self.inside
        if inside is self.box:
            return self.volume.begin(self.level, inside, batch)
        return Reading(self.volume.ref, self.level, asyncio.ensure_future(self._with_edges()))

    async def read(self) -> NDArray[Any]:
        """The voxels. Raises what `OpenVolume.read` raises."""
        return await self.begin().voxels()

    async def _with_edges(self) -> NDArray[Any]:
        inside = self.inside
        if self.outside == "constant":
            out = np.zeros(self.box.shape, self.level.dtype)
            if inside is not None:
                at = inside.moved((-self.box.start[0], -self.box.start[1], -self.box.start[2]))
                await self.volume.read_into(out[at.slices()], self.level, inside)
            return out
        ends = zip(self.box.start, self.box.stop, self.level.shape, strict=True)
        return await gathered(self.volume, self.level, [source_indices(a, b, n, self.outside) for a, b, n in ends])


def crop(volume: OpenVolume, level: Level, box: Box, outside: Outside) -> Crop:
    """Raises OutsideVolumeError for a box that leaves the level where `outside` is "error"."""
    whole = Box.whole(level.shape)
    if box.within(whole):
        return Crop(volume, level, box, outside, inside=box)
    if outside == "error":
        raise OutsideVolumeError(
            f"the box {_text(box.start)} to {_text(box.stop)} leaves {volume.ref} level {level.number}, which holds "
            f"{_text(level.shape)} voxels z,y,x",
            hint="ask for a box inside, or say outside=constant, reflect or edge",
        )
    return Crop(volume, level, box, outside, inside=box.overlap(whole))


async def gathered(volume: OpenVolume, level: Level, axes: Sequence[Axis]) -> NDArray[Any]:
    """The voxels at every combination of the indices along z, y, x, all inside the level."""
    hull = hull_of(axes)
    voxels = await volume.read(level, hull)
    return await asyncio.to_thread(_taken, voxels, [axis - first for axis, first in zip(axes, hull.start, strict=True)])


def source_indices(start: int, stop: int, extent: int, outside: Outside) -> Axis:
    """Which voxel of an axis of `extent` voxels stands at each index from `start` to `stop`: numpy.pad's `reflect` and `edge`."""
    return folded(np.arange(start, stop, dtype=np.intp), extent, outside)


def folded(index: Axis, extent: int, outside: Outside) -> Axis:
    """Indices brought into an axis of `extent` voxels, as `source_indices` has it."""
    if outside == "edge" or extent == 1:
        return np.clip(index, 0, extent - 1)
    period = 2 * (extent - 1)
    within = index % period
    return np.minimum(within, period - within)


def hull_of(axes: Sequence[Axis]) -> Box:
    """The box around the voxels at some indices along z, y, x."""
    z, y, x = ((int(axis.min()), int(axis.max()) + 1) for axis in axes)
    return Box((z[0], y[0], x[0]), (z[1], y[1], x[1]))


def _taken(voxels: NDArray[Any], axes: list[Axis]) -> NDArray[Any]:
    """`voxels[axes[0]][:, axes[1]][:, :, axes[2]]`, leaving alone the axes that stay as they are."""
    for number, axis in enumerate(axes):
        if len(axis) != voxels.shape[number] or not np.array_equal(axis, np.arange(len(axis))):
            voxels = np.take(voxels, axis, axis=number)
    return np.ascontiguousarray(voxels)


def _nearest(values: tuple[float, ...]) -> Index3:
    """The nearest voxel along each axis; halfway, the higher one."""
    if not all(math.isfinite(v) and abs(v) <= FARTHEST for v in values):
        raise InvalidValueError("those nanometres lie nowhere", hint="give finite numbers near the volume")
    z, y, x = (math.floor(v + 0.5) for v in values)
    return (z, y, x)


def _at_most(shape: Shape3, factor: Shape3 = (1, 1, 1)) -> Shape3:
    """The default shape, no larger than a level of `shape`, in voxels that are `factor` times finer."""
    z, y, x = (min(DEFAULT_EXTENT, n) * f for n, f in zip(shape, factor, strict=True))
    return (z, y, x)


def _text(values: Index3) -> str:
    return ",".join(map(str, values))
