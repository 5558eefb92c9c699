"""PNG and JPEG slices: a picture of one plane, or a folder of them as one volume.

Sources: PNG (W3C, third edition), sections 5 and 11; JPEG, ITU-T T.81, annex B.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from emporter_contracts.commands import Select
from emporter_contracts.geometry import Box, ChunkGrid, Shape3, VoxelSize
from emporter_contracts.plans import Caveat
from emporter_readers.bounds import require_within
from emporter_readers.errors import AmbiguousContentError, CorruptObjectError, UnsupportedContentError
from emporter_readers.protocol import ByteSource, FoundVolume, Hints, Reader
from emporter_readers.raw import PARALLEL, for_each
from emporter_readers.reaching import Reach, whole
from emporter_readers.sampling import sample_boxes
from emporter_readers.selecting import checked, selected, series_name
from emporter_readers.stacking import order_assumed, require_series_axes
from emporter_readers.tiff.colours import SAY_RGB, combined, is_grey

HEAD_BYTES = 4096
"""Read first. The size of a picture stands behind at most a few hundred bytes of most files, behind a camera's notes in some."""
MAX_PARTS = 1000
"""Chunks or segments before the pixels; a picture has about ten."""
MAX_DECODED_BYTES = 2**31
"""Of one picture: it has to be decoded whole."""
DECODING_BYTES = 256 * 2**20
"""Of pictures decoded at the same time; where two are more than that, they are decoded one by one."""
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
PNG_GREY, PNG_PALETTE = 0, 3
PNG_SAMPLES = {PNG_GREY: 1, 2: 3, 4: 2, 6: 4}
JPEG_PROCESSES = {0xC0, 0xC1, 0xC2}
"""Baseline, extended and progressive, with Huffman coding: what is in use."""
JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
JPEG_SCAN, JPEG_END = 0xDA, 0xD9
NEXT_MARKER = re.compile(rb"\xff+[\x01-\xcf\xd8-\xfe]")
"""In coded pixels: a marker that is neither a stuffed byte nor a restart."""
TIMES_LARGER = {"png": 1040, "jpeg": 2048}
"""Than its file a picture can be at most: deflate stores 258 bytes in 2 bits, JPEG a block of 64 pixels in 1 bit or more."""

Samples = Literal["grey", "luma"] | int


@dataclass(frozen=True, slots=True)
class Picture:
    """What the header of one file says; `bits` of one sample."""

    rows: int
    columns: int
    samples: int
    bits: int

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype("u1" if self.bits <= 8 else "u2")

    @property
    def decoded_bytes(self) -> int:
        return self.rows * self.columns * self.samples * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.rows} x {self.columns}, {self.samples} x {self.bits} bits"


