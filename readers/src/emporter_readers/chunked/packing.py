"""What lies around one chunk's bytes, taken off in bounded memory: a chunk never becomes larger than its voxels.

The decoder would inflate whatever it is given before it looks at the size; a few kilobytes can say terabytes.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable, Mapping

import imagecodecs

Unpack = Callable[[bytes], bytes]
"""Encoded bytes of one chunk to those the decoder is given. Raises ValueError where they are damaged or too many."""

SLACK = 64
"""Bytes that codecs inside, such as checksums, may add to the voxels."""
LZ4_HEADER = 4
"""Bytes in front of numcodecs' LZ4: the decoded size, little-endian."""
BLOSC_HEADER = 16
N5_VARIABLE = 1
"""Mode of an N5 block whose number of elements is not that of its shape."""


def inflating(kind: str, most: int) -> Unpack:
    """The inverse of one compressor, for at most `most` decoded bytes. KeyError where there is none of this kind here."""
    inflate = _KINDS[kind]

    def unpack(data: bytes) -> bytes:
        out = inflate(data, most + SLACK)
        if len(out) > most + SLACK:
            raise ValueError(f"larger than the {most} bytes of one chunk")
        return out

    return unpack


def checking_blosc(most: int) -> Unpack:
    """Blosc says in its header how large it will be (Blosc chunk format: bytes 4 to 8); it keeps to it, or fails."""

    def unpack(data: bytes) -> bytes:
        if len(data) < BLOSC_HEADER or int.from_bytes(data[4:8], "little") > most + SLACK:
            raise ValueError(f"larger than the {most} bytes of one chunk, or no Blosc")
        return data

    return unpack


def in_n5_block(inner: Unpack, most_voxels: int) -> Unpack:
    """The same inside an N5 block, whose header (mode, dimensions, shape; big-endian) stays."""

    def unpack(data: bytes) -> bytes:
        if len(data) < 4:
            raise ValueError("no block of N5")
        mode, dimensions = struct.unpack(">HH", data[:4])
        header = 4 + 4 * dimensions + (4 if mode == N5_VARIABLE else 0)
        if mode > N5_VARIABLE or len(data) < header or dimensions > 16:
            raise ValueError("no block of voxels")
        shape = struct.unpack(f">{dimensions}I", data[4 : 4 + 4 * dimensions])
        voxels = 1
        for n in shape:
            voxels *= n
        if voxels > most_voxels:
            raise ValueError(f"a block of {list(shape)} voxels")
        return data[:header] + inner(data[header:])

    return unpack


def _gzip(data: bytes, most: int) -> bytes:
    return _zlib(data, most, 31)


def _zlib(data: bytes, most: int, wbits: int = 15) -> bytes:
    inflater = zlib.decompressobj(wbits)
    try:
        out = inflater.decompress(data, most + 1)
    except zlib.error as error:
        raise ValueError(f"damaged: {error}") from error
    return _whole(out, most, ended=inflater.eof)


def _bz2(data: bytes, most: int) -> bytes:
    inflater = bz2.BZ2Decompressor()
    try:
        out = inflater.decompress(data, most + 1)
    except OSError as error:
        raise ValueError(f"damaged: {error}") from error
    return _whole(out, most, ended=inflater.eof)


def _xz(data: bytes, most: int) -> bytes:
    inflater = lzma.LZMADecompressor(memlimit=256 * 2**20)
    try:
        out = inflater.decompress(data, most + 1)
    except lzma.LZMAError as error:
        raise ValueError(f"damaged: {error}") from error
    return _whole(out, most, ended=inflater.eof)


def _whole(out: bytes, most: int, *, ended: bool) -> bytes:
    if not ended and len(out) <= most:
        raise ValueError("cut off")
    return out


def _zstd(data: bytes, most: int) -> bytes:
    try:
        return bytes(imagecodecs.zstd_decode(data, out=bytearray(most + 1)))
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"damaged, or larger than the {most} bytes of one chunk: {error}") from error


def _lz4(data: bytes, most: int) -> bytes:
    if len(data) < LZ4_HEADER or int.from_bytes(data[:LZ4_HEADER], "little") > most:
        raise ValueError(f"larger than the {most} bytes of one chunk, or no LZ4")
    try:
        return bytes(imagecodecs.lz4_decode(data, header=True))
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"damaged: {error}") from error


_KINDS: Mapping[str, Callable[[bytes, int], bytes]] = {
    "gzip": _gzip, "zlib": _zlib, "bz2": _bz2, "bzip2": _bz2, "xz": _xz, "zstd": _zstd, "lz4": _lz4,
}  # fmt: skip
INFLATED = frozenset(_KINDS)
"""Compressors undone here."""
