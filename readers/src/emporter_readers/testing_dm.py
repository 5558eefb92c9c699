"""DM3 and DM4 files for tests, written from the same public description the reader was written from."""

from __future__ import annotations

import struct
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Order = Literal["<", ">"]

DATA_TYPES = {"i2": 1, "f4": 2, "c8": 3, "u1": 6, "i4": 7, "i1": 9, "u2": 10, "u4": 11, "f8": 12, "c16": 13, "i8": 39, "u8": 40}
_ENCODED = {"i2": 2, "i4": 3, "u2": 4, "u4": 5, "f4": 6, "f8": 7, "i1": 9, "u1": 10, "i8": 11, "u8": 12}


def dm_image(
    array: NDArray[Any], *, scale: float = 1.0, unit: str = "", scales: Any = None, data_type: int | None = None, **tags: Any
) -> dict[str, Any]:
    """An entry of ImageList. `scales`: (scale, unit) by dimension, x first; `tags` are its ImageTags."""
    code = array.dtype.str[1:]
    scales = scales or [(scale, unit)] * array.ndim
    calibrations = [{"Origin": 0.0, "Scale": float(s), "Units": u} for s, u in scales]
    return {
        "ImageData": {
            "Calibrations": {"Brightness": {"Scale": 1.0, "Units": ""}, "Dimension": calibrations},
            "Data": array,
            "DataType": DATA_TYPES[code] if data_type is None else data_type,
            "Dimensions": list(reversed(array.shape)),
            "PixelDepth": array.dtype.itemsize,
        },
        "ImageTags": tags,
        "Name": "a test",
        "UniqueID": [1, 2, 3, 4],
    }


def dm_thumbnail(side: int = 8) -> dict[str, Any]:
    return dm_image(np.arange(side * side, dtype="u4").reshape(side, side), data_type=23)


def dm_tree(*images: dict[str, Any], thumbnail: int | None = None) -> dict[str, Any]:
    """The root of a file of `images`, the one at `thumbnail` being no image."""
    tree: dict[str, Any] = {"ApplicationBounds": (0, 0, 10, 20), "HasWindowPosition": False, "ImageList": list(images)}
    if thumbnail is not None:
        tree["Thumbnails"] = [{"ImageIndex": thumbnail, "SourceSize_Pixels": (8, 8)}]
    return tree


def dm_file(array: NDArray[Any], *, version: int = 3, order: Order = "<", junk: int = 0, **options: Any) -> bytes:
    """A file as a microscope writes it: a thumbnail, then the image; `junk` moves the image by as many bytes."""
    tree = {"Junk": np.zeros(junk, "u1"), **dm_tree(dm_thumbnail(), dm_image(array, **options), thumbnail=0)}
    return dm_bytes(tree, version=version, order=order)


def dm_bytes(tree: dict[str, Any], *, version: int = 3, order: Order = "<") -> bytes:
    """A whole file. Dictionaries and lists are groups (entries of a list have no name), tuples are structs of integers."""
    writer = _Writer(version, order)
    body = writer.group(tree)
    length = struct.pack(">I" if version == 3 else ">Q", len(body))
    return struct.pack(">I", version) + length + struct.pack(">I", order == "<") + body + bytes(8)


class _Writer:
    def __init__(self, version: int, order: Order) -> None:
        self.wide = version == 4
        self.order = order
        self.count = "Q" if self.wide else "I"

    def group(self, tree: Any) -> bytes:
        entries = list(tree.items()) if isinstance(tree, dict) else [("", child) for child in tree]
        return struct.pack(f">BB{self.count}", 1, 0, len(entries)) + b"".join(self.entry(*entry) for entry in entries)

    def entry(self, name: str, value: Any) -> bytes:
        is_group = isinstance(value, dict | list)
        content = self.group(value) if is_group else self.value(value)
        coded = name.encode()
        length = struct.pack(">Q", len(content)) if self.wide else b""
        return struct.pack(">BH", 20 if is_group else 21, len(coded)) + coded + length + content

    def value(self, value: Any) -> bytes:
        info, data = self.encoded(value)
        return b"%%%%" + struct.pack(f">{self.count}{len(info)}{self.count}", len(info), *info) + data

    def encoded(self, value: Any) -> tuple[list[int], bytes]:
        if isinstance(value, bool):
            return [8], struct.pack("?", value)
        if isinstance(value, int):
            code = 3 if -(2**31) <= value < 2**31 else 11
            return [code], struct.pack(self.order + ("i" if code == 3 else "q"), value)
        if isinstance(value, float):
            return [7], struct.pack(self.order + "d", value)
        if isinstance(value, str):
            data = value.encode("utf-16-le" if self.order == "<" else "utf-16-be")
            return [20, 4, len(data) // 2], data
        if isinstance(value, tuple):
            info = [15, 0, len(value)] + [number for _ in value for number in (0, 3)]
            return info, struct.pack(f"{self.order}{len(value)}i", *value)
        return self.array(value)

    def array(self, value: NDArray[Any]) -> tuple[list[int], bytes]:
        code = value.dtype.str[1:]
        data = value.astype(value.dtype.newbyteorder(self.order)).tobytes()
        if code[0] == "c":
            part = 6 if code == "c8" else 7
            return [20, 15, 0, 2, 0, part, 0, part, value.size], data
        return [20, _ENCODED[code], value.size], data