@dataclass(frozen=True, slots=True)
class SliceReader:
    """A Reader of one picture per plane. Each picture that a box touches is decoded, and nothing kept."""

    sources: Sequence[ByteSource]
    picture: Picture
    samples: Samples
    decode: Callable[[bytes, Picture], Any]
    voxel_size: VoxelSize = VoxelSize()

    @property
    def shape(self) -> Shape3:
        return (len(self.sources), self.picture.rows, self.picture.columns)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.picture.dtype

    @property
    def native(self) -> ChunkGrid:
        return ChunkGrid((1, self.picture.rows, self.picture.columns))

    def reach(self, box: Box) -> Iterator[Reach]:
        return map(whole, self.sources[box.start[0] : box.stop[0]])

    def read(self, box: Box) -> NDArray[Any]:
        require_within(box, self.shape, self.sources[0].name)
        voxels = np.empty(box.shape, self.dtype)

        def fill(z: int) -> None:
            stored = self._stored(z, box)
            samples = self.samples
            grey = stored[..., samples] if isinstance(samples, int) else combined(stored, samples, self.sources[z].name)
            voxels[z - box.start[0]] = grey

        at_once = max(1, min(PARALLEL, DECODING_BYTES // self.picture.decoded_bytes))
        for_each(range(box.start[0], box.stop[0]), fill, at_once)
        return voxels

    def is_grey(self, box: Box) -> bool:
        """Whether the colours of one plane of `box` are equal."""
        return is_grey(self._stored(box.start[0], box))

    def _stored(self, z: int, box: Box) -> NDArray[Any]:
        """All samples of plane `z` of `box`, axes y, x, sample."""
        source, picture = self.sources[z], self.picture
        _, rows, columns = box.slices()
        try:
            pixels = np.asarray(self.decode(source.read(0, source.size), picture))
        except (RuntimeError, ValueError, TypeError, OverflowError) as error:  # every codec has exceptions of its own
            raise _damaged(source, f"can't be decoded ({error})") from error
        pixels = pixels[..., np.newaxis] if pixels.ndim == 2 else pixels
        # A transparent colour adds a sample behind those the header counts.
        if pixels.ndim != 3 or pixels.shape[:2] != (picture.rows, picture.columns) or pixels.shape[2] < picture.samples:
            raise _damaged(source, f"decodes to {list(pixels.shape)}, it should be {picture}")
        if pixels.dtype != picture.dtype:
            raise _damaged(source, f"decodes to {pixels.dtype}, it should be {picture.dtype}")
        return pixels[rows, columns]


@dataclass(frozen=True, slots=True)
class SliceFormat:
    """See the Format protocol. `select.channel` counts colours where these are split."""

    name: Literal["png", "jpeg"]
    magic: bytes
    suffixes: tuple[str, ...]
    header: Callable[[ByteSource], Picture]
    decode: Callable[[bytes, Picture], Any]

    def claims(self, sources: Sequence[ByteSource]) -> bool:
        # One look suffices for a folder of slices; each is looked at again when it is decoded.
        return self._marked(sources[0]) and all(s.name.lower().endswith(self.suffixes) or self._marked(s) for s in sources[1:])

    def discover(self, sources: Sequence[ByteSource], hints: Hints) -> list[FoundVolume]:
        require_series_axes(hints.axes, sources[0].name)
        picture = self._common(sources)
        wanted = _samples(picture, hints)
        choices = [
            self._found(sources, SliceReader(sources, picture, samples, self.decode), k, hints, alone=len(wanted) == 1)
            for k, samples in enumerate(wanted)
        ]
        return selected(choices, hints.select, sources[0].name)

    def open(self, sources: Sequence[ByteSource], found: FoundVolume) -> Reader:
        picture = self._picture(sources[0])
        wanted = _samples(picture, Hints(rgb=found.rgb))
        channel = found.select.channel or 0
        if channel >= len(wanted):
            raise CorruptObjectError(f"{sources[0].name}: no longer holds channel {channel}", hint="plan the ingest again")
        return checked(SliceReader(sources, picture, wanted[channel], self.decode), found)

    def _marked(self, source: ByteSource) -> bool:
        return source.size >= len(self.magic) and source.read(0, len(self.magic)) == self.magic

    def _picture(self, source: ByteSource) -> Picture:
        if not self._marked(source):
            raise CorruptObjectError(f"{source.name}: is no {self.name.upper()} file", hint="leave it out, or fetch it again")
        picture = self.header(source)
        if min(picture.rows, picture.columns) < 1:
            raise _damaged(source, f"has no pixels ({picture})")
        most = min(MAX_DECODED_BYTES, source.size * TIMES_LARGER[self.name] + 2**16)
        if picture.decoded_bytes > most:
            raise _damaged(source, f"its {source.size} bytes can't hold {picture}")
        return picture

    def _common(self, sources: Sequence[ByteSource]) -> Picture:
        with ThreadPoolExecutor(PARALLEL) as pool:
            pictures = list(pool.map(self._picture, sources))
        for source, picture in zip(sources, pictures, strict=True):
            if picture != pictures[0]:
                raise CorruptObjectError(
                    f"{source.name}: is {picture}, {sources[0].name} is {pictures[0]}",
                    hint="slices of one volume have one shape and dtype; leave the odd file out",
                )
        return pictures[0]

    def _found(
        self, sources: Sequence[ByteSource], reader: SliceReader, channel: int, hints: Hints, *, alone: bool
    ) -> FoundVolume:
        select = Select(series=0, channel=channel, time=0, level=0)
        return FoundVolume(
            format=self.name,
            objects=tuple(range(len(sources))),
            series=series_name(select, alone=alone),
            select=select,
            shape=reader.shape,
            dtype=reader.dtype.name,
            voxel_size=reader.voxel_size,
            native=reader.native,
            role="image" if hints.role == "auto" else hints.role,
            axes=hints.axes,
            rgb=hints.rgb,
            caveats=(*order_assumed(sources, hints.axes), *self._caveats(reader)),
        )

    def _caveats(self, reader: SliceReader) -> Iterator[Caveat]:
        picture = reader.picture
        if self.name == "jpeg":
            yield Caveat(code="lossy", evidence="JPEG, which lost detail")
        if picture.bits == 1:
            yield Caveat(code="bool_as_uint8", evidence="1 bit per pixel, kept as 0 and 1")
        if picture.samples == 2:
            yield Caveat(code="rgb_as_grey", evidence="grey, its opacity left out")
        if reader.samples == "luma":
            yield Caveat(code="rgb_luma", evidence="ITU-R BT.601 luma of red, green and blue, rounded")
        if reader.samples == "grey":
            if not all(reader.is_grey(box) for box in sample_boxes(reader.shape)):
                raise AmbiguousContentError(f"{reader.sources[0].name}: is coloured", hint=SAY_RGB)
            left_out = ", its opacity left out" if picture.samples > 3 else ""
            yield Caveat(code="rgb_as_grey", evidence=f"RGB whose colours are equal{left_out}; checked at every read")


def _samples(picture: Picture, hints: Hints) -> list[Samples]:
    if picture.samples < 3:
        return [0]
    if hints.rgb == "split":
        return list(range(picture.samples))
    return ["luma" if hints.rgb == "luma" else "grey"]


def png_header(source: ByteSource) -> Picture:
    """Raises CorruptObjectError, and UnsupportedContentError for what has no grey or RGB values."""
    view = _View(source)
    length, kind, columns, rows, bits, colour = struct.unpack(">I4sIIBB", view.take(8, 18))
    if (length, kind) != (13, b"IHDR"):
        raise _damaged(source, "does not begin with its header")
    at = 8
    for _ in range(MAX_PARTS):
        length, kind = struct.unpack(">I4s", view.take(at, 8))
        if kind == b"acTL":
            raise UnsupportedContentError(f"{source.name}: is an animation", hint="save its frames as files of their own")
        if kind == b"IDAT":
            break
        at += length + 12
    else:
        raise _damaged(source, f"has more than {MAX_PARTS} chunks before its pixels")
    if colour == PNG_PALETTE:
        raise UnsupportedContentError(f"{source.name}: has a colour palette, no values", hint="save it as 8 bit grey")
    if colour not in PNG_SAMPLES or bits not in ((1, 2, 4, 8, 16) if colour == PNG_GREY else (8, 16)):
        raise _damaged(source, f"says {bits} bits of colour type {colour}, which do not exist")
    return Picture(rows, columns, PNG_SAMPLES[colour], bits)


def decode_png(data: bytes, picture: Picture) -> NDArray[Any]:
    """Values as stored, axes y, x or y, x, sample: 1, 2 and 4 bits are not stretched to 8."""
    pixels: NDArray[Any] = imagecodecs.png_decode(data)
    return pixels // (255 // (2**picture.bits - 1)) if picture.bits < 8 else pixels


def jpeg_header(source: ByteSource) -> Picture:
    """Raises CorruptObjectError, and UnsupportedContentError for what is coded or coloured in an unusual way."""
    view = _View(source)
    at = 2
    for _ in range(MAX_PARTS):
        mark, code, length = struct.unpack(">BBH", view.take(at, 4))
        if mark != 0xFF or code in (JPEG_SCAN, JPEG_END):
            raise _damaged(source, f"has no header of its picture before byte {at}")
        if code in JPEG_FRAMES:
            break
        # A marker may be preceded by fill bytes.
        at += 1 if code == 0xFF else 2 + length
    else:
        raise _damaged(source, f"has more than {MAX_PARTS} segments before its pixels")
    bits, rows, columns, samples = struct.unpack(">BHHB", view.take(at + 4, 6))
    if code not in JPEG_PROCESSES or bits not in (8, 12):
        what = f"JPEG process {code - 0xC0} with {bits} bits"
        raise UnsupportedContentError(f"{source.name}: is coded in an unusual way ({what})", hint="save it as PNG or TIFF")
    if samples not in (1, 3):
        raise UnsupportedContentError(f"{source.name}: has {samples} colours, such as CMYK", hint="save it as 8 bit grey")
    return Picture(rows, columns, samples, bits)


def decode_jpeg(data: bytes, picture: Picture) -> Any:
    """Pixels of a file that is there to its end: the decoder fills what is missing with grey, and says nothing."""
    _require_end(data)
    return imagecodecs.jpeg_decode(data, bitspersample=picture.bits)


def _require_end(data: bytes) -> None:
    at = 2
    while True:
        found = NEXT_MARKER.search(data, at)
        if found is None:
            raise ValueError("the file ends before its pixels do")
        code, at = data[found.end() - 1], found.end()
        if code == JPEG_END:
            return
        if code != 0x01:
            at += int.from_bytes(data[at : at + 2]) if at + 2 <= len(data) else 2


class _View:
    """Some bytes here and there of a source, the first ones read once."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._head = source.read(0, min(HEAD_BYTES, source.size))

    def take(self, start: int, length: int) -> bytes:
        stop = start + length
        if stop > self._source.size:
            raise _damaged(self._source, f"ends at byte {self._source.size}, its header goes on")
        return self._head[start:stop] if stop <= len(self._head) else self._source.read(start, stop)


def _damaged(source: ByteSource, what: str) -> CorruptObjectError:
    return CorruptObjectError(f"{source.name}: {what}", hint="the file is truncated or damaged; fetch it again")


PNG = SliceFormat("png", PNG_MAGIC, (".png",), png_header, decode_png)
JPEG = SliceFormat("jpeg", b"\xff\xd8\xff", (".jpg", ".jpeg", ".jpe"), jpeg_header, decode_jpeg)
