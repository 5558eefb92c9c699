"""Pages: what one image file directory says, checked against itself and against the file.

tifffile parses the tags; it also repairs, pads and logs where a header contradicts itself. A volume may not rest on a repair,
so everything the voxels depend on is checked here and refused where it does not add up.
Source: TIFF 6.0 (Adobe, 1992); BigTIFF (Aware Systems); SGI depth tags 32997 and 32998.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from emporter_readers.errors import CorruptObjectError

UNCOMPRESSED = 1
JPEG = frozenset({7, 33007})
IMAGE_CODECS = frozenset({33003, 33004, 33005, 34712, 34887, 34892, 34933, 50001, 34927, 50002, 52546})
"""Compressions whose segments say their own shape and dtype: JPEG 2000, LERC, lossy JPEG, PNG, WebP, JPEG XL."""
MAY_BE_LOSSY = JPEG | (IMAGE_CODECS - {34933})
MOST_TIMES_LARGER = {5: 4096, 8: 1040, 32946: 1040, 32773: 65, 34925: 10_000, 50000: 50_000, 34926: 50_000}
"""How many times larger than its bytes a segment can decode at most: deflate stores 258 bytes in 2 bits, LZW a string of at most
3838 bytes in 12 bits, PackBits 128 bytes in 2, Zstandard a block of 128 KiB in 4. Beyond is a damaged header or a bomb."""
BYTE_CODECS = frozenset(MOST_TIMES_LARGER)
SUPPORTED = BYTE_CODECS | IMAGE_CODECS | JPEG | {UNCOMPRESSED}
MAX_SEGMENT_BYTES = 2**31
"""Decoded size of one compressed strip or tile: it has to be decoded whole."""

RGB, PALETTE, MASK, YCBCR = 2, 3, 4, 6


class Cell(NamedTuple):
    """Pixels of one segment: a strip or a tile."""

    depth: int
    rows: int
    columns: int


@dataclass(frozen=True)
class Layout:
    """How the pixels of a page are stored. `dtype` is that of one sample as it is handed out, in native byte order."""

    depth: int
    length: int
    width: int
    samples: int
    planar: bool
    bits: int
    dtype: np.dtype[Any]
    big_endian: bool
    compression: int
    predictor: int
    lsb_first: bool
    photometric: int
    extra_samples: tuple[int, ...]
    cell: Cell
    tiled: bool
    refusal: str = ""
    """Why no volume can be made of it; empty where one can."""
    hint: str = ""

    @cached_property
    def image(self) -> tuple[Any, ...]:
        """What pages of one volume have in common."""
        return (self.depth, self.length, self.width, self.samples, self.dtype, self.bits, self.photometric)

    @property
    def raw(self) -> bool:
        """Whether voxels can be read by byte ranges, without decoding."""
        return self.compression == UNCOMPRESSED and self.predictor == 1 and self.bits >= 8

    @cached_property
    def grid(self) -> tuple[int, int, int, int]:
        """Segments: planes of samples, then along depth, rows and columns."""
        deep, down, across = (math.ceil(n / c) for n, c in zip((self.depth, self.length, self.width), self.cell, strict=True))
        return (self.samples if self.planar else 1, deep, down, across)

    @property
    def interleaved(self) -> int:
        """Samples that lie side by side in one segment."""
        return 1 if self.planar else self.samples

    @property
    def row_bytes(self) -> int:
        """Of one row of a segment, decoded."""
        return math.ceil(self.cell.columns * self.interleaved * self.bits / 8)

    def segment_shape(self, down: int) -> tuple[int, int, int, int]:
        """Depth, rows, columns and samples of a segment, `down` its place along rows: the last strip may be shorter."""
        rows = self.cell.rows if self.tiled else min(self.cell.rows, self.length - down * self.cell.rows)
        return (self.cell.depth, rows, self.cell.columns, self.interleaved)

    def segment_bytes(self, down: int) -> int:
        """Decoded bytes of a segment."""
        depth, rows, _, _ = self.segment_shape(down)
        return depth * rows * self.row_bytes

    @property
    def page_bytes(self) -> int:
        """Of a whole page without compression, in strips."""
        return self.samples * self.depth * self.length * math.ceil(self.width * self.bits / 8)


@dataclass(frozen=True, slots=True)
class Page:
    """One page: `offsets` and `counts` of its segments in C order of `layout.grid`, in source `source` of the listing."""

    source: int
    label: str
    """Names it in messages: file and page."""
    layout: Layout
    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    jpeg_tables: bytes | None = None
    subfile: int = 0
    children: tuple[int, ...] = ()
    """Offsets of its SubIFDs: its lower resolutions."""
    description: str = ""
    said: dict[str, Any] = field(default_factory=dict)
    """Tags worth keeping, verbatim."""

    @property
    def reduced(self) -> bool:
        """Whether it is a thumbnail, a lower resolution or a mask of another page (NewSubfileType)."""
        return bool(self.subfile & 0b101)

    @property
    def contiguous(self) -> bool:
        """Whether its pixels are one run of uncompressed bytes, row after row."""
        if not self.layout.raw or self.layout.tiled or self.layout.planar:
            return False
        ends = (offset + count for offset, count in zip(self.offsets, self.counts, strict=True))
        return all(end == offset for end, offset in zip(ends, self.offsets[1:], strict=False))


def checked(page: Page, size: int) -> Page:
    """`page`, whose segments are as many and as long as its shape needs and lie inside a file of `size` bytes.

    Raises CorruptObjectError.
    """
    layout = page.layout
    if min(layout.depth, layout.length, layout.width, layout.samples, *layout.cell) < 1:
        raise CorruptObjectError(f"{page.label}: has no pixels ({layout.depth} x {layout.length} x {layout.width})")
    if layout.refusal:
        return page
    planes, deep, down, across = layout.grid
    needed = planes * deep * down * across
    if len(page.offsets) != needed or len(page.counts) != needed:
        raise CorruptObjectError(
            f"{page.label}: its shape needs {needed} segments, it lists {len(page.offsets)} offsets and {len(page.counts)} sizes"
        )
    if not layout.raw:
        _require_possible(page)
    for k, (offset, count) in enumerate(zip(page.offsets, page.counts, strict=True)):
        if offset < 8 or count < 1 or offset + count > size:
            raise CorruptObjectError(
                f"{page.label}: segment {k} at bytes {offset}..{offset + count} does not lie in a file of {size} bytes",
                hint="the file is truncated or damaged; fetch it again",
            )
        if layout.compression == UNCOMPRESSED:
            _require_length(page, k, count, layout.segment_bytes(k // across % down))
    return page


def _require_length(page: Page, k: int, count: int, needed: int) -> None:
    layout = page.layout
    whole_strip = layout.cell.depth * layout.cell.rows * layout.row_bytes
    if count in (needed, whole_strip):
        return
    raise CorruptObjectError(f"{page.label}: segment {k} has {count} bytes, its shape needs {needed}")


def _require_possible(page: Page) -> None:
    layout = page.layout
    decoded = layout.cell.depth * layout.cell.rows * layout.row_bytes
    if decoded > MAX_SEGMENT_BYTES:
        raise CorruptObjectError(f"{page.label}: one segment would decode to {decoded} bytes, more than {MAX_SEGMENT_BYTES}")
    times = MOST_TIMES_LARGER.get(layout.compression)
    if times is None:
        return
    _, _, down, across = layout.grid
    for k, count in enumerate(page.counts):
        needed = layout.segment_bytes(k // across % down)
        if needed > count * times + 64:
            raise CorruptObjectError(f"{page.label}: segment {k} of {count} bytes can't hold {needed} bytes of pixels")
