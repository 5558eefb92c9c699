"""Boxes, grids and voxel sizes. Axis order is z, y, x and lengths are nanometres everywhere."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field

from emporter_contracts.errors import EmptyBoxError, InvalidValueError

Index3 = tuple[int, int, int]
"""A voxel's index, z, y, x."""
Shape3 = tuple[int, int, int]
"""Voxels along z, y, x; each at least 1."""
AXES: tuple[Literal["z"], Literal["y"], Literal["x"]] = ("z", "y", "x")

NM_PER_UNIT = {
    "pm": 1e-3, "picometer": 1e-3,
    "angstrom": 0.1, "a": 0.1, "å": 0.1, "\u212b": 0.1,
    "nm": 1.0, "nanometer": 1.0, "nanometre": 1.0, "nanometers": 1.0,
    "um": 1e3, "µm": 1e3, "\u03bcm": 1e3, "\\u00b5m": 1e3, "micron": 1e3, "microns": 1e3,
    "micrometer": 1e3, "micrometre": 1e3, "micrometers": 1e3,
    "mm": 1e6, "millimeter": 1e6, "millimetre": 1e6,
    "cm": 1e7, "centimeter": 1e7, "centimetre": 1e7,
    "m": 1e9, "meter": 1e9, "metre": 1e9,
    "inch": 2.54e7, "in": 2.54e7,
}  # fmt: skip
"""Nanometres per unit, by lower-case name. `\\u00b5m` is six literal characters: so ImageJ writes the micro sign."""


def to_nm(value: float, unit: str) -> float | None:
    """`value` in nanometres, or None where `unit` is no length we know or the value is no positive finite number."""
    factor = NM_PER_UNIT.get(unit.strip().lower())
    if factor is None or not math.isfinite(value) or value <= 0:
        return None
    return value * factor


@dataclass(frozen=True, slots=True)
class Box:
    """A box of voxels of one level, axes z, y, x; `start` inclusive, `stop` exclusive."""

    start: Index3
    stop: Index3

    def __post_init__(self) -> None:
        if any(a >= b for a, b in zip(self.start, self.stop, strict=True)):
            raise EmptyBoxError(
                f"box {list(self.start)}..{list(self.stop)} holds no voxel",
                hint="every stop must be greater than its start",
            )

    @classmethod
    def at(cls, origin: Index3, shape: Shape3) -> Self:
        """The box of `shape` voxels that begins at `origin`."""
        return cls(origin, added(origin, shape))

    @classmethod
    def whole(cls, shape: Shape3) -> Self:
        """All of a volume of `shape` voxels."""
        return cls((0, 0, 0), shape)

    @property
    def shape(self) -> Shape3:
        (z0, y0, x0), (z1, y1, x1) = self.start, self.stop
        return (z1 - z0, y1 - y0, x1 - x0)

    @property
    def size(self) -> int:
        """Voxels in the box."""
        return math.prod(self.shape)

    def slices(self) -> tuple[slice, slice, slice]:
        """The box as numpy indices."""
        z, y, x = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return (z, y, x)

    def moved(self, by: Index3) -> Box:
        """The same box, `by` voxels further along each axis."""
        return Box(added(self.start, by), added(self.stop, by))

    def within(self, other: Box) -> bool:
        """Whether `other` holds every voxel of this box."""
        return all(a >= c and b <= d for a, b, c, d in zip(self.start, self.stop, other.start, other.stop, strict=True))

    def overlap(self, other: Box) -> Box | None:
        """The voxels in both, or None where they share none."""
        start = _index(max(a, b) for a, b in zip(self.start, other.start, strict=True))
        stop = _index(min(a, b) for a, b in zip(self.stop, other.stop, strict=True))
        return Box(start, stop) if all(a < b for a, b in zip(start, stop, strict=True)) else None

    def tiles(self, shape: Shape3) -> Iterator[Box]:
        """Cut into boxes of `shape` aligned to the origin of the volume, not of this box; edges are smaller. C order."""
        firsts = (range(start // step * step, stop, step) for start, stop, step in zip(self.start, self.stop, shape, strict=True))
        for corner in product(*firsts):
            tile = Box.at(_index(corner), shape).overlap(self)
            if tile is not None:
                yield tile


def added(a: Index3, b: Index3) -> Index3:
    """Sum by axis."""
    return (a[0] + b[0], a[1] + b[1], a[2] + b[2])


def negative(index: Index3) -> Index3:
    """What moves a box that starts at `index` to the origin."""
    return (-index[0], -index[1], -index[2])


def grid_shape(shape: Shape3, cell: Shape3) -> Shape3:
    """How many cells of `cell` voxels cover `shape`, by axis."""
    return _index(-(-n // c) for n, c in zip(shape, cell, strict=True))


def _index(values: Iterator[int] | tuple[int, ...]) -> Index3:
    z, y, x = values
    return (z, y, x)


class ChunkGrid(NamedTuple):
    """What one decode yields: cells of `cell` voxels laid from the origin of the volume."""

    cell: Shape3


Provider = Literal["file", "api", "page", "user"]
"""Who said a voxel size: the file itself, the archive's API, its web page or table, the user."""

Nanometres = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class VoxelSize(BaseModel):
    """Nanometres per voxel along z, y, x; None where nobody says, and for each who said so."""

    model_config = ConfigDict(frozen=True)

    nm: tuple[Nanometres | None, Nanometres | None, Nanometres | None] = (None, None, None)
    said_by: tuple[Provider | None, Provider | None, Provider | None] = (None, None, None)

    @classmethod
    def said(cls, by: Provider, nm: tuple[float | None, float | None, float | None]) -> Self:
        """All of `nm` from one provider; zero, negative and non-finite values count as unknown."""
        known = tuple(v if v is not None and math.isfinite(v) and v > 0 else None for v in nm)
        return cls.model_validate({"nm": known, "said_by": tuple(by if v is not None else None for v in known)})

    def or_else(self, other: VoxelSize) -> VoxelSize:
        """This size, with `other` where this one is unknown."""
        chosen = [
            (a, s) if a is not None else (b, t) for a, s, b, t in zip(self.nm, self.said_by, other.nm, other.said_by, strict=True)
        ]
        return VoxelSize.model_validate({"nm": [c[0] for c in chosen], "said_by": [c[1] for c in chosen]})

    @property
    def known(self) -> bool:
        """Whether all three are known."""
        return None not in self.nm

    def scale(self) -> tuple[float, float, float]:
        """Nanometres along z, y, x with 1.0 for what is unknown: NGFF's scale, where such an axis has no unit."""
        z, y, x = (1.0 if v is None else v for v in self.nm)
        return (z, y, x)


def level_translation(voxel_nm: float, halvings: int, offset_voxels: int = 0) -> float:
    """Where the centre of the first voxel of a level lies along one axis, in nm.

    A voxel of a level made by `halvings` pairwise means covers 2^halvings voxels of level 0, so its centre lies
    (2^halvings - 1) / 2 level-0 voxels further (NGFF 0.5, section "multiscales", coordinateTransformations).
    `offset_voxels` is where a region was cut from the archive's array, in the archive's voxels.
    """
    return voxel_nm * (offset_voxels + ((1 << halvings) - 1) / 2)


def parse_triple(text: str) -> Index3:
    """`z,y,x` as three whole numbers. Raises InvalidValueError."""
    parts = text.split(",")
    if len(parts) != 3 or not all(p.strip().lstrip("-").isdigit() for p in parts):
        raise InvalidValueError(f"{text!r} is not z,y,x", hint="write three whole numbers, such as 0,128,128")
    return _index(int(p) for p in parts)
