"""The pages of one file: the chain of image file directories, walked strictly, each parsed by tifffile."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import tifffile

from emporter_contracts.records import json_safe
from emporter_readers.errors import CorruptObjectError, UnsupportedContentError
from emporter_readers.magic import what_it_is
from emporter_readers.protocol import ByteSource
from emporter_readers.tiff.file import BLOCK_BYTES, HEADER_BYTES, SourceFile
from emporter_readers.tiff.pages import (
    JPEG,
    MASK,
    PALETTE,
    SUPPORTED,
    UNCOMPRESSED,
    YCBCR,
    Cell,
    Layout,
    Page,
    checked,
)

# What it logs are repairs and guesses; all that matter here are checked and raised.
logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)

MAX_PAGES = 2**20
"""Of one file; ten times the longest stack known, and a bound on what a damaged chain costs."""
MAX_TAGS = 4096
FORESEEN = 32
"""Directories fetched ahead where they lie at equal distances, as in every uncompressed stack with data between them."""
STRUCTURAL = frozenset(
    {254, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 322, 323, 324, 325, 330, 338, 339, 347, 32997, 32998}
)
"""Tags the voxels depend on: an unreadable one is an error, where an unreadable private tag is nobody's business."""
KEPT_TAGS = {
    270: "ImageDescription", 271: "Make", 272: "Model", 282: "XResolution", 283: "YResolution", 296: "ResolutionUnit",
    305: "Software", 306: "DateTime", 315: "Artist",
}  # fmt: skip
KEPT_CHARACTERS = 16 * 1024
"""Of one text kept verbatim in the plan; OME-XML may be megabytes."""
TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
PHOTOMETRICS = {5: "CMYK", 8: "CIE L*a*b*", 9: "ICC L*a*b*", 10: "ITU L*a*b*", 32803: "a colour filter array"}
ELSEWHERE = {
    33628: "MetaMorph STK", 34412: "Zeiss LSM", 34362: "Olympus FluoView", 43314: "NIH Image", 33445: "Molecular Dynamics GEL",
}  # fmt: skip
"""Private tags that say where planes are or what values mean, so that reading the pages alone would be wrong."""


