"""The 1024 bytes an MRC file begins with, checked against themselves and against the length of the file.

Sources: MRC2014 (Cheng et al., J. Struct. Biol. 192 (2015) 146; ccpem.ac.uk/mrc-format/mrc2014); for `imodStamp` and the flags
behind it "The MRC file format used by IMOD" (bio3d.colorado.edu/imod/doc/mrc_format.txt).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import JsonValue

from emporter_contracts.geometry import Shape3, VoxelSize, to_nm
from emporter_contracts.records import json_safe
from emporter_readers.errors import CorruptObjectError, UnsupportedContentError
from emporter_readers.protocol import ByteSource

HEADER_BYTES = 1024
FIELDS = np.dtype(
    {
        "names": [
            "size", "mode", "start", "sampling", "cell", "map_axes", "statistics", "space_group", "extended", "kind",
            "imod_stamp", "imod_flags", "origin", "map", "machine", "labels_used", "labels",
        ],
        "formats": [
            ("<i4", 3), "<i4", ("<i4", 3), ("<i4", 3), ("<f4", 3), ("<i4", 3), ("<f4", 3), "<i4", "<i4", "S4",
            "<i4", "<i4", ("<f4", 3), "S4", ("u1", 4), "<i4", ("S80", 10),
        ],
        "offsets": [0, 12, 16, 28, 40, 64, 76, 88, 92, 104, 152, 156, 196, 208, 212, 220, 224],
        "itemsize": HEADER_BYTES,
    }
)  # fmt: skip
"""Of a little-endian file. `size`: columns, rows, sections; `sampling`, `cell`: along x, y, z."""
DTYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
REFUSED = {
    3: ("complex values of 16-bit integers are", "export amplitude or phase as float32 and ingest that"),
    4: ("dtype complex64 is", "export amplitude or phase as float32 and ingest that"),
    16: ("RGB colours are", "export the measured image as 8 or 16 bit grey"),
    101: ("4-bit packed pixels are", "unpack them to bytes, with IMOD: newstack -mode 0"),
}
IMOD_STAMP = 1146047817
"""The letters IMOD, in a file that IMOD wrote."""
SIGNED_BYTES, PACKED_4_BIT = 1, 16
"""Flags of IMOD."""
LITTLE, BIG = (0x44, 0x41), (0x11, 0x11)
"""Machine stamps. `44 44` is common too, and means the same as `44 41`."""
IMAGE_STACK = 0
VOLUME_STACKS = range(401, 631)
"""Space groups: 0 marks images side by side, 400 + n volumes of group n one after the other."""


@dataclass(frozen=True, slots=True)
class MrcHeader:
    """What one file holds. `stored` are its axes sections, rows, columns; `order` says which of them z, y and x are."""

    name: str
    stored: Shape3
    dtype: np.dtype[Any]
    """With the byte order of the file."""
    offset: int
    order: tuple[int, int, int]
    voxel_size: VoxelSize
    volumes: int
    """More than 1 in a stack of volumes, whose sections then are these volumes' one after the other."""
    image_stack: bool
    said: dict[str, JsonValue]


def is_mrc(head: bytes) -> bool:
    """Whether a file that begins with `head` says that it is of this format."""
    return head[208:211] == b"MAP"


def may_be_mrc(head: bytes) -> bool:
    """Whether it could be one of before the year 2000, which don't say so."""
    return len(head) == HEADER_BYTES and any(_plausible(_fields(head, order)) for order in ("<", ">"))


def read_header(source: ByteSource) -> MrcHeader:
    """Raises CorruptObjectError, UnsupportedContentError, and what reading the source raises."""
    if source.size < HEADER_BYTES:
        raise CorruptObjectError(
            f"{source.name}: ends in its header, at byte {source.size}", hint="the file is truncated; fetch it again"
        )
    head = source.read(0, HEADER_BYTES)
    order = _byte_order(head)
    fields = _fields(head, order)
    if not _plausible(fields):
        shown = f"size {fields['size'].tolist()}, mode {fields['mode']}, axes {fields['map_axes'].tolist()}"
        raise CorruptObjectError(
            f"{source.name}: its header makes no sense ({shown})", hint="the file is damaged; fetch it again"
        )
    dtype = np.dtype(order + _stored_type(fields, source.name))
    columns, rows, sections = (int(n) for n in fields["size"])
    axes = _order(fields)
    header = MrcHeader(
        name=source.name,
        stored=(sections, rows, columns),
        dtype=dtype,
        offset=HEADER_BYTES + int(fields["extended"]),
        order=axes,
        voxel_size=_voxel_size(fields),
        volumes=_volumes(fields, sections, int(fields["sampling"][2 - axes.index(0)]), source.name),
        image_stack=int(fields["space_group"]) == IMAGE_STACK and sections > 1,
        said=_said(fields),
    )
    _require_length(header, source.size)
    return header


