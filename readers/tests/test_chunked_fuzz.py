"""Metadata of strangers: whatever it says, the answer is a volume or a ReaderError, soon, and in little memory."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emporter_archives import arrays
from emporter_contracts.geometry import Box
from emporter_readers.array import MemorySource
from emporter_readers.chunked.shards import ShardSpec, morton, murmur_64
from emporter_readers.discover import discover, open_volume
from emporter_readers.errors import ReaderError
from emporter_readers.protocol import Hints

VOXELS = np.arange(10 * 12 * 14, dtype=np.uint16).reshape(10, 12, 14)
BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
SHARDS = {
    "name": "sharding_indexed",
    "configuration": {"chunk_shape": [4, 4, 4], "codecs": [BYTES], "index_codecs": [BYTES, {"name": "crc32c"}]},
}
TREES: dict[str, tuple[arrays.Objects, str]] = {
    "zarr2": (arrays.zarr2(VOXELS, (4, 4, 4), compressor={"id": "zstd", "level": 1}), ".zarray"),
    "zarr3": (arrays.zarr3(VOXELS, [BYTES], (4, 4, 4)), "zarr.json"),
    "zarr3 shards": (arrays.zarr3(VOXELS, [SHARDS], (8, 8, 8)), "zarr.json"),
    "n5": (arrays.n5(VOXELS, (4, 4, 4), {"type": "gzip", "level": 1, "useZlib": False}), "attributes.json"),
    "precomputed": (arrays.precomputed(VOXELS, (4, 4, 4)), "info"),
    "precomputed shards": (arrays.precomputed(VOXELS, (4, 4, 4), sharding=arrays.SHARDING), "info"),
    "ome": (
        {
            ".zattrs": arrays.ome_zattrs([("0", (1, 2, 3), (0, 0, 0))]),
            **arrays.zarr2(VOXELS, (4, 4, 4), path="0"),
        },
        ".zattrs",
    ),
}

numbers = st.one_of(
    st.integers(-3, 20), st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**40, 1e308, float("inf"), float("nan"), 0.5])
)
words = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["<u2", ">f8", "|V9", "<M8[ns]", "uint64", "gzip", "lz4", "../..", "c", "zyx", "sharding_indexed", "F", "/"]),
)
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, words),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(words, inner, max_size=4)),
    max_leaves=8,
)


def paths(document: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where every value of a document lies."""
    inner = document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    return [at, *(path for key, value in inner for path in paths(value, (*at, key)))]


def replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[path[0]] = replaced(document[path[0]], path[1:], value)
    return copy


def read_all(objects: arrays.Objects) -> None:
    """Discover and read a corner of whatever there is. Anything but a ReaderError fails the test."""
    sources = [MemorySource(name, body) for name, body in objects.items()]
    try:
        for found in discover(sources, Hints()):
            reader = open_volume([sources[k] for k in found.objects], found)
            z, y, x = (min(n, 5) for n in reader.shape)
            reader.read(Box.at((0, 0, 0), (z, y, x)))
    except ReaderError as error:
        said = str(error)
    else:
        said = "read"
    assert 0 < len(said) < 3000


@given(st.data())
@settings(max_examples=400, deadline=5000, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_any_value_anywhere_in_the_metadata_is_read_or_refused(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(list(TREES)))
    objects, name = TREES[kind]
    document = json.loads(objects[name])
    for _ in range(data.draw(st.integers(1, 3))):
        document = replaced(document, data.draw(st.sampled_from(paths(document))), data.draw(anything))
    read_all({**objects, name: json.dumps(document).encode()})


@given(st.data())
@settings(max_examples=200, deadline=5000, suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_anywhere_in_any_object_are_read_or_refused(data: st.DataObject) -> None:
    objects = dict(TREES[data.draw(st.sampled_from(list(TREES)))][0])
    name = data.draw(st.sampled_from(sorted(objects)))
    body = bytearray(objects[name])
    at = data.draw(st.integers(0, max(0, len(body) - 1)))
    body[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    objects[name] = bytes(body)
    read_all(objects)


def test_absurd_sizes_cost_no_memory() -> None:
    absurd = [2**31 - 1] * 3
    changes: list[tuple[str, dict[str, Any]]] = [
        ("zarr2", {"shape": absurd}),
        ("zarr2", {"shape": absurd, "chunks": absurd}),
        ("zarr3", {"shape": absurd, "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 1, 1]}}}),
        ("n5", {"dimensions": absurd, "blockSize": [1, 1, 1]}),
    ]
    tracemalloc.start()
    for kind, fields in changes:
        objects, name = TREES[kind]
        read_all({**objects, name: json.dumps({**json.loads(objects[name]), **fields}).encode()})
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 64 * 2**20


@given(st.tuples(*[st.integers(1, 2**12)] * 3), st.data())
def test_morton_codes_are_distinct_and_as_short_as_the_grid_allows(grid: tuple[int, int, int], data: st.DataObject) -> None:
    cells = [tuple(data.draw(st.integers(0, n - 1)) for n in grid) for _ in range(2)]
    codes = [morton(cell, grid) for cell in cells]  # type: ignore[arg-type]
    assert (codes[0] == codes[1]) == (cells[0] == cells[1])
    bits = sum((n - 1).bit_length() for n in grid)
    assert all(code < 2**bits for code in codes)


def test_the_hash_is_murmur_3_of_8_bytes() -> None:
    # Of the reference implementation, by way of neuroglancer's sharded format.
    assert murmur_64(0) == murmur_64(2**64)
    assert len({murmur_64(k) for k in range(10_000)}) == 10_000
    spec = ShardSpec(0, 2, 11, murmur=True, index_gzipped=False, data_gzipped=False)
    assert spec.file_name(0x7F) == "07f.shard"
