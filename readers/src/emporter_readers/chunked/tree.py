"""The objects below the root of an array, by name, and the JSON documents among them."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Sequence
from typing import Any

from emporter_readers.errors import CorruptObjectError
from emporter_readers.protocol import ByteSource

MOST_JSON_BYTES = 16 * 2**20
"""Of one metadata document; consolidated ones of whole plates stay below it."""

Document = dict[str, Any]


class Tree:
    """Sources by their names below a root. Names are kept as they are given; `./` and a leading `/` do not count."""

    def __init__(self, sources: Sequence[ByteSource]) -> None:
        self._sources = sources
        self._places = {clean(source.name): k for k, source in enumerate(sources)}

    def source(self, name: str) -> ByteSource | None:
        """The object of that name, None where there is none."""
        place = self._places.get(name)
        return None if place is None else self._sources[place]

    def places(self, names: Iterator[str] | Sequence[str]) -> list[int]:
        """Positions of those of `names` that are there, in the order of the names."""
        return list(dict.fromkeys(self._places[name] for name in names if name in self._places))

    def folders_with(self, file_name: str) -> list[str]:
        """Every folder that holds an object of that name; the root is empty."""
        tail = f"/{file_name}"
        return [name[: -len(tail)] if name.endswith(tail) else "" for name in self._places if _is(name, file_name, tail)]

    def document(self, name: str) -> Document | None:
        """A JSON object, None where there is no object of that name. Raises CorruptObjectError where it is something else."""
        source = self.source(name)
        return None if source is None else read_document(source)


def read_document(source: ByteSource) -> Document:
    """A whole source as one JSON object. Raises CorruptObjectError."""
    if source.size > MOST_JSON_BYTES:
        raise CorruptObjectError(f"{source.name}: {source.size} bytes are too many for metadata", hint="is it really JSON?")
    try:
        said = json.loads(source.read(0, source.size))
    except (ValueError, RecursionError) as error:
        raise CorruptObjectError(f"{source.name}: is no JSON: {str(error)[:200]}", hint="fetch it again") from error
    if not isinstance(said, dict):
        raise CorruptObjectError(f"{source.name}: is JSON, but no object", hint="fetch it again")
    return said


def under(folder: str, name: str) -> str:
    """The path of `name`, which may climb, seen from `folder`."""
    return clean(posixpath.normpath(f"{folder}/{name}" if folder else name))


def clean(name: str) -> str:
    """Without a leading `/` or `./`; the root is empty."""
    name = name.lstrip("/")
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return "" if name == "." else name


def _is(name: str, file_name: str, tail: str) -> bool:
    return name == file_name or name.endswith(tail)