def _fields(head: bytes, order: Literal["<", ">"]) -> Any:
    return np.frombuffer(head, FIELDS.newbyteorder(order))[0]


def _byte_order(head: bytes) -> Literal["<", ">"]:
    """What the machine stamp says, unless only the other order makes sense: some programs write a wrong stamp, old ones none."""
    stamp = tuple(head[212:214])
    first: Literal["<", ">"] = ">" if stamp == BIG else "<"
    other: Literal["<", ">"] = "<" if first == ">" else ">"
    return other if not _plausible(_fields(head, first)) and _plausible(_fields(head, other)) else first


def _plausible(fields: Any) -> bool:
    axes = sorted(int(axis) for axis in fields["map_axes"])
    known = int(fields["mode"]) in DTYPES.keys() | REFUSED.keys()
    return known and min(fields["size"]) > 0 and axes in ([1, 2, 3], [0, 0, 0]) and fields["extended"] >= 0


def _stored_type(fields: Any, name: str) -> str:
    mode = int(fields["mode"])
    by_imod = int(fields["imod_stamp"]) == IMOD_STAMP
    flags = int(fields["imod_flags"]) if by_imod else SIGNED_BYTES
    if mode == 0 and flags & PACKED_4_BIT:
        mode = 101
    if mode in REFUSED:
        what, hint = REFUSED[mode]
        raise UnsupportedContentError(f"{name}: {what} not an image volume (mode {mode})", hint=hint)
    if mode == 0 and (not flags & SIGNED_BYTES or (not by_imod and _beyond_signed(fields))):
        return "u1"
    return DTYPES[mode]


def _beyond_signed(fields: Any) -> bool:
    """Whether the header's own statistics are such as no signed byte has: from 0 to between 128 and 255.

    Bytes were unsigned before MRC2014 made them signed, and no field says which ones these are.
    """
    minimum, maximum, _ = (float(n) for n in fields["statistics"])
    return minimum >= 0 and 127 < maximum <= 255


def _order(fields: Any) -> tuple[int, int, int]:
    """For z, y, x the stored axis: 0 sections, 1 rows, 2 columns. The header names the axis of columns, rows, sections."""
    named = [int(axis) for axis in fields["map_axes"]]
    if 0 in named:
        return (0, 1, 2)
    z, y, x = (2 - named.index(axis) for axis in (3, 2, 1))
    return (z, y, x)


def _voxel_size(fields: Any) -> VoxelSize:
    """Cell over sampling, in angstroms, by axis. Of images side by side (one sample along z) the third is no distance."""
    cell, sampling = (fields[name].tolist() for name in ("cell", "sampling"))
    if int(fields["space_group"]) == IMAGE_STACK and int(fields["size"][2]) > 1 and sampling[2] == 1:
        cell[2] = 0.0
    if int(fields["imod_stamp"]) == IMOD_STAMP and cell == sampling:
        return VoxelSize()  # 1 angstrom along each axis is what IMOD writes where it was told nothing
    x, y, z = (to_nm(c / n, "angstrom") if n > 0 else None for c, n in zip(cell, sampling, strict=True))
    return VoxelSize.said("file", (z, y, x))


def _volumes(fields: Any, sections: int, per_volume: int, name: str) -> int:
    if int(fields["space_group"]) not in VOLUME_STACKS:
        return 1
    if per_volume < 1 or sections % per_volume:
        raise CorruptObjectError(f"{name}: {sections} sections are no whole number of volumes of {per_volume}")
    return sections // per_volume


def _require_length(header: MrcHeader, size: int) -> None:
    sections, rows, columns = header.stored
    section = rows * columns * header.dtype.itemsize
    stop = header.offset + sections * section
    if stop > size:
        raise CorruptObjectError(
            f"{header.name}: {sections} sections of {rows} x {columns} {header.dtype.name} reach byte {stop} of {size}",
            hint="the file is truncated or damaged; fetch it again",
        )
    if size - stop >= section:
        raise CorruptObjectError(
            f"{header.name}: has {size - stop} bytes behind the {sections} sections its header counts, room for more of them",
            hint="the header is out of date or wrong; write the file anew, with IMOD: newstack",
        )


def _said(fields: Any) -> dict[str, JsonValue]:
    texts = [bytes(label).decode("latin-1").strip() for label in fields["labels"][: max(0, min(10, int(fields["labels_used"])))]]
    kept = ("mode", "start", "sampling", "cell", "map_axes", "statistics", "space_group", "extended", "origin")
    said = json_safe(
        {name: _listed(fields[name]) for name in kept} | {"labels": texts, "kind": bytes(fields["kind"]).decode("latin-1")}
    )
    assert isinstance(said, dict)
    return said


def _listed(value: Any) -> Any:
    values = value.tolist()
    return [n if math.isfinite(n) else None for n in values] if isinstance(values, list) else values
