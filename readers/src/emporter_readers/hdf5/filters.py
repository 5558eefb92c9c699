"""From the bytes of a chunk to its values: HDF5's filter pipeline, in reverse.

Sources: HDF5 File Format Specification 3.0, IV.A.2.l (filter pipeline) and the registry of filters for 32000, 32001 and 32015.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import imagecodecs
import numpy as np

FLETCHER_WORDS = 2**20
"""Summed at a time, so that 64 bits hold the sum of their products."""


class Filter(NamedTuple):
    """One step of the pipeline, as writing applies it; `values` are its settings."""

    code: int
    values: tuple[int, ...]

    @property
    def name(self) -> str:
        return FILTERS[self.code].name


class _Kind(NamedTuple):
    name: str
    undo: Callable[[bytes, tuple[int, ...], int], Any]
    times_larger: int | None = None
    """Than its input the output can be at most; None where it is no compression."""


def decoded(data: bytes, filters: Sequence[Filter], mask: int, size: int) -> bytes:
    """The `size` bytes of one chunk. Bit k of `mask` says that filter k was left out.

    Raises ValueError where they don't come out, and what a codec raises.
    """
    for k in range(len(filters) - 1, -1, -1):
        if mask & (1 << k):
            continue
        kind = FILTERS[filters[k].code]
        if kind.times_larger is not None and size > kind.times_larger * len(data) + 64:
            raise ValueError(f"{len(data)} bytes can't hold {size}")
        data = bytes(kind.undo(data, filters[k].values, size))
    if len(data) != size:
        raise ValueError(f"comes out as {len(data)} bytes, it should be {size}")
    return data


def _inflate(data: bytes, _: tuple[int, ...], size: int) -> Any:
    # A checksum may have been appended before compression: a few bytes more than the chunk.
    return imagecodecs.zlib_decode(data, out=size + 4)


def _unshuffle(data: bytes, values: tuple[int, ...], _: int) -> Any:
    item = values[0] if values else 1
    if item < 1:
        raise ValueError(f"shuffled by {item} bytes")
    whole = len(data) // item * item
    planes = np.frombuffer(data[:whole], np.uint8).reshape(item, -1)
    return planes.T.tobytes() + data[whole:]


def _verify(data: bytes, _: tuple[int, ...], __: int) -> bytes:
    """Fletcher's checksum over 16-bit words stands behind the bytes; early big-endian writers swapped its bytes."""
    body, stored = data[:-4], data[-4:]
    first = second = 0
    words = np.frombuffer(body + b"\0" * (len(body) % 2), ">u2").astype(np.uint64)
    for start in range(0, len(words), FLETCHER_WORDS):
        part = words[start : start + FLETCHER_WORDS]
        count = len(part)
        second += first * count + int((part * np.arange(count, 0, -1, dtype=np.uint64)).sum())
        first += int(part.sum())
    sums = [(int.from_bytes(stored[a : a + 2], "little") % 65535) for a in (0, 2)]
    swapped = [(int.from_bytes(stored[a : a + 2], "big") % 65535) for a in (0, 2)]
    if [first % 65535, second % 65535] not in (sums, swapped):
        raise ValueError("its checksum does not fit")
    return body


def _lzf(data: bytes, _: tuple[int, ...], size: int) -> Any:
    return imagecodecs.lzf_decode(data, out=size + 4)


def _blosc(data: bytes, _: tuple[int, ...], size: int) -> Any:
    return imagecodecs.blosc_decode(data, out=size + 4)


def _zstd(data: bytes, _: tuple[int, ...], size: int) -> Any:
    return imagecodecs.zstd_decode(data, out=size + 4)


FILTERS = {
    1: _Kind("deflate", _inflate, 1040),
    2: _Kind("shuffle", _unshuffle),
    3: _Kind("fletcher32", _verify),
    32000: _Kind("lzf", _lzf, 264),
    32001: _Kind("blosc", _blosc, 2**17),
    32015: _Kind("zstd", _zstd, 50_000),
}
"""What is read here, by HDF5's number."""
