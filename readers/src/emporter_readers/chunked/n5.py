"""One dataset of N5. Source: N5 file system specification 4.0; axes of N5 are x, y, z: the first varies fastest."""

from __future__ import annotations

import math

from emporter_readers.chunked.packing import Unpack, checking_blosc, in_n5_block, inflating
from emporter_readers.chunked.stored import Cell, Single, StoredArray
from emporter_readers.chunked.tree import Document, under
from emporter_readers.chunked.values import chunk_of, named_dtype, required, shape_of, texts, whole_numbers
from emporter_readers.errors import CorruptObjectError

ATTRIBUTES = "attributes.json"
UNDONE = frozenset({"gzip", "zlib", "bzip2", "xz", "zstd"})
"""Compressions taken off before the decoder; LZ4 of N5 is a stream of its own, which nothing here reads."""


def is_dataset(document: Document) -> bool:
    """Whether a folder's attributes are those of an array, not of a group."""
    return "dimensions" in document and ("blockSize" in document or "dataType" in document)


def n5_array(path: str, document: Document) -> StoredArray:
    """The dataset of one `attributes.json`. Raises CorruptObjectError or UnsupportedContentError."""
    name = under(path, ATTRIBUTES)
    dtype = named_dtype(required(document, "dataType", name), name)
    shape = shape_of(required(document, "dimensions", name), name, "dimensions")
    block = chunk_of(required(document, "blockSize", name), shape, dtype, name, "blockSize")
    compression = document.get("compression", {"type": document.get("compressionType")})
    if isinstance(compression, str):
        compression = {"type": compression}
    if not isinstance(compression, dict) or not isinstance(compression.get("type"), str):
        raise CorruptObjectError(f"{name}: compression is {str(compression)[:100]}")
    told, unpack = _compression(compression, math.prod(block), dtype.itemsize)
    if "downsamplingFactors" in document:
        whole_numbers(document["downsamplingFactors"], 1, name, "downsamplingFactors")
    axes = texts(document.get("axes"), len(shape))
    return StoredArray(
        path=path,
        shape=shape[::-1],
        chunk=block[::-1],
        dtype=dtype,
        driver="n5",
        layout=Single(lambda cell: under(path, _key(cell))),
        document_name=ATTRIBUTES,
        document={
            "dimensions": list(shape),
            "blockSize": list(block),
            "dataType": document["dataType"],
            "compression": told,
        },
        key_of=_key,
        unpack=unpack,
        axes=None if axes is None else axes[::-1],
        fastest_first=True,
        attributes=document,
        said={name: document},
    )


def _compression(said: Document, voxels: int, itemsize: int) -> tuple[Document, Unpack | None]:
    """What the decoder is told, and what is undone before it."""
    kind = "zlib" if said["type"] == "gzip" and said.get("useZlib") is True else said["type"]
    if kind in UNDONE:
        return {"type": "raw"}, in_n5_block(inflating(kind, voxels * itemsize), voxels)
    if kind == "blosc":
        return said, in_n5_block(checking_blosc(voxels * itemsize), voxels)
    return said, None


def _key(cell: Cell) -> str:
    return "/".join(map(str, reversed(cell)))