class Headers:
    """Every page of one source, in the order of the file."""

    def __init__(self, source: ByteSource, index: int) -> None:
        """Reads them all. Raises CorruptObjectError, UnsupportedContentError, and what reading the source raises."""
        self.name = source.name
        self._index = index
        self._size = source.size
        self._file = SourceFile(source)
        self._wide, order, first = self._head(source)
        self._order = order
        self._last: Page | None = None
        tif = self._context()
        self.pages = [self._page(tif, offset, tags, number) for number, (offset, tags) in enumerate(self._chain(first))]
        self._file.forget()
        if not self.pages:
            raise CorruptObjectError(f"{self.name}: holds no image", hint="the file is truncated or damaged; fetch it again")

    def child(self, page: Page, level: int) -> Page:
        """The page that holds `page` at pyramid level `level` >= 1."""
        if level > len(page.children):
            raise CorruptObjectError(f"{page.label}: has no level {level}, as other pages of its volume have")
        offset = page.children[level - 1]
        return self._page(self._context(), offset, self._directory(offset)[0], -level)

    def _head(self, source: ByteSource) -> tuple[bool, str, int]:
        head = self._file.read(16)
        order = {b"II": "<", b"MM": ">"}.get(head[:2])
        version = struct.unpack(f"{order}H", head[2:4])[0] if order and len(head) >= 8 else 0
        if order is None or version not in (42, 43):
            raise UnsupportedContentError(f"{self.name} is {what_it_is(source)}, not a TIFF file")
        if version == 42:
            return False, order, struct.unpack(f"{order}I", head[4:8])[0]
        if len(head) < 16 or struct.unpack(f"{order}HH", head[4:8]) != (8, 0):
            raise CorruptObjectError(f"{self.name}: its BigTIFF header contradicts itself")
        return True, order, struct.unpack(f"{order}Q", head[8:16])[0]

    def _context(self) -> Any:
        self._file.seek(0)
        try:
            # These three dresses make tifffile rebuild the list of pages, by guesses, as soon as a file is opened.
            return tifffile.TiffFile(self._file, name=self.name, is_lsm=False, is_scanimage=False, is_ndpi=False)
        except Exception as error:  # it raises whatever a damaged header leads it to
            self._file.check()
            raise CorruptObjectError(f"{self.name}: unreadable TIFF header ({error})") from error

    def _chain(self, first: int) -> Iterator[tuple[int, dict[int, int]]]:
        """Offsets of the directories, and the tags of each with the bytes of its values.

        Raises CorruptObjectError where they leave the file or come back to one seen before.
        """
        seen: dict[int, None] = {}
        offset = first
        while offset:
            if offset in seen:
                raise CorruptObjectError(f"{self.name}: page {len(seen)} leads back to an earlier page")
            if len(seen) == MAX_PAGES:
                raise UnsupportedContentError(f"{self.name}: holds more than {MAX_PAGES} pages")
            seen[offset] = None
            self._foresee(seen)
            tags, following = self._directory(offset)
            yield offset, tags
            offset = following

    def _foresee(self, seen: dict[int, None]) -> None:
        if len(seen) % FORESEEN != 4:
            return
        *_, a, b, c = seen
        if c - b == b - a > BLOCK_BYTES:
            self._file.foresee(range(c, min(c + (FORESEEN + 1) * (c - b), self._size), c - b))

    def _directory(self, offset: int) -> tuple[dict[int, int], int]:
        """Bytes of the values of each tag of a directory, and where the next one lies."""
        entry, width = ("HHQ8s", 20) if self._wide else ("HHI4s", 12)
        count_format, next_format = ("Q", "Q") if self._wide else ("H", "I")
        (count,) = self._unpack(count_format, offset)
        if not 0 < count <= MAX_TAGS:
            raise CorruptObjectError(f"{self.name}: the page at byte {offset} lists {count} tags")
        table = offset + struct.calcsize(f"<{count_format}")
        (following,) = self._unpack(next_format, table + count * width)
        self._file.seek(table)
        entries = struct.iter_unpack(self._order + entry, self._file.read(count * width))
        return {code: TYPE_BYTES.get(kind, 1) * n for code, kind, n, _ in entries}, following

    def _unpack(self, layout: str, offset: int) -> tuple[int, ...]:
        self._file.seek(offset)
        length = struct.calcsize(f"<{layout}")
        data = self._file.read(length)
        if offset < 8 or len(data) != length:
            raise CorruptObjectError(
                f"{self.name}: a page is said to lie at byte {offset} of {self._size}",
                hint="the file is truncated or damaged; fetch it again",
            )
        return struct.unpack(f"{self._order}{layout}", data)

    def _page(self, tif: Any, offset: int, tags: dict[int, int], number: int) -> Page:
        label = f"{self.name}, page {number}" if number >= 0 else f"{self.name}, level {-number}"
        for code in ELSEWHERE.keys() & tags.keys():
            raise UnsupportedContentError(f"{label}: {ELSEWHERE[code]} content is not read", hint="export it as OME-TIFF")
        for code in STRUCTURAL & tags.keys():
            if tags[code] > min(HEADER_BYTES, self._size):
                raise CorruptObjectError(f"{label}: tag {code} claims {tags[code]} bytes")
        self._file.seek(offset)
        try:
            parsed = tifffile.TiffPage(tif, number)
            unread = (STRUCTURAL & tags.keys()) - {code for code in tags if parsed.tags.get(code) is not None}
            if unread:
                raise CorruptObjectError(f"{label}: tag {min(unread)} is unreadable")
            page = _page_of(parsed, self._index, label, self._order == ">", tags.keys())
        except CorruptObjectError:
            raise
        except Exception as error:  # it raises whatever a damaged header leads it to
            self._file.check()
            raise CorruptObjectError(f"{label}: unreadable ({type(error).__name__}: {error})") from error
        self._file.check()
        return checked(self._shared(page), self._size)

    def _shared(self, page: Page) -> Page:
        # A stack of 100,000 pages says the same 100,000 times.
        last = self._last
        if last is not None:
            layout = last.layout if last.layout == page.layout else page.layout
            said = last.said if last.said == page.said else page.said
            page = replace(page, layout=layout, said=said)
        self._last = page
        return page


