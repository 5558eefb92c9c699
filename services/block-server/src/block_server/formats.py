"""Voxels as the bodies of answers: raw, npy, zstd, blosc; which of them a client accepts; other dtypes, where asked for."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from block_server.encoding import Window
from block_server.errors import NotAcceptableError, UnsuitableViewError

F = TypeVar("F", bound=str)

BlockFormat = Literal["raw", "npy", "zstd", "blosc"]
"""raw: C order, little-endian. npy: the same with numpy's header. zstd (RFC 8878, one frame), blosc (one Blosc 1 buffer of zstd,
byte-shuffled): the raw bytes, compressed."""
MEDIA_TYPES: dict[BlockFormat, str] = {
    "raw": "application/octet-stream",
    "npy": "application/x-npy",
    "zstd": "application/zstd",
    "blosc": "application/x-blosc",
}
BLOSC_LONGEST = 2**31 - 17
"""Bytes of one Blosc 1 buffer before compression (BLOSC_MAX_BUFFERSIZE)."""
EFFORT = 1
"""Level of zstd: on membranes, level 3 is twice as slow for 2 % less."""

Dtype = Literal["uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]


def raw(voxels: NDArray[Any]) -> memoryview:
    """The bytes of a C-ordered array, without a copy."""
    return voxels.reshape(-1).view(np.uint8).data


def npy_header(shape: Sequence[int], dtype: np.dtype[Any]) -> bytes:
    """What stands before the raw bytes in a .npy file, version 1.0 (numpy.lib.format)."""
    out = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(out, described)
    return out.getvalue()


def compressed(data: Any, itemsize: int, how: Literal["zstd", "blosc"]) -> bytes:
    """A buffer of bytes as one frame. Blocking, and worth a thread of its own."""
    if how == "zstd":
        return bytes(imagecodecs.zstd_encode(data, level=EFFORT))
    return bytes(imagecodecs.blosc_encode(data, level=EFFORT, compressor="zstd", shuffle=1, typesize=itemsize))


def accepted(header: str | None, offered: Mapping[F, str]) -> F:
    """Which of the formats `offered`, with their media types, an Accept header prefers (RFC 9110 12.5.1); by default the first.

    Raises NotAcceptableError.
    """
    formats = list(offered)
    if not header or header == "*/*":
        return formats[0]
    weights = _weights(header)
    rated = [(_weight(offered[one], weights), -place, one) for place, one in enumerate(formats)]
    best = max(rated)
    if best[0] <= 0:
        chosen = f", or say format={'|'.join(formats)}" if len(formats) > 1 else ""
        raise NotAcceptableError(
            f"nothing of what is accepted ({header[:80]}) can be given here",
            hint=f"accept {' or '.join(offered.values())}{chosen}",
        )
    return best[2]


def _weights(header: str) -> dict[str, float]:
    weights = {}
    for one in header.split(","):
        name, *parameters = (part.strip().lower() for part in one.split(";"))
        said = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        try:
            weights[name] = float(said)
        except ValueError:
            weights[name] = 0.0
    return weights


def _weight(media_type: str, weights: Mapping[str, float]) -> float:
    kind = media_type.partition("/")[0]
    return weights.get(media_type, weights.get(f"{kind}/*", weights.get("*/*", 0.0)))


@dataclass(frozen=True, slots=True)
class Conversion:
    """To `dtype`, little-endian. With a window `low` becomes 0, `high` 1 (reals) or the largest integer; the rest is clipped."""

    dtype: np.dtype[Any]
    window: Window | None

    def __str__(self) -> str:
        return f"{self.dtype.name} {self.window}"

    def __call__(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """Blocking; raises nothing."""
        if self.window is None:
            with np.errstate(over="ignore"):  # a float past the range of a narrower one is an infinity there
                return voxels.astype(self.dtype)
        out = np.empty(voxels.shape, self.dtype)
        for plane, into in zip(voxels, out, strict=True):
            share = (plane.astype(np.float64) - self.window.low) / (self.window.high - self.window.low)
            np.clip(np.nan_to_num(share, copy=False, nan=0.0), 0, 1, out=share)
            into[...] = share if self.dtype.kind == "f" else np.rint(share * np.iinfo(self.dtype).max)
        return out


def conversion(stored: np.dtype[Any], wanted: Dtype | None, window: Window | None, *, labels: bool) -> Conversion | None:
    """What `dtype=` and `window=` ask for; None for the voxels as they are stored, which is what everybody else gets.

    Without a window numbers stay what they are: integers to integers that hold them all, anything but labels to reals, rounded to
    the nearest. Raises UnsuitableViewError for what would change them more.
    """
    if wanted is None and window is None:
        return None
    target = stored if wanted is None else np.dtype(wanted).newbyteorder("<")
    if window is not None:
        if labels:
            raise UnsuitableViewError("labels are names, and a window would change them", hint="leave window away")
        if target.itemsize == 8 and target.kind in "iu":
            raise UnsuitableViewError(
                "64-bit integers have no grey values", hint="with window, say dtype=uint8, uint16 or float32"
            )
        return Conversion(target, window)
    if target == stored:
        return None
    if not (_holds(target, stored) or (target.kind == "f" and not labels)):
        hint = "ask for a dtype that holds every label" if labels else "say window=low,high for contrast, or take a wider dtype"
        raise UnsuitableViewError(f"{target.name} can't hold every {stored.name}", hint=hint)
    return Conversion(target, None)


def _holds(target: np.dtype[Any], stored: np.dtype[Any]) -> bool:
    """Whether every number of `stored` is one of `target`; for numpy, uint64 to float64 is "safe"."""
    if target.kind == "f" and stored.kind in "iu":
        return bool(np.finfo(target).nmant + 1 >= 8 * stored.itemsize)
    return np.can_cast(stored, target, "safe")
