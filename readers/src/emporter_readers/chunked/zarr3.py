"""One array of Zarr v3, with or without shards. Source: Zarr core specification 3.0 and its sharding codec 1.0."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from emporter_readers.chunked.packing import INFLATED, Unpack, checking_blosc, inflating
from emporter_readers.chunked.stored import Cell, Lookup, Single, StoredArray
from emporter_readers.chunked.tree import Document, under
from emporter_readers.chunked.values import Shape, chunk_of, named_dtype, required, shape_of, texts
from emporter_readers.errors import CorruptObjectError, UnsupportedContentError

NODE = "zarr.json"
SHARDING = "sharding_indexed"
ABSENT = 2**64 - 1
"""Offset and length of a chunk that its shard does not hold."""
INDEX_ENTRY = 16
"""Bytes: offset and length, 64 bits each."""
CRC32C = 4
"""Bytes of the checksum behind an index."""
MOST_INNER = 2**20
"""Chunks in one shard: its index is read whole, and kept."""
INDEXES_KEPT = 256

_KNOWN = {
    "zarr_format", "node_type", "shape", "data_type", "chunk_grid", "chunk_key_encoding", "codecs", "fill_value", "attributes",
    "dimension_names", "storage_transformers",
}  # fmt: skip


def zarr3_array(path: str, document: Document) -> StoredArray:
    """The array of one `zarr.json`. Raises CorruptObjectError or UnsupportedContentError."""
    name = under(path, NODE)
    if document.get("zarr_format") != 3 or document.get("node_type") != "array":
        raise CorruptObjectError(f"{name}: is no array of Zarr v3")
    _require_understood(document, name)
    dtype = named_dtype(required(document, "data_type", name), name)
    shape = shape_of(required(document, "shape", name), name)
    grid = _named(required(document, "chunk_grid", name), name)
    if grid[0] != "regular":
        raise UnsupportedContentError(f"{name}: chunk grid {grid[0]!r}", hint="regular grids are read")
    prefix, separator = _keys(document.get("chunk_key_encoding"), name)
    codecs = required(document, "codecs", name)
    if not isinstance(codecs, list) or not codecs:
        raise CorruptObjectError(f"{name}: says no codecs")

    def name_of(cell: Cell) -> str:
        return under(path, separator.join([*prefix, *map(str, cell)]))

    outer = grid[1].get("chunk_shape")
    layout: Single | Sharded = Single(name_of)
    inner = outer
    if any(_codec(codec, name)[0] == SHARDING for codec in codecs):
        layout, inner, codecs = _sharded(codecs, outer, shape, name_of, name)
    chunk = chunk_of(inner, shape, dtype, name, "chunk_shape")
    codecs, unpack = _unpacked(codecs, math.prod(chunk) * dtype.itemsize, name)
    attributes = document.get("attributes")
    plain = {
        "zarr_format": 3, "node_type": "array", "shape": list(shape), "data_type": document["data_type"],
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default"}, "codecs": codecs, "fill_value": required(document, "fill_value", name),
    }  # fmt: skip
    names = document.get("dimension_names")
    return StoredArray(
        path=path,
        shape=shape,
        chunk=chunk,
        dtype=dtype,
        driver="zarr3",
        layout=layout,
        document_name=NODE,
        document=plain,
        key_of=lambda cell: "/".join(["c", *map(str, cell)]),
        unpack=unpack,
        axes=None if names is None else texts([n or "" for n in names] if isinstance(names, list) else names, len(shape)),
        attributes=attributes if isinstance(attributes, dict) else {},
        said={name: {key: value for key, value in document.items() if key != "consolidated_metadata"}},
    )


@dataclass(slots=True)
class Sharded:
    """Chunks of `inner` voxels in shards of `per` chunks along each axis, each shard with an index of its own."""

    name_of: Callable[[Cell], str]
    per: Shape
    at_end: bool
    index_bytes: int
    index_document: Document
    _indexes: dict[str, NDArray[np.uint64] | None] = field(default_factory=dict)

    def names(self, cell: Cell) -> tuple[str, ...]:
        return (self.name_of(tuple(c // p for c, p in zip(cell, self.per, strict=True))),)

    def read(self, cell: Cell, lookup: Lookup) -> bytes | None:
        (name,) = self.names(cell)
        index = self._index(name, lookup)
        source = lookup(name)
        if index is None or source is None:
            return None
        offset, length = (int(v) for v in index[tuple(c % p for c, p in zip(cell, self.per, strict=True))])
        if (offset, length) == (ABSENT, ABSENT):
            return None
        if offset + length > source.size:
            raise CorruptObjectError(f"{name}: its index leads to byte {offset + length} of {source.size}")
        return source.read(offset, offset + length)

    def _index(self, name: str, lookup: Lookup) -> NDArray[np.uint64] | None:
        if name not in self._indexes:
            index = self._read_index(name, lookup)
            while len(self._indexes) >= INDEXES_KEPT:
                self._indexes.pop(next(iter(self._indexes)), None)
            self._indexes[name] = index
            return index
        return self._indexes[name]

    def _read_index(self, name: str, lookup: Lookup) -> NDArray[np.uint64] | None:
        source = lookup(name)
        if source is None:
            return None
        start = source.size - self.index_bytes if self.at_end else 0
        if source.size < self.index_bytes:
            raise CorruptObjectError(f"{name}: {source.size} bytes are no shard")
        context = ts.Context()
        store = ts.KvStore.open({"driver": "memory"}, context=context).result()
        store.write(NODE, json.dumps(self.index_document)).result()
        store.write("/".join("c" + "0" * (len(self.per) + 1)), source.read(start, start + self.index_bytes)).result()
        try:
            spec = {"driver": "zarr3", "kvstore": {"driver": "memory"}}
            index: NDArray[np.uint64] = ts.open(spec, context=context, open=True, read=True).result().read().result()
        except ValueError as error:
            raise CorruptObjectError(f"{name}: the index of this shard is damaged", hint="fetch it again") from error
        return index


def _sharded(codecs: list[Any], outer: Any, shape: Shape, name_of: Any, name: str) -> tuple[Sharded, Any, list[Any]]:
    """Where the inner chunks lie, their shape, and their codecs."""
    if len(codecs) != 1:
        raise UnsupportedContentError(f"{name}: codecs around its shards", hint="shards alone are read")
    configuration = _codec(codecs[0], name)[1]
    inner = chunk_of(configuration.get("chunk_shape"), shape, np.dtype("u1"), name, "chunk_shape of its shards")
    around = chunk_of(outer, shape, np.dtype("V0"), name, "chunk_shape")
    if any(a % b for a, b in zip(around, inner, strict=True)):
        raise CorruptObjectError(f"{name}: shards of {list(around)} voxels are no whole chunks of {list(inner)}")
    per = tuple(a // b for a, b in zip(around, inner, strict=True))
    if math.prod(per) > MOST_INNER:
        raise UnsupportedContentError(f"{name}: {math.prod(per)} chunks in one shard", hint=f"up to {MOST_INNER} are read")
    codecs_inside, codecs_index = configuration.get("codecs"), configuration.get("index_codecs")
    if not isinstance(codecs_inside, list) or not isinstance(codecs_index, list):
        raise CorruptObjectError(f"{name}: its shards say no codecs")
    if any(_codec(codec, name)[0] == SHARDING for codec in codecs_inside):
        raise UnsupportedContentError(f"{name}: shards inside shards", hint="write it with one level of shards")
    known = [_codec(codec, name)[0] for codec in codecs_index]
    if known not in (["bytes"], ["bytes", "crc32c"]):
        raise UnsupportedContentError(
            f"{name}: the index of its shards is {', '.join(known)[:100]}", hint="bytes, crc32c is read"
        )
    location: Literal["start", "end"] | Any = configuration.get("index_location", "end")
    if location not in ("start", "end"):
        raise CorruptObjectError(f"{name}: index_location {str(location)[:50]}")
    document = {
        "zarr_format": 3, "node_type": "array", "shape": [*per, 2], "data_type": "uint64", "fill_value": ABSENT,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [*per, 2]}},
        "chunk_key_encoding": {"name": "default"}, "codecs": codecs_index,
    }  # fmt: skip
    size = math.prod(per) * INDEX_ENTRY + (CRC32C if "crc32c" in known else 0)
    return Sharded(name_of, per, location == "end", size, document), list(inner), codecs_inside


def _unpacked(codecs: list[Any], decoded: int, name: str) -> tuple[list[Any], Unpack | None]:
    """The codecs without the last, where that is a compressor which is undone before the decoder."""
    kinds = [_codec(codec, name)[0] for codec in codecs]
    if any(kind in (*INFLATED, "blosc") for kind in kinds[:-1]):
        raise UnsupportedContentError(f"{name}: codecs {', '.join(kinds)[:100]}", hint="a compressor is the last of the codecs")
    if kinds[-1:] == ["blosc"]:
        return codecs, checking_blosc(decoded)
    if kinds[-1:] in (["gzip"], ["zstd"]):
        return codecs[:-1], inflating(kinds[-1], decoded)
    return codecs, None


def _require_understood(document: Document, name: str) -> None:
    for key, value in document.items():
        if key in _KNOWN or (isinstance(value, dict) and value.get("must_understand") is False):
            continue
        if key != "consolidated_metadata":
            raise UnsupportedContentError(f"{name}: extension {key[:50]!r} is not understood", hint="write it as plain Zarr v3")
    if document.get("storage_transformers"):
        raise UnsupportedContentError(f"{name}: has storage transformers", hint="write it as plain Zarr v3")


def _keys(said: Any, name: str) -> tuple[list[str], str]:
    kind, configuration = ("default", {}) if said is None else _named(said, name)
    separator = configuration.get("separator", "/" if kind == "default" else ".")
    if kind not in ("default", "v2") or separator not in ("/", "."):
        raise UnsupportedContentError(f"{name}: chunk keys {kind[:50]!r} with {str(separator)[:5]!r}", hint="write plain Zarr v3")
    return (["c"] if kind == "default" else []), separator


def _codec(said: Any, name: str) -> tuple[str, Document]:
    return (said, {}) if isinstance(said, str) else _named(said, name)


def _named(said: Any, name: str) -> tuple[str, Document]:
    """`{"name": …, "configuration": {…}}`."""
    if not isinstance(said, dict) or not isinstance(said.get("name"), str):
        raise CorruptObjectError(f"{name}: {str(said)[:100]} has no name")
    configuration = said.get("configuration", {})
    if not isinstance(configuration, dict):
        raise CorruptObjectError(f"{name}: {said['name'][:50]} is configured by {str(configuration)[:50]}")
    return said["name"], configuration
