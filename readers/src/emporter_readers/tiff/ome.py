"""OME-TIFF: the OME-XML in the first description says which page of which file is which plane.

Source: OME-TIFF specification and OME schema 2016-06 (TiffData, UUID, BinaryOnly, Pixels, Channel).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET

from emporter_contracts.geometry import VoxelSize, to_nm
from emporter_contracts.records import json_safe
from emporter_readers.errors import CorruptObjectError, UnsupportedContentError
from emporter_readers.tiff.headers import Headers
from emporter_readers.tiff.ome_acquisition import acquisitions
from emporter_readers.tiff.pages import Page
from emporter_readers.tiff.series import Series

ORDERS = frozenset({"XYZCT", "XYZTC", "XYCTZ", "XYCZT", "XYTCZ", "XYTZC"})
MOST_DIGITS = 18
"""Of a whole number; beyond, it is no count of anything, and Python refuses the longest with an error of its own."""
MICROMETRE = "µm"
"""The unit of PhysicalSize where the file names none (OME schema, default of PhysicalSizeXUnit)."""


def is_ome(description: str) -> bool:
    """Whether a description is OME-XML."""
    return description.rstrip("\0 \r\n\t").endswith("OME>")


def ome_series(files: Sequence[Headers]) -> list[Series] | None:
    """Every image of an OME-TIFF of one or several files, or None where each of several files is an image of its own.

    Raises CorruptObjectError where the XML contradicts the pages, UnsupportedContentError where files it names are not here.
    """
    root, owner = _master(files)
    places = _Places(files, owner, root.get("UUID"))
    pixels = [(image, p) for image in _all(root, "Image") for p in _all(image, "Pixels")]
    if not pixels:
        raise CorruptObjectError(f"{files[owner].name}: its OME-XML describes no image")
    named = {name for _, p in pixels for name in _named(p)}
    if len(files) > 1 and not any(places.other(name) for name in named):
        return None
    places.require_all_here(named)
    return [_series(root, image, p, places, alone=len(pixels) == 1) for image, p in pixels]


def names_others(headers: Headers) -> bool:
    """Whether an OME-TIFF speaks of planes in other files, or leaves its own to another."""
    root = _parse(headers.pages[0].description, headers.name)
    places = _Places([headers], 0, root.get("UUID"))
    named = {name for image in _all(root, "Image") for pixels in _all(image, "Pixels") for name in _named(pixels)}
    return any(True for _ in _all(root, "BinaryOnly")) or any(places.other(name) for name in named)


@dataclass(frozen=True, slots=True)
class _Places:
    """Which file a UUID of the XML means."""

    files: Sequence[Headers]
    owner: int
    own_uuid: str | None

    def other(self, named: tuple[str, str]) -> bool:
        uuid, name = named
        own = self.files[self.owner].name
        return not (uuid == self.own_uuid or not name or _base(name) == _base(own))

    def require_all_here(self, named: set[tuple[str, str]]) -> None:
        here = {_base(headers.name) for headers in self.files}
        missing = sorted({_base(pair[1]) for pair in named if self.other(pair)} - here)
        if missing and len(self.files) == 1 and len(named) == 1:
            return  # one file that was renamed
        if missing:
            raise UnsupportedContentError(
                f"{self.files[self.owner].name}: is part of an OME-TIFF set, and {len(missing)} files of it are not here: "
                + ", ".join(missing[:5]),
                hint="ingest all files of the set together, as a folder",
            )

    def file(self, named: tuple[str, str] | None) -> Headers:
        if named is None or not self.other(named) or len(self.files) == 1:
            return self.files[self.owner]
        return next(headers for headers in self.files if _base(headers.name) == _base(named[1]))


def _master(files: Sequence[Headers]) -> tuple[ET.Element, int]:
    waiting = ""
    for index, headers in enumerate(files):
        description = headers.pages[0].description
        if not is_ome(description):
            continue
        root = _parse(description, headers.name)
        only = next(iter(_all(root, "BinaryOnly")), None)
        if only is None:
            return root, index
        waiting = only.get("MetadataFile", "")
    raise UnsupportedContentError(
        f"{files[0].name}: is part of an OME-TIFF set described in {waiting or 'another file'}, which is not here",
        hint="ingest all files of the set as a folder; a set with a .companion.ome file has to be exported as OME-TIFF",
    )


def _parse(text: str, name: str) -> ET.Element:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise CorruptObjectError(f"{name}: its OME-XML declares entities, which OME-XML never does")
    try:
        # Entities are refused above, and nothing external is ever loaded by this parser.
        return ET.fromstring(text)  # noqa: S314
    except ET.ParseError as error:
        raise CorruptObjectError(f"{name}: its OME-XML is damaged ({error})") from error


def _all(element: ET.Element, tag: str) -> Iterator[ET.Element]:
    """Children of that name, whatever version of the schema they are of."""
    return (child for child in element if child.tag.rpartition("}")[2] == tag)


def _named(pixels: ET.Element) -> Iterator[tuple[str, str]]:
    """UUID and file name of every file that holds planes of `pixels`."""
    for data in _all(pixels, "TiffData"):
        for uuid in _all(data, "UUID"):
            yield (uuid.text or "").strip(), uuid.get("FileName", "")


def _series(root: ET.Element, image: ET.Element, pixels: ET.Element, places: _Places, *, alone: bool) -> Series:
    name = places.files[places.owner].name
    order = pixels.get("DimensionOrder", "")
    if order not in ORDERS:
        raise CorruptObjectError(f"{name}: its OME-XML has the dimension order {order!r}")
    sizes = {axis: _whole(pixels, f"Size{axis}", name) for axis in "XYZCT"}
    samples = {_whole(channel, "SamplesPerPixel", name, 1) for channel in _all(pixels, "Channel")} or {1}
    if len(samples) > 1:
        raise UnsupportedContentError(f"{name}: channels of different samples per pixel are not read", hint="export them apart")
    sizes["C"] = max(1, sizes["C"] // samples.pop())
    axes = order[:1:-1]
    outer = tuple(sizes[axis] for axis in axes)
    pages = _planes(pixels, axes, outer, places, alone=alone)
    _require_alike(pages, sizes, name)
    said: dict[str, Any] = {**pages[0].said, "OME": json_safe({"Name": image.get("Name", ""), **pixels.attrib})}
    return Series(
        axes.lower(),
        outer,
        pages,
        voxel_size=_voxel_size(pixels),
        name=image.get("Name", ""),
        said=said,
        acquisitions=acquisitions(root, image, pixels, sizes["C"]),
    )


def _planes(pixels: ET.Element, axes: str, outer: tuple[int, ...], places: _Places, *, alone: bool) -> list[Page]:
    """The page of every plane, in C order of `axes`."""
    name = places.files[places.owner].name
    count = math.prod(outer)
    held = sum(len(headers.pages) for headers in places.files)
    if count > held:
        raise CorruptObjectError(f"{name}: its OME-XML says {count} planes, there are {held} pages")
    planes: list[Page | None] = [None] * count
    data = list(_all(pixels, "TiffData"))
    if not data and not (alone and len(places.files) == 1):
        raise CorruptObjectError(f"{name}: its OME-XML does not say which pages hold an image")
    for element in data or [ET.Element("TiffData")]:
        uuid = next(_all(element, "UUID"), None)
        headers = places.file(None if uuid is None else ((uuid.text or "").strip(), uuid.get("FileName", "")))
        first = 0
        for axis, size in zip(axes, outer, strict=True):
            first = first * size + _whole(element, f"First{axis}", name, 0, least=0)
        ifd = _whole(element, "IFD", name, 0, least=0)
        number = _whole(element, "PlaneCount", name, 1 if "IFD" in element.attrib else min(len(headers.pages), count - first))
        if first + number > count or ifd + number > len(headers.pages):
            raise CorruptObjectError(f"{name}: its OME-XML names {number} planes from page {ifd} of {headers.name}: too many")
        planes[first : first + number] = headers.pages[ifd : ifd + number]
    complete = [page for page in planes if page is not None]
    if len(complete) != count:
        raise CorruptObjectError(f"{name}: its OME-XML gives no page for plane {planes.index(None)} of {count}")
    return complete


def _require_alike(pages: list[Page], sizes: dict[str, int], name: str) -> None:
    layout = pages[0].layout
    if (layout.length, layout.width) != (sizes["Y"], sizes["X"]) or layout.depth != 1:
        raise CorruptObjectError(
            f"{name}: its OME-XML says {sizes['Y']} x {sizes['X']} pixels, its pages are {layout.length} x {layout.width}"
        )
    for page in pages:
        if page.layout.image != layout.image:
            raise CorruptObjectError(f"{page.label}: differs in shape or dtype from {pages[0].label} of the same image")


def _voxel_size(pixels: ET.Element) -> VoxelSize:
    def nm(axis: str) -> float | None:
        try:
            return to_nm(float(pixels.get(f"PhysicalSize{axis}", "")), pixels.get(f"PhysicalSize{axis}Unit", MICROMETRE))
        except ValueError:
            return None

    return VoxelSize.said("file", (nm("Z"), nm("Y"), nm("X")))


def _whole(element: ET.Element, key: str, name: str, default: int = 0, least: int = 1) -> int:
    value = element.get(key, str(default))
    if not value.isascii() or not value.isdigit() or len(value) > MOST_DIGITS or int(value) < least:
        raise CorruptObjectError(f"{name}: its OME-XML says {key}={value!r}")
    return int(value)


def _base(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2].lower()
