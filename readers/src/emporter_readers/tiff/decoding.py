"""From the bytes of a strip or tile to its pixels; what does not come out exactly as long as it must is refused.

Source: TIFF 6.0 sections 8, 9, 13, 14, 22; technical notes 1 (Deflate), 2 (JPEG) and 3 (floating-point predictor).
"""

from __future__ import annotations

from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from emporter_readers.errors import CorruptObjectError
from emporter_readers.tiff.pages import BYTE_CODECS, JPEG, RGB, UNCOMPRESSED, YCBCR, Layout, Page

HORIZONTAL, FLOATING = 2, 3
JPEG_RGB, JPEG_GREY = 2, 1


def decode_segment(page: Page, segment: int, data: bytes | memoryview) -> NDArray[Any]:
    """Pixels of one segment, axes depth, y, x, sample, native byte order. Raises CorruptObjectError naming page and segment."""
    layout = page.layout
    shape = layout.segment_shape(segment // layout.grid[3] % layout.grid[2])
    try:
        pixels = _decoded(page, shape, bytes(data))
    except CorruptObjectError:
        raise
    except Exception as error:  # every codec has exceptions of its own
        raise CorruptObjectError(f"{page.label}: segment {segment} can't be decoded ({error})") from error
    if pixels is None:
        raise CorruptObjectError(f"{page.label}: segment {segment} does not decode to the pixels its shape needs")
    return pixels


def raw_pixels(layout: Layout, data: bytes | memoryview, shape: tuple[int, ...]) -> NDArray[Any]:
    """Uncompressed pixels as they lie in the file, in the file's byte order: assigning them to an array puts that right."""
    dtype = layout.dtype.newbyteorder(">" if layout.big_endian else "<")
    if layout.lsb_first:
        data = bytes(imagecodecs.bitorder_decode(bytes(data)))
    pixels: NDArray[Any] = np.frombuffer(data, dtype).reshape(shape)
    return pixels


def _decoded(page: Page, shape: tuple[int, int, int, int], data: bytes) -> NDArray[Any] | None:
    layout = page.layout
    if layout.compression not in BYTE_CODECS | {UNCOMPRESSED}:
        return _image(page, shape, data)
    if layout.lsb_first:
        data = bytes(imagecodecs.bitorder_decode(data))
    most = layout.cell.depth * layout.cell.rows * layout.row_bytes
    plain = data if layout.compression == UNCOMPRESSED else _decompressed(layout.compression, data, most)
    # Some writers fill the last strip up to its full height.
    for rows in (shape[1], layout.cell.rows):
        if len(plain) == shape[0] * rows * layout.row_bytes:
            return _unpredicted(layout, plain, (shape[0], rows, *shape[2:]))[:, : shape[1]]
    return None


def _decompressed(compression: int, data: bytes, most: int) -> bytes:
    # One byte more than can be right, so that a longer result shows and a bomb stops there.
    plain: bytes = tifffile.TIFF.DECOMPRESSORS[compression](data, out=most + 1)
    return plain


def _unpredicted(layout: Layout, plain: bytes, shape: tuple[int, int, int, int]) -> NDArray[Any]:
    if layout.bits == 1:
        rows = np.frombuffer(plain, np.uint8).reshape(*shape[:2], layout.row_bytes)
        bits: NDArray[Any] = np.unpackbits(rows, axis=-1, count=shape[2] * shape[3]).reshape(shape)
        return bits
    if layout.predictor == FLOATING:
        # Its bytes are sorted by significance, most first, whatever the byte order of the file.
        stored = np.frombuffer(plain, layout.dtype).reshape(shape).copy()
        floats: NDArray[Any] = imagecodecs.floatpred_decode(stored, axis=-2)
        return floats
    pixels = np.frombuffer(plain, layout.dtype.newbyteorder(">" if layout.big_endian else "<")).reshape(shape)
    pixels = pixels.astype(layout.dtype)
    if layout.predictor == HORIZONTAL:
        # Differences are of the stored words, whatever they mean, and wrap around.
        words = pixels.view(f"u{layout.dtype.itemsize}")
        return np.cumsum(words, axis=2, dtype=words.dtype).view(layout.dtype)
    return pixels


def _image(page: Page, shape: tuple[int, int, int, int], data: bytes) -> NDArray[Any] | None:
    """Of a codec whose data says its own shape: decoded only where that, and the dtype, are the page's."""
    layout = page.layout
    if shape[0] != 1:
        return None
    samples = shape[3:] if shape[3] > 1 else ()
    for rows in dict.fromkeys((shape[1], layout.cell.rows)):
        # Codecs compare `out` with their header before they decode anything: no image is larger than it should be.
        pixels = np.empty((rows, shape[2], *samples), layout.dtype)
        try:
            _image_into(page, data, pixels)
        except ValueError:
            continue
        return pixels.reshape(1, rows, *shape[2:])[:, : shape[1]]
    return None


def _image_into(page: Page, data: bytes, out: NDArray[Any]) -> None:
    layout = page.layout
    if layout.compression not in JPEG:
        tifffile.TIFF.DECOMPRESSORS[layout.compression](data, out=out)
        return
    colorspace: int | None = None
    outcolorspace: int | None = None
    if layout.planar:
        outcolorspace = JPEG_GREY
    elif layout.photometric in (RGB, YCBCR) and not layout.extra_samples:
        outcolorspace = JPEG_RGB
        if layout.photometric == RGB and data[6:10] != b"JFIF":
            colorspace = JPEG_RGB
    tifffile.TIFF.DECOMPRESSORS[7](
        data, tables=page.jpeg_tables, colorspace=colorspace, outcolorspace=outcolorspace, bitspersample=layout.bits, out=out
    )
