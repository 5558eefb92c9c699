"""Boxes of a DVID instance as they were asked for: raw voxels, each object named by its own address.

Source: DVID's `imageblk` (`GET <api>/node/<UUID>/<name>/raw/0_1_2/<size>/<offset>`): C order with x fastest, little-endian. All
of DVID's words are x, y, z, and its MaxPoint is the last voxel, not the one behind it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emporter_contracts.commands import Select
from emporter_contracts.geometry import Box, ChunkGrid, Index3, Shape3, VoxelSize, to_nm
from emporter_contracts.records import json_safe
from emporter_readers.array import RegionReader
from emporter_readers.bounds import require_within
from emporter_readers.chunked.tree import Document, Tree, read_document
from emporter_readers.chunked.values import named_dtype, numbers, required, texts
from emporter_readers.errors import CorruptObjectError, OutsideVolumeError, ReaderError, UnsupportedContentError
from emporter_readers.protocol import ByteSource, FoundVolume, Hints, Reader
from emporter_readers.raw import RawBlock
from emporter_readers.reaching import Reach, whole
from emporter_readers.sampling import role_of
from emporter_readers.selecting import checked, selected

INFO = "info"
KINDS = {"uint8blk": "image", "uint16blk": "image", "uint32blk": "image", "uint64blk": "image", "float32blk": "image"}
"""Types of instances whose raw boxes are plain voxels."""
BLOCK = 64
"""Voxels along each axis of what DVID itself stores: requests cut along them cost it least."""
MOST_CELL = 2**31

_BOX = re.compile(r"(?:.*/)?raw/0_1_2/(\d+)_(\d+)_(\d+)/(-?\d+)_(-?\d+)_(-?\d+)\Z")


@dataclass(frozen=True, slots=True)
class DvidVolume:
    """What an instance's `info` says; z, y, x."""

    start: Index3
    shape: Shape3
    dtype: np.dtype[Any]
    voxel_size: VoxelSize
    said: Document


def box_name(box: Box) -> str:
    """Where a box of the instance's own index is had, below the instance."""
    dz, dy, dx = box.shape
    z, y, x = box.start
    return f"raw/0_1_2/{dx}_{dy}_{dz}/{x}_{y}_{z}"


def read_info(document: Document, name: str) -> DvidVolume:
    """Raises CorruptObjectError or UnsupportedContentError."""
    base, extended = document.get("Base"), document.get("Extended")
    if not isinstance(base, dict) or not isinstance(extended, dict):
        raise CorruptObjectError(f"{name}: is no info of DVID")
    if base.get("TypeName") not in KINDS:
        raise UnsupportedContentError(
            f"{name}: a DVID instance of type {str(base.get('TypeName'))[:50]!r}", hint=f"read are {', '.join(KINDS)}"
        )
    values = extended.get("Values")
    kind = values[0].get("DataType") if isinstance(values, list) and len(values) == 1 and isinstance(values[0], dict) else None
    dtype = named_dtype(kind, name).newbyteorder("<")
    first, last = (numbers(required(extended, key, name), 3) for key in ("MinPoint", "MaxPoint"))
    if first is None or last is None or any(a > b or a != int(a) or b != int(b) for a, b in zip(first, last, strict=True)):
        raise CorruptObjectError(f"{name}: goes from {str(first)[:50]} to {str(last)[:50]}", hint="is anything stored there?")
    (x, y, z), (right, bottom, deep) = ((int(a), int(b), int(c)) for a, b, c in (first, last))
    sizes = numbers(extended.get("VoxelSize"), 3) or (0.0, 0.0, 0.0)
    units = texts(extended.get("VoxelUnits"), 3) or ("", "", "")
    nm = [to_nm(size, unit) for size, unit in zip(sizes, units, strict=True)]
    return DvidVolume(
        (z, y, x),
        (deep + 1 - z, bottom + 1 - y, right + 1 - x),
        dtype,
        VoxelSize.said("file", (nm[2], nm[1], nm[0])),
        document,
    )


