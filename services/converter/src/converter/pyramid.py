"""The ladder of resolutions: which axes are halved from level to level."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from converter.downsampling import Halving, Voxels, halved_shape
from converter.layout import chunk_shape
from converter.memory import PIECE_BYTES
from converter.reading import pieces
from emporter_contracts.geometry import Box, ChunkGrid, Index3, Shape3, VoxelSize, grid_shape, level_translation
from emporter_readers.protocol import Reader

NEARLY = math.sqrt(2)
"""An axis finer than another by more than this is nearer to it once it is halved."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One level: voxels z, y, x, what it was halved by from the level below, and how often each axis was halved in all."""

    shape: Shape3
    factor: Shape3
    halvings: Index3


def ladder(shape: Shape3, voxel_size: VoxelSize, chunk: Shape3 | None = None) -> list[Rung]:
    """Levels from full resolution to the first that one chunk holds (`chunk` where the user asked for one).

    The finer axes are halved until voxels are nearly isotropic, then all; an axis of one voxel is never halved. Where not all
    three voxel sizes are known, voxels count as isotropic.
    """
    size = list(voxel_size.scale()) if voxel_size.known else [1.0, 1.0, 1.0]
    rungs = [Rung(shape, (1, 1, 1), (0, 0, 0))]
    while max(grid_shape(rungs[-1].shape, chunk_shape(rungs[-1].shape, chunk))) > 1:
        below = rungs[-1]
        factor = _factor(below.shape, size)
        size = [s * f for s, f in zip(size, factor, strict=True)]
        z, y, x = (h + f - 1 for h, f in zip(below.halvings, factor, strict=True))
        rungs.append(Rung(halved_shape(below.shape, factor), factor, (z, y, x)))
    return rungs


def transform(
    rung: Rung, voxel_size: VoxelSize, origin: Index3, shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Scale and translation of a level in nm (1.0 per voxel where the size is unknown); `origin` in the archive's voxels, whose
    first lies at `shift` nm.
    """
    size = voxel_size.scale()
    scale = tuple(s * 2**h for s, h in zip(size, rung.halvings, strict=True))
    translation = tuple(t + level_translation(s, h, o) for s, h, o, t in zip(size, rung.halvings, origin, shift, strict=True))
    return (scale[0], scale[1], scale[2]), (translation[0], translation[1], translation[2])


def _factor(shape: Shape3, size: list[float]) -> Shape3:
    halvable = [n > 1 for n in shape]
    coarsest = max(s for s, can in zip(size, halvable, strict=True) if can)
    z, y, x = (2 if can and s * NEARLY < coarsest else 1 for s, can in zip(size, halvable, strict=True))
    if z == y == x == 1:
        z, y, x = (2 if can else 1 for can in halvable)
    return (z, y, x)


@dataclass(slots=True)
class HalvedReader:
    """The level above a Reader, made as it is read."""

    below: Reader
    factor: Shape3
    halve: Halving

    @property
    def shape(self) -> Shape3:
        return halved_shape(self.below.shape, self.factor)

    @property
    def dtype(self) -> Any:
        return self.below.dtype

    @property
    def voxel_size(self) -> VoxelSize:
        nm = tuple(None if s is None else s * f for s, f in zip(self.below.voxel_size.nm, self.factor, strict=True))
        return self.below.voxel_size.model_copy(update={"nm": nm})

    @property
    def native(self) -> ChunkGrid:
        z, y, x = (max(1, c // f) for c, f in zip(self.below.native.cell, self.factor, strict=True))
        return ChunkGrid((z, y, x))

    def read(self, box: Box) -> Voxels:
        """Reads `factor` times as many voxels of the level below, PIECE_BYTES of them at once or one of its cells."""
        piece_voxels = PIECE_BYTES // (math.prod(self.factor) * self.dtype.itemsize)
        parts = list(pieces(box, self.native.cell, (0, 0, 0), piece_voxels))
        if len(parts) == 1:
            return self._halved(box)
        voxels = np.empty(box.shape, self.dtype)
        z, y, x = (-a for a in box.start)
        for part in parts:
            voxels[part.moved((z, y, x)).slices()] = self._halved(part)
        return voxels

    def _halved(self, box: Box) -> Voxels:
        start = tuple(a * f for a, f in zip(box.start, self.factor, strict=True))
        stop = tuple(min(b * f, n) for b, f, n in zip(box.stop, self.factor, self.below.shape, strict=True))
        whole = Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
        return self.halve(self.below.read(whole), self.factor)
