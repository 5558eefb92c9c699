"""One place in several volumes: which voxel of another volume lies nearest to each point of a grid."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from block_server.arrays import Level, OpenVolume, Reading
from block_server.cropping import Axis, Outside, folded, gathered, hull_of
from block_server.errors import OutsideVolumeError
from emporter_contracts.geometry import Box, Shape3

DECIMALS = 6
"""Of a voxel, to which places are rounded before the nearest is chosen: nm are sums of products of decimal fractions; a point
halfway between two voxels must not fall now on one side, now on the other. Halfway is the higher voxel."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Points in the world, nm, along z, y, x: the centres of the voxels of a box of some volume's level."""

    axes: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]

    @classmethod
    def of(cls, level: Level, box: Box) -> Grid:
        """Voxel i lies at translation + i * scale (NGFF 0.5, coordinateTransformations)."""
        ends = zip(box.start, box.stop, level.scale, level.translation, strict=True)
        z, y, x = (translation + scale * np.arange(a, b, dtype=np.float64) for a, b, scale, translation in ends)
        return cls((z, y, x))


@dataclass(frozen=True, slots=True)
class Placed:
    """Voxels of a level at the points of a grid: the nearest ones, never a mixture of several, so that labels stay labels."""

    volume: OpenVolume
    level: Level
    indices: tuple[Axis, Axis, Axis]
    """Voxel along z, y, x for each point; outside the level only where `outside` is constant."""
    outside: Outside

    @property
    def shape(self) -> Shape3:
        z, y, x = map(len, self.indices)
        return (z, y, x)

    @property
    def bytes(self) -> int:
        """Of the voxels given."""
        return math.prod(self.shape) * self.level.dtype.itemsize

    @property
    def needed_bytes(self) -> int:
        """Held at once: the voxels, the box they are chosen from, the chunks that hold it."""
        hull = self.hull
        return 2 * self.bytes + (0 if hull is None else hull.size * self.level.dtype.itemsize + self.level.decoded_bytes(hull))

    @property
    def hull(self) -> Box | None:
        """What of the level is read; None for nothing."""
        inside = self._inside()
        return hull_of(inside) if all(map(len, inside)) else None

    def begin(self, batch: ts.Batch | None = None) -> Reading:
        """Ask for the voxels, in C order, little-endian."""
        hull = self.hull
        if hull is not None and hull.shape == self.shape:  # every index is one more than the one before it
            return self.volume.begin(self.level, hull, batch)
        return Reading(self.volume.ref, self.level, asyncio.ensure_future(self._chosen()))

    async def _chosen(self) -> NDArray[Any]:
        inside = self._inside()
        if all(len(a) == len(b) for a, b in zip(inside, self.indices, strict=True)):
            return await gathered(self.volume, self.level, inside)
        out = np.zeros(self.shape, self.level.dtype)
        if all(map(len, inside)):
            within = [np.flatnonzero(_within(axis, n)) for axis, n in zip(self.indices, self.level.shape, strict=True)]
            z, y, x = (slice(int(i[0]), int(i[-1]) + 1) for i in within)
            out[z, y, x] = await gathered(self.volume, self.level, inside)
        return out

    def _inside(self) -> list[Axis]:
        return [axis[_within(axis, n)] for axis, n in zip(self.indices, self.level.shape, strict=True)]


def placed(volume: OpenVolume, level: Level, grid: Grid, outside: Outside) -> Placed:
    """The voxels of `level` nearest to the points of `grid`.

    Raises VoxelSizeUnknownError; OutsideVolumeError where one lies outside and `outside` is "error".
    """
    volume.check_voxel_size()
    axes = zip(grid.axes, level.translation, level.scale, level.shape, strict=True)
    z, y, x = (_nearest((points - at) / scale, n, outside) for points, at, scale, n in axes)
    one = Placed(volume, level, (z, y, x), outside)
    if outside == "error" and not all(_within(axis, n).all() for axis, n in zip(one.indices, level.shape, strict=True)):
        raise OutsideVolumeError(
            f"the box leaves {volume.ref} level {level.number} in the world",
            hint="ask for a box that lies in every volume, or say outside=constant, reflect or edge",
        )
    return one


def _nearest(places: NDArray[np.float64], extent: int, outside: Outside) -> Axis:
    index = np.floor(np.round(places, DECIMALS) + 0.5).astype(np.intp)
    return index if outside in {"error", "constant"} else folded(index, extent, outside)


def _within(axis: Axis, extent: int) -> NDArray[np.bool_]:
    return np.asarray((axis >= 0) & (axis < extent))
