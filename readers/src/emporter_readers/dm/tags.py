"""The tag tree of a DM3 or DM4 file, walked by range reads; what is large is located, not loaded.

The format is not published by its maker. Sources: "DM3 Image Format" (G. Jefferis, imagej.net/ij/plugins/DM3Format.gj.html)
and "Digital Micrograph file format" (C. Boothroyd), both free descriptions. Structure is big-endian; values have the byte order
the header names. DM4 has 64-bit counts where DM3 has 32-bit ones, and before every entry's content its length.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from emporter_readers.errors import CorruptObjectError
from emporter_readers.protocol import ByteSource

GROUP, VALUE, END = 20, 21, 0
STRUCT, STRING, ARRAY = 15, 18, 20
SIMPLE = {2: "h", 3: "i", 4: "H", 5: "I", 6: "f", 7: "d", 8: "?", 9: "b", 10: "B", 11: "q", 12: "Q"}
"""Encoded types of single numbers, as `struct` knows them."""
UTF16 = 4
"""An array of these is text."""

MAX_TAGS = 2**18
"""Of one file. The richest files known hold some thousands; a damaged count asks for more."""
MAX_DEPTH = 64
MAX_INFO = 1024
"""Numbers that describe the type of one value; a struct of fifty fields has about a hundred."""
MAX_NESTED_TYPES = 8
"""Of arrays of structs of arrays; two are usual."""
MAX_CHARACTERS = 4096
"""Of a text that is kept; longer ones are left where they lie."""
WINDOW_BYTES = 16 * 1024
"""Read at once at least. A tag is some 50 bytes; larger windows read image data beside it."""
MOST_WINDOW_BYTES = 256 * 1024
"""Read at once at most, where tags follow tags."""

Tags = dict[str, Any]
"""A group: its entries by name, those without one by their position among such (`"0"`, `"1"`). A value is a number, a
Located, or None where it is of no use here."""


@dataclass(frozen=True, slots=True)
class Located:
    """An array, and where it lies: `count` items of `item_bytes` each from byte `offset`. `text` where it is a short text."""

    offset: int
    count: int
    item_bytes: int
    text: str | None = None

    @property
    def bytes(self) -> int:
        return self.count * self.item_bytes


@dataclass(frozen=True, slots=True)
class TagTree:
    """All of one file; `order` is the byte order of values, `<` or `>`."""

    version: int
    order: str
    root: Tags


def looks_like_dm(head: bytes) -> bool:
    """Whether a file that begins with `head` (32 bytes of it) has the header and the first entry of a DM3 or DM4 file."""
    if len(head) < 32:
        return False
    version, *_ = struct.unpack_from(">I", head)
    at = {3: 8, 4: 12}.get(version)
    if at is None:
        return False
    order, is_sorted, is_open = struct.unpack_from(">IBB", head, at)
    entry = head[at + (10 if version == 3 else 14)]
    return order in (0, 1) and is_sorted in (0, 1) and is_open in (0, 1) and entry in (GROUP, VALUE)


def read_tags(source: ByteSource) -> TagTree:
    """The tags of `source`. Raises CorruptObjectError, and what reading the source raises."""
    return _Walk(source).tree()


class _Walk:
    """One pass through a file. Reading goes forward only, so a file can't make it run in circles."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._position = 0
        self._window = b""
        self._window_start = 0
        self._ahead = WINDOW_BYTES
        self._order = "<"
        self._count = "I"
        self._tags = 0

    def tree(self) -> TagTree:
        (version,) = self._unpack(">I")
        if version not in (3, 4):
            raise self._corrupt(f"is not a DM3 or DM4 file: its version is {version}")
        self._count = "I" if version == 3 else "Q"
        _, order = self._unpack(f">{self._count}I")
        if order not in (0, 1):
            raise self._corrupt(f"names the byte order {order}, which is neither 0 nor 1")
        self._order = "<" if order else ">"
        return TagTree(version, self._order, self._group(0))

    def _group(self, depth: int) -> Tags:
        if depth > MAX_DEPTH:
            raise self._corrupt(f"nests its tags more than {MAX_DEPTH} deep")
        _, _, count = self._unpack(f">BB{self._count}")
        self._tags += count
        if self._tags > MAX_TAGS:
            raise self._corrupt(f"claims more than {MAX_TAGS} tags")
        tags: Tags = {}
        unnamed = 0
        for _ in range(count):
            kind, length = self._unpack(">BH")
            name = _decoded(self._take(length))
            if not name:
                name, unnamed = str(unnamed), unnamed + 1
            value = self._entry(kind, name, depth)
            tags.setdefault(name, value)
        return tags

    def _entry(self, kind: int, name: str, depth: int) -> Any:
        if kind not in (GROUP, VALUE):
            raise self._corrupt(f"tag {name!r} is of kind {kind}, neither a group nor a value")
        if self._count == "I":
            return self._group(depth + 1) if kind == GROUP else self._value(name)
        (length,) = self._unpack(">Q")
        stop = self._position + length
        value = self._group(depth + 1) if kind == GROUP else self._value(name)
        if self._position != stop:
            raise self._corrupt(f"tag {name!r} ends at byte {self._position}, it is said to end at {stop}")
        return value

    def _value(self, name: str) -> Any:
        mark, count = self._unpack(f">4s{self._count}")
        if mark != b"%%%%":
            raise self._corrupt(f"tag {name!r} does not begin as values do")
        if not 0 < count <= MAX_INFO:
            raise self._corrupt(f"tag {name!r} describes its type in {count} numbers")
        info = self._unpack(f">{count}{self._count}")
        if info[0] in SIMPLE and count == 1:
            return self._unpack(self._order + SIMPLE[info[0]])[0]
        size, used = self._size(info, 0, name)
        if used != count:
            raise self._corrupt(f"tag {name!r} describes its type in {count} numbers, {used} of which say all")
        return self._array(info, size) if info[0] == ARRAY else self._skip(size)

    def _size(self, info: tuple[int, ...], at: int, name: str, depth: int = 0) -> tuple[int, int]:
        """Bytes of the value that `info` describes from `at`, and where the description ends."""
        kind = info[at] if at < len(info) and depth < MAX_NESTED_TYPES else END
        if kind in SIMPLE:
            return struct.calcsize(f"={SIMPLE[kind]}"), at + 1
        if kind == STRING and at + 1 < len(info):
            return info[at + 1], at + 2
        if kind == ARRAY:
            item, end = self._size(info, at + 1, name, depth + 1)
            if end < len(info):
                return item * info[end], end + 1
        if kind == STRUCT and at + 2 < len(info):
            return self._struct_size(info, at, name, depth)
        raise self._corrupt(f"tag {name!r} is of a type that is unknown, cut off or too deep ({kind})")

    def _struct_size(self, info: tuple[int, ...], at: int, name: str, depth: int) -> tuple[int, int]:
        """Of a struct: its kind, length of its name, number of fields, then length of its name and type of each field."""
        size, end = info[at + 1], at + 3
        for _ in range(info[at + 2]):
            item, following = self._size(info, end + 1, name, depth + 1)
            size += info[end] + item
            end = following
        return size, end

    def _array(self, info: tuple[int, ...], size: int) -> Located:
        count = info[-1]
        located = Located(self._position, count, size // count if count else 0)
        if info[1:2] == (UTF16,) and len(info) == 3 and count <= MAX_CHARACTERS:
            encoding = "utf-16-le" if self._order == "<" else "utf-16-be"
            text = self._take(size).decode(encoding, "replace").rstrip("\0")
            return Located(located.offset, count, 2, text)
        self._skip(size)
        return located

    def _skip(self, length: int) -> None:
        if self._position + length > self._source.size:
            raise self._cut(self._position + length)
        self._position += length

    def _unpack(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))

    def _take(self, length: int) -> bytes:
        start, stop = self._position, self._position + length
        if not self._window_start <= start <= stop <= self._window_start + len(self._window):
            self._load(start, stop)
        self._position = stop
        return self._window[start - self._window_start : stop - self._window_start]

    def _load(self, start: int, stop: int) -> None:
        if stop > self._source.size:
            raise self._cut(stop)
        follows = self._window_start <= start <= self._window_start + len(self._window)
        self._ahead = min(2 * self._ahead, MOST_WINDOW_BYTES) if follows and self._window else WINDOW_BYTES
        self._window = self._source.read(start, min(max(stop, start + self._ahead), self._source.size))
        self._window_start = start

    def _cut(self, needed: int) -> CorruptObjectError:
        return CorruptObjectError(
            f"{self._source.name}: ends at byte {self._source.size}, its tags reach byte {needed}",
            hint="the file is truncated or damaged; fetch it again",
        )

    def _corrupt(self, what: str) -> CorruptObjectError:
        return CorruptObjectError(
            f"{self._source.name}: {what} (at byte {self._position})", hint="the file is damaged; fetch it again"
        )


def _decoded(name: bytes) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        return name.decode("latin-1")
