"""All levels of the volumes below a root, and where each of them lies: what serving a source where it lies needs to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from emporter_contracts.commands import Select
from emporter_contracts.fills import Fill
from emporter_contracts.geometry import Index3, Shape3, VoxelSize
from emporter_contracts.plans import Caveat, Role
from emporter_readers.array import MemorySource
from emporter_readers.chunked.decoding import check, fill_of
from emporter_readers.chunked.format import N5, PRECOMPUTED, ZARR, Choice, ChunkedFormat
from emporter_readers.chunked.reader import ChunkedReader
from emporter_readers.chunked.tree import Document, Tree
from emporter_readers.errors import ReaderError, UnsupportedContentError
from emporter_readers.protocol import Hints
from emporter_readers.selecting import matches, series_name

Floats3 = tuple[float, float, float]

WHOLE = 1e-3
"""By how much a ratio of voxel sizes may differ from a whole number and still be one: they are products of decimal fractions."""


@dataclass(frozen=True, slots=True)
class PlacedLevel:
    """One level. Scale and translation in nm z, y, x, 1.0 for a level-0 voxel where unknown; `factor`: level-0 voxels in one."""

    number: int
    reader: ChunkedReader
    scale: Floats3
    translation: Floats3
    factor: Shape3


@dataclass(frozen=True, slots=True)
class Pyramid:
    """One volume: one series, channel and time of what lies below a root. `series` is empty where it is the only one."""

    format: str
    name: str
    series: str
    select: Select
    role: Role | None
    voxel_size: VoxelSize
    start: Index3
    levels: tuple[PlacedLevel, ...]
    caveats: tuple[Caveat, ...]
    fill_value: Fill
    """What its finest level is where nothing is stored."""
    said: Mapping[str, Document]
    """The documents of the image and of its finest level, verbatim, by name."""


def pyramids(documents: Mapping[str, bytes], hints: Hints, user: VoxelSize | None = None) -> list[Pyramid]:
    """The volumes that metadata speak of (by name below the root, every level's) and `hints.select` does not exclude; `user` is a
    voxel size that counts more than what the source says.

    Raises UnsupportedContentError where there is no array, ReaderError.
    """
    sources = [MemorySource(name, body) for name, body in documents.items()]
    for format_ in (ZARR, N5, PRECOMPUTED):
        if sources and format_.claims(sources):
            tree = Tree(sources)
            choices = format_.choices(tree, replace(hints, select=hints.select.model_copy(update={"level": None})))
            return [_pyramid(format_, tree, choice, hints, user or VoxelSize(), alone=len(choices) == 1) for choice in choices]
    raise UnsupportedContentError(
        "there is no Zarr, N5 or precomputed array here", hint="name the folder that holds zarr.json, .zarray, .zattrs or info"
    )


def _pyramid(format_: ChunkedFormat, tree: Tree, choice: Choice, hints: Hints, user: VoxelSize, *, alone: bool) -> Pyramid:
    finest = choice.reader
    levels = [finest, *(_level(format_, tree, choice, hints, k) for k in range(1, choice.image.levels))]
    for reader in levels:
        check(reader.array)
        if reader.dtype != finest.dtype:
            raise UnsupportedContentError(f"{reader.array.name}: is {reader.dtype}, its finest level {finest.dtype}")
    booleans = finest.array.dtype.kind == "b"
    flagged = (Caveat(code="bool_as_uint8", evidence=f"{finest.array.name} is of dtype bool"),) if booleans else ()
    return Pyramid(
        format=format_.name,
        name=choice.image.name,
        series=series_name(choice.select, alone=alone),
        select=choice.select,
        role=choice.image.role,
        voxel_size=user.or_else(finest.voxel_size),
        start=finest.level.start,
        levels=tuple(_placed(k, reader, finest, user) for k, reader in enumerate(levels)),
        caveats=(*finest.placed.caveats, *finest.array.caveats, *flagged),
        fill_value=fill_of(finest.array),
        said={**(choice.image.said or {}), **finest.array.said},
    )


def _level(format_: ChunkedFormat, tree: Tree, choice: Choice, hints: Hints, number: int) -> ChunkedReader:
    """Level `number` of the same image, channel and time."""
    select = choice.select.model_copy(update={"level": number})
    for one in format_.choices(tree, replace(hints, select=select)):
        if matches(one.select, select):
            return one.reader
    raise ReaderError(f"level {number} has no {choice.select}", hint="is the folder complete?")


def _placed(number: int, reader: ChunkedReader, finest: ChunkedReader, user: VoxelSize) -> PlacedLevel:
    axes = [_along(axis, reader, finest, user) for axis in range(3)]
    (sz, tz, fz), (sy, ty, fy), (sx, tx, fx) = axes
    return PlacedLevel(number, reader, (sz, sy, sx), (tz, ty, tx), (fz, fy, fx))


def _along(axis: int, reader: ChunkedReader, finest: ChunkedReader, user: VoxelSize) -> tuple[float, float, int]:
    """(scale, translation, factor) along one axis.

    Where the source says the voxel size, it says where its levels lie too. Else a level lies where one made by means lies: its
    first voxel's centre is that of the first `factor` voxels of level 0.
    """
    here, there = reader.voxel_size.nm[axis], finest.voxel_size.nm[axis]
    factor = _factor(here, there, reader.shape[axis], finest.shape[axis])
    told = user.nm[axis]
    if told is None and here is not None and there is not None:
        if reader.array.driver != "neuroglancer_precomputed":
            return here, reader.translation_nm[axis], factor
        # Precomputed counts corners of voxels, and the world begins at the centre of voxel 0 of level 0.
        return here, (reader.level.start[axis] + 0.5) * here - 0.5 * there, factor
    size = told if told is not None else there or 1.0
    return size * factor, finest.translation_nm[axis] + size * (finest.level.start[axis] + (factor - 1) / 2), factor


def _factor(here: float | None, there: float | None, voxels: int, finest: int) -> int:
    """Level-0 voxels in one: by the voxel sizes where they are known and one is a whole number of the other; else by shapes."""
    if here is not None and there is not None:
        ratio = here / there
        if ratio >= 1 - WHOLE and abs(ratio - round(ratio)) <= WHOLE * ratio:
            return round(ratio)
    return max(1, round(finest / voxels))
