"""MRC files for tests, field by field."""

from __future__ import annotations

import struct
from typing import Any, Literal

from numpy.typing import NDArray

MODES = {"i1": 0, "u1": 0, "i2": 1, "f4": 2, "c8": 4, "u2": 6, "f2": 12}


def mrc_file(
    array: NDArray[Any], *, order: Literal["<", ">"] = "<", extended: bytes = b"", trailing: bytes = b"", **fields: Any
) -> bytes:
    """A file of `array`, axes sections, rows, columns as stored; `fields` override what the header says of it."""
    array = array.reshape((1,) * (3 - array.ndim) + array.shape)
    sections, rows, columns = array.shape
    said: dict[str, Any] = {
        "size": (columns, rows, sections), "mode": MODES[array.dtype.str[1:]], "sampling": (columns, rows, sections),
        "cell": (0.0, 0.0, 0.0), "map_axes": (1, 2, 3), "statistics": (0.0, -1.0, -2.0), "space_group": 1, "stamp": None,
        "imod": (0, 0), "map": b"MAP ", "kind": b"",
    }  # fmt: skip
    assert fields.keys() <= said.keys()
    said |= fields
    stamp = said["stamp"] or (b"\x44\x44\0\0" if order == "<" else b"\x11\x11\0\0")
    head = struct.pack(f"{order}3ii3i3i", *said["size"], said["mode"], 0, 0, 0, *said["sampling"])
    head += struct.pack(f"{order}3f3f3i3f", *said["cell"], 90.0, 90.0, 90.0, *said["map_axes"], *said["statistics"])
    head += struct.pack(
        f"{order}ii8x4si40xii36x3f", said["space_group"], len(extended), said["kind"], 20140, *said["imod"], 0, 0, 0
    )
    head += struct.pack(f"{order}4s4sfi", said["map"], stamp, -1.0, 1) + b"written by a test".ljust(800)
    assert len(head) == 1024
    data = array.astype(array.dtype.newbyteorder(order)).tobytes()
    return head + extended + data + trailing
