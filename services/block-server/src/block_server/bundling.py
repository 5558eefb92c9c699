"""Several arrays in one body, as safetensors: eight bytes (little-endian) say how long the JSON index is that follows, which
names each array's dtype, shape and place; then come the arrays, one after the other.
Source: https://huggingface.co/docs/safetensors, "Format".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from block_server.formats import Conversion
from block_server.reading import Part

MEDIA_TYPE = "application/x-safetensors"
ALIGNED = 64
"""The arrays begin at a multiple of it: the index is filled up with spaces, which the format allows."""
NAMES = {"u": "U", "i": "I", "f": "F"}


@dataclass(frozen=True, slots=True)
class Member:
    """One array of the bundle, C order, little-endian."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Bundle:
    """How the voxels of several volumes are given together. `about` is text by key, for whoever reads the index."""

    members: Sequence[Member]
    about: Mapping[str, str]

    @property
    def media_type(self) -> str:
        return MEDIA_TYPE

    @property
    def conversion(self) -> Conversion | None:
        return None

    @property
    def frames(self) -> Sequence[bytes]:
        return ()

    @property
    def head(self) -> bytes:
        """The index, with its length."""
        index: dict[str, Any] = {"__metadata__": dict(self.about)}
        at = 0
        for one in self.members:
            dtype = f"{NAMES[one.dtype.kind]}{8 * one.dtype.itemsize}"
            index[one.name] = {"dtype": dtype, "shape": list(one.shape), "data_offsets": [at, at + one.bytes]}
            at += one.bytes
        text = json.dumps(index, separators=(",", ":")).encode()
        text += b" " * (-(8 + len(text)) % ALIGNED)
        return len(text).to_bytes(8, "little") + text

    def bytes_of(self, parts: Iterable[Part]) -> int:
        """Of their voxels."""
        return sum(part.bytes for part in parts)