def _page_of(page: Any, source: int, label: str, big_endian: bool, codes: Any) -> Page:
    layout = _layout(page, big_endian, codes)
    offsets = _numbers(page, 324 if layout.tiled else 273, codes)
    counts = _numbers(page, 325 if layout.tiled else 279, codes)
    if not counts and len(offsets) == 1 and layout.compression == UNCOMPRESSED:
        counts = (layout.segment_bytes(0),)  # TIFF 6.0 makes the tag obligatory, old writers of one strip left it out
    return Page(
        source=source,
        label=label,
        layout=layout,
        offsets=offsets,
        counts=counts,
        jpeg_tables=bytes(page.jpegtables) if layout.compression in JPEG and page.jpegtables else None,
        subfile=int(page.subfiletype),
        children=tuple(int(offset) for offset in page.subifds or ()),
        description=page.description if isinstance(page.description, str) else "",
        said=_said(page, codes),
    )


def _numbers(page: Any, code: int, codes: Any) -> tuple[int, ...]:
    value = page.tags.valueof(code) if code in codes else None
    if value is None:
        return ()
    return tuple(int(n) for n in (value if hasattr(value, "__len__") else (value,)))


def _layout(page: Any, big_endian: bool, codes: Any) -> Layout:
    tiled = 322 in codes or 323 in codes
    depth, length, width = int(page.imagedepth), int(page.imagelength), int(page.imagewidth)
    rows = min(int(page.rowsperstrip) or length, length)
    cell = Cell(int(page.tiledepth), int(page.tilelength), int(page.tilewidth)) if tiled else Cell(1, rows, width)
    refusal, hint = _refusal(page)
    bits = page.bitspersample if isinstance(page.bitspersample, int) else 0
    return Layout(
        depth=depth,
        length=length,
        width=width,
        samples=int(page.samplesperpixel),
        planar=int(page.planarconfig) == 2 and int(page.samplesperpixel) > 1,
        bits=bits,
        dtype=np.dtype(np.uint8) if refusal or bits == 1 else np.dtype(page.dtype).newbyteorder("="),
        big_endian=big_endian,
        compression=int(page.compression),
        predictor=int(page.predictor),
        lsb_first=int(page.fillorder) == 2,
        photometric=int(page.photometric),
        extra_samples=tuple(int(n) for n in page.extrasamples or ()),
        cell=cell,
        tiled=tiled,
        refusal=refusal,
        hint=hint,
    )


def _refusal(page: Any) -> tuple[str, str]:  # noqa: PLR0911  # a list of reasons, each with its hint
    """Why a page can't be a volume, and what the user can do; both empty where it can."""
    bits, kind, photometric = page.bitspersample, int(page.sampleformat), int(page.photometric)
    if kind in (5, 6):
        return "complex pixels are not an image volume", "export amplitude or phase as float32"
    if not isinstance(bits, int) or bits not in (1, 8, 16, 32, 64) or page.dtype is None or (bits == 1 and kind not in (1, 4)):
        return f"pixels of {bits} bits (sample format {kind}) are not read", "export as 8, 16, 32 or 64 bits per sample"
    if photometric == PALETTE:
        return "indexed colour (a palette) is not read", "save it as grey values, in ImageJ: Image > Type > 8-bit"
    if photometric == MASK:
        return "a transparency mask is not an image", "export the image itself"
    if photometric in PHOTOMETRICS or (photometric == YCBCR and int(page.compression) not in JPEG):
        return f"{PHOTOMETRICS.get(photometric, 'YCbCr')} colours are not read", "save it as grey or RGB"
    if int(page.compression) not in SUPPORTED:
        return f"compression {int(page.compression)} is not read", "save it uncompressed, or with Deflate, LZW or Zstandard"
    if int(page.predictor) not in (1, 2, 3):
        return f"predictor {int(page.predictor)} is not read", "save it without a predictor"
    return "", ""


def _said(page: Any, codes: Any) -> dict[str, Any]:
    values = {KEPT_TAGS[code]: page.tags.valueof(code) for code in KEPT_TAGS.keys() & codes}
    return {name: json_safe(_short(values[name])) for name in sorted(values) if values[name] is not None}


def _short(value: Any) -> Any:
    if isinstance(value, str) and len(value) > KEPT_CHARACTERS:
        return value[:KEPT_CHARACTERS] + " …"
    if isinstance(value, bytes):
        return value[:KEPT_CHARACTERS].decode("latin-1")
    return int(value) if isinstance(value, int) else value