class DvidReader:
    """A Reader over boxes that do not overlap; what none of them holds was not fetched."""

    def __init__(self, volume: DvidVolume, blocks: Sequence[tuple[Box, ByteSource]]) -> None:
        self._volume = volume
        self._cell = _grid_of(blocks)
        self._blocks: dict[Index3, tuple[Box, RawBlock]] = {}
        for box, source in blocks:
            place = _place(box.start, self._cell)
            if source.size != math.prod(box.shape) * volume.dtype.itemsize or place in self._blocks:
                raise CorruptObjectError(f"{source.name}: is not the box its name says", hint="fetch it again")
            self._blocks[place] = box, RawBlock(source, 0, box.shape, volume.dtype)

    @property
    def shape(self) -> Shape3:
        return self._volume.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._volume.dtype.newbyteorder("=")

    @property
    def voxel_size(self) -> VoxelSize:
        return self._volume.voxel_size

    @property
    def native(self) -> ChunkGrid:
        return ChunkGrid((1, 1, min(self._cell[2], self.shape[2])))

    def reach(self, box: Box) -> Iterator[Reach]:
        for tile in box.moved(self._volume.start).tiles(self._cell):
            _, raw = self._blocks.get(_place(tile.start, self._cell), (None, None))
            if raw is not None:
                yield whole(raw.source)

    def read(self, box: Box) -> NDArray[Any]:
        require_within(box, self.shape, "the instance")
        there = box.moved(self._volume.start)
        values = np.empty(box.shape, self.dtype)
        held = 0
        for tile in there.tiles(self._cell):
            block, raw = self._blocks.get(_place(tile.start, self._cell), (None, None))
            part = None if block is None else block.overlap(tile)
            if block is None or raw is None or part is None:
                break
            values[part.moved(_back(there.start)).slices()] = raw.read(part.moved(_back(block.start)))
            held += math.prod(part.shape)
        if held != math.prod(box.shape):
            raise OutsideVolumeError(
                f"box {list(there.start)}..{list(there.stop)} of the instance was not fetched", hint="ingest a larger region"
            )
        return values


class DvidFormat:
    """See the Format protocol: one `info`, and boxes below `raw/0_1_2`."""

    name = "dvid"

    def claims(self, sources: Sequence[ByteSource]) -> bool:
        return any(source.name.rpartition("/")[2] == INFO and _is_dvid(source) for source in sources)

    def discover(self, sources: Sequence[ByteSource], hints: Hints) -> list[FoundVolume]:
        volume, blocks = _parsed(sources)
        reader = DvidReader(volume, blocks)
        (choice,) = selected([_Whole()], hints.select, INFO)
        region = hints.region or Box.whole(volume.shape)
        role, guessed = role_of(RegionReader(reader, region, reader.voxel_size), hints)
        return [
            FoundVolume(
                format=self.name,
                objects=tuple(range(len(sources))),
                series="",
                select=choice.select,
                shape=volume.shape,
                dtype=reader.dtype.name,
                voxel_size=volume.voxel_size,
                native=reader.native,
                role=role,
                caveats=guessed,
                said={INFO: json_safe(volume.said)},
                start=volume.start,
                region=hints.region,
            )
        ]

    def open(self, sources: Sequence[ByteSource], found: FoundVolume) -> Reader:
        return checked(DvidReader(*_parsed(sources)), found)


@dataclass(frozen=True, slots=True)
class _Whole:
    select: Select = Select(series=0, channel=0, time=0, level=0)


def _parsed(sources: Sequence[ByteSource]) -> tuple[DvidVolume, list[tuple[Box, ByteSource]]]:
    tree = Tree(sources)
    (folder, *others) = tree.folders_with(INFO)
    document = tree.document(f"{folder}/{INFO}" if folder else INFO)
    if others or document is None:
        raise UnsupportedContentError("several DVID instances at once", hint="ingest one of them")
    blocks = []
    for source in sources:
        match = _BOX.match(source.name)
        if match is not None:
            dx, dy, dz, x, y, z = (int(part[:12]) for part in match.groups())
            if 0 not in (dx, dy, dz):
                blocks.append((Box.at((z, y, x), (dz, dy, dx)), source))
    if not blocks:
        raise UnsupportedContentError(f"{INFO} of a DVID instance, and no voxels", hint="ingest it through source hemibrain")
    return read_info(document, INFO), blocks


def _is_dvid(source: ByteSource) -> bool:
    try:
        document = read_document(source)
    except ReaderError:
        return False
    return isinstance(document.get("Base"), dict) and "Extended" in document


def _grid_of(blocks: Sequence[tuple[Box, ByteSource]]) -> Shape3:
    """The finest grid of DVID's own blocks, doubled, in which each of these lies within one cell."""
    z, y, x = (_cell(axis, blocks) for axis in range(3))
    return (z, y, x)


def _cell(axis: int, blocks: Sequence[tuple[Box, ByteSource]]) -> int:
    cell = BLOCK
    while any(box.start[axis] // cell != (box.stop[axis] - 1) // cell for box, _ in blocks):
        cell *= 2
        if cell > MOST_CELL:
            raise CorruptObjectError("boxes that lie on no grid", hint="fetch them again")
    return cell


def _place(at: Index3, cell: Shape3) -> Index3:
    z, y, x = (a // c for a, c in zip(at, cell, strict=True))
    return (z, y, x)


def _back(start: Index3) -> Index3:
    return (-start[0], -start[1], -start[2])


DVID = DvidFormat()
