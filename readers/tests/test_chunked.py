from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from emporter_archives import arrays
from emporter_contracts.commands import Select
from emporter_contracts.geometry import Box
from emporter_readers.array import MemorySource
from emporter_readers.discover import discover, open_volume
from emporter_readers.errors import (
    AmbiguousContentError,
    CorruptObjectError,
    OutsideVolumeError,
    ReaderError,
    UnsupportedContentError,
)
from emporter_readers.protocol import FoundVolume, Hints, Reader
from emporter_readers.testing import ReaderCase, ReaderSuite

SHAPE = (21, 34, 45)
BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
BLOSC2 = {"id": "blosc", "cname": "zstd", "clevel": 3, "shuffle": 2, "blocksize": 0}


def noise(dtype: str = "uint16", shape: tuple[int, ...] = SHAPE) -> NDArray[Any]:
    rng = np.random.default_rng(3)
    if dtype.startswith("float"):
        return rng.normal(size=shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype, endpoint=True)


def compressible(dtype: str = "uint16") -> NDArray[Any]:
    return (np.arange(np.prod(SHAPE)).reshape(SHAPE) // 50 % 200).astype(dtype)


def sharded(index_location: str, *codecs: Any) -> list[Any]:
    configuration = {
        "chunk_shape": [8, 8, 8],
        "codecs": [BYTES, *codecs],
        "index_codecs": [BYTES, {"name": "crc32c"}],
        "index_location": index_location,
    }
    return [{"name": "sharding_indexed", "configuration": configuration}]


def sources(objects: arrays.Objects) -> list[MemorySource]:
    return [MemorySource(name, body) for name, body in sorted(objects.items())]


def opened(objects: arrays.Objects, hints: Hints | None = None) -> tuple[FoundVolume, Reader, list[MemorySource]]:
    there = sources(objects)
    (found,) = discover(there, hints or Hints())
    own = [there[k] for k in found.objects]
    return found, open_volume(own, found), own


MAKERS: dict[str, tuple[Callable[[NDArray[Any]], arrays.Objects], str]] = {
    "zarr2 raw": (lambda v: arrays.zarr2(v, (8, 16, 16)), "uint16"),
    "zarr2 dots": (lambda v: arrays.zarr2(v, (8, 16, 16), separator="."), "int8"),
    "zarr2 fortran": (lambda v: arrays.zarr2(v, (8, 16, 16), order="F"), "int16"),
    "zarr2 big-endian": (lambda v: arrays.zarr2(v.astype(">i4"), (8, 16, 16)), "int32"),
    "zarr2 gzip": (lambda v: arrays.zarr2(v, (8, 16, 16), compressor={"id": "gzip", "level": 1}), "uint32"),
    "zarr2 zlib": (lambda v: arrays.zarr2(v, (8, 16, 16), compressor={"id": "zlib", "level": 1}), "uint16"),
    "zarr2 bz2": (lambda v: arrays.zarr2(v, (8, 16, 16), compressor={"id": "bz2", "level": 1}), "uint8"),
    "zarr2 zstd": (lambda v: arrays.zarr2(v, (8, 16, 16), compressor={"id": "zstd", "level": 1}), "float32"),
    "zarr2 blosc": (lambda v: arrays.zarr2(v, (8, 16, 16), compressor=BLOSC2), "float64"),
    "zarr3 gzip": (lambda v: arrays.zarr3(v, [BYTES, {"name": "gzip", "configuration": {"level": 1}}], (8, 16, 16)), "int64"),
    "zarr3 blosc": (
        lambda v: arrays.zarr3(
            v,
            [
                BYTES,
                {
                    "name": "blosc",
                    "configuration": {"cname": "lz4", "clevel": 5, "shuffle": "shuffle", "typesize": 2, "blocksize": 0},
                },
            ],
            (8, 16, 16),
        ),
        "uint16",
    ),
    "zarr3 zstd crc": (
        lambda v: arrays.zarr3(v, [BYTES, {"name": "crc32c"}, {"name": "zstd", "configuration": {"level": 1}}], (8, 16, 16)),
        "uint64",
    ),
    "zarr3 transposed": (
        lambda v: arrays.zarr3(v, [{"name": "transpose", "configuration": {"order": [2, 0, 1]}}, BYTES], (8, 16, 16)),
        "uint16",
    ),
    "zarr3 v2 keys": (
        lambda v: arrays.zarr3(v, [BYTES], (8, 16, 16), chunk_key_encoding={"name": "v2", "configuration": {"separator": "."}}),
        "uint16",
    ),
    "zarr3 shards": (
        lambda v: arrays.zarr3(v, sharded("end", {"name": "zstd", "configuration": {"level": 1}}), (16, 16, 24)),
        "uint16",
    ),
    "zarr3 shards, index first": (lambda v: arrays.zarr3(v, sharded("start"), (16, 16, 24)), "int16"),
    "n5 raw": (lambda v: arrays.n5(v, (8, 16, 16), {"type": "raw"}), "uint16"),
    "n5 gzip": (lambda v: arrays.n5(v, (8, 16, 16), {"type": "gzip", "level": 6, "useZlib": False}), "int16"),
    "n5 zlib": (lambda v: arrays.n5(v, (8, 16, 16), {"type": "gzip", "level": 6, "useZlib": True}), "uint32"),
    "n5 bzip2": (lambda v: arrays.n5(v, (8, 16, 16), {"type": "bzip2", "blockSize": 9}), "uint8"),
    "n5 xz": (lambda v: arrays.n5(v, (8, 16, 16), {"type": "xz", "preset": 1}), "float32"),
    "n5 blosc": (
        lambda v: arrays.n5(v, (8, 16, 16), {"type": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}),
        "uint64",
    ),
    "n5 zstd": (lambda v: arrays.n5(v, (8, 16, 16), {"type": "zstd", "level": 3}), "float64"),
    "precomputed raw": (lambda v: arrays.precomputed(v, (8, 16, 16), offset=(5, -6, 7)), "uint16"),
    "precomputed shards": (lambda v: arrays.precomputed(v, (8, 8, 8), sharding=arrays.SHARDING), "uint8"),
    "precomputed hashed shards": (
        lambda v: arrays.precomputed(v, (8, 8, 8), sharding={**arrays.SHARDING, "hash": "murmurhash3_x86_128"}),
        "float32",
    ),
}


@pytest.mark.parametrize("kind", MAKERS)
class TestChunkedReaders(ReaderSuite):
    @pytest.fixture
    def case(self, kind: str) -> ReaderCase:
        make, dtype = MAKERS[kind]
        voxels = noise(dtype)
        _, reader, own = opened(make(voxels))
        counted = [source for source in own if not source.name.endswith(("json", ".zarray", "info"))]
        # A whole chunk of noise, its codec's overhead, and the indexes of the shard it lies in.
        cell = 8 * 16 * 16 * voxels.dtype.itemsize * 2 + 8192
        return ReaderCase(reader, voxels, counted, cell)


def test_a_box_reads_only_the_inner_chunks_of_a_shard_it_touches() -> None:
    voxels = noise()
    objects = arrays.zarr3(voxels, sharded("end"), (16, 32, 48))
    _, reader, own = opened(objects)
    assert reader.native.cell == (8, 8, 8)
    for source in own:
        source.bytes_read = 0
    np.testing.assert_array_equal(reader.read(Box.at((0, 0, 0), (8, 8, 8))), voxels[:8, :8, :8])
    index = 2 * 4 * 6 * 16 + 4
    assert sum(source.bytes_read for source in own) == 8**3 * 2 + index


def test_missing_chunks_of_foreign_arrays_are_fill_value_and_counted() -> None:
    voxels = noise()
    objects = arrays.zarr2(voxels, (8, 16, 16), fill=17)
    del objects["1/1/1"], objects["2/2/2"]
    found, reader, _ = opened(objects)
    expected = voxels.copy()
    expected[8:16, 16:32, 16:32] = 17
    expected[16:, 32:, 32:] = 17
    np.testing.assert_array_equal(reader.read(Box.whole(reader.shape)), expected)
    (caveat,) = (c for c in found.caveats if c.code == "chunks_missing")
    assert caveat.evidence == "2 of 27 chunk objects are not stored; their voxels are the fill value 17"


@pytest.mark.parametrize(
    ("objects", "fill"),
    [
        (arrays.zarr2(noise("uint8"), fill=255), 255),
        (arrays.zarr2(noise("uint8"), fill=None), 0),
        (arrays.zarr2(noise("float32"), fill="NaN"), "NaN"),
        (arrays.zarr3(noise("uint64"), [BYTES], (8, 8, 8), fill_value=2**64 - 1), "18446744073709551615"),
        (arrays.zarr3(noise("float32"), [BYTES], (8, 8, 8), fill_value="0x7f800000"), "Infinity"),
        (arrays.n5(noise(), (8, 8, 8), {"type": "raw"}), 0),
        (arrays.precomputed(noise("uint8")), 0),
    ],
)
def test_the_fill_value_is_what_the_decoder_fills_with(objects: arrays.Objects, fill: Any) -> None:
    found, _, _ = opened(objects)
    assert found.fill_value == fill


def test_a_missing_chunk_whose_fill_value_the_dtype_cannot_hold_is_no_guess() -> None:
    objects = arrays.zarr2(noise("int8"), (8, 16, 16))
    document = json.loads(objects[".zarray"])
    objects[".zarray"] = json.dumps({**document, "fill_value": 255}).encode()
    del objects["1/1/1"]
    _, reader, _ = opened(objects)
    assert reader.read(Box.at((0, 0, 0), (1, 1, 1))).shape == (1, 1, 1)
    with pytest.raises(CorruptObjectError, match="1/1/1"):
        reader.read(Box.whole(reader.shape))


def test_an_array_without_a_single_chunk_is_refused() -> None:
    objects = arrays.zarr2(noise(), (8, 16, 16))
    with pytest.raises(UnsupportedContentError, match="none of its chunks"):
        opened({".zarray": objects[".zarray"]})


def test_what_was_not_fetched_is_refused_never_filled() -> None:
    voxels = noise()
    objects = arrays.zarr2(voxels, (8, 16, 16))
    region = Box.at((9, 17, 1), (5, 10, 10))
    kept = {name: body for name, body in objects.items() if name in {".zarray", "1/1/0"}}
    found, reader, _ = opened(kept, Hints(region=region))
    assert "chunks_missing" not in {c.code for c in found.caveats}
    np.testing.assert_array_equal(reader.read(Box.at((8, 16, 0), (8, 16, 16))), voxels[8:16, 16:32, :16])
    with pytest.raises(OutsideVolumeError, match="was not fetched"):
        reader.read(Box.at((8, 16, 0), (8, 16, 17)))


@pytest.mark.parametrize(
    ("kind", "compressor"),
    [
        ("gzip", {"id": "gzip", "level": 1}),
        ("zlib", {"id": "zlib", "level": 1}),
        ("zstd", {"id": "zstd", "level": 1}),
        ("blosc", BLOSC2),
    ],
)
def test_a_damaged_chunk_is_named(kind: str, compressor: dict[str, Any]) -> None:
    objects = arrays.zarr2(noise(), (8, 16, 16), compressor=compressor)
    objects["1/1/1"] = objects["1/1/1"][: len(objects["1/1/1"]) // 2]
    _, reader, _ = opened(objects)
    reader.read(Box.at((0, 0, 0), (8, 16, 16)))
    with pytest.raises(CorruptObjectError, match="1/1/1") as damaged:
        reader.read(Box.whole(reader.shape))
    assert damaged.value.hint


def test_a_chunk_that_inflates_past_its_voxels_is_refused() -> None:
    bomb = gzip.compress(bytes(200 * 2**20))
    zstd = arrays.zarr2(np.zeros((256, 256, 256), np.uint8), (256, 256, 256), compressor={"id": "zstd", "level": 1}, fill=1)[
        "0/0/0"
    ]
    for kind, data in (("gzip", bomb), ("zlib", zlib.compress(bytes(50 * 2**20))), ("zstd", zstd)):
        objects = arrays.zarr2(noise(), (8, 16, 16), compressor={"id": kind, "level": 1})
        objects["0/0/0"] = data
        _, reader, _ = opened(objects)
        with pytest.raises(CorruptObjectError, match="0/0/0.*(larger than|damaged)"):
            reader.read(Box.at((0, 0, 0), (1, 1, 1)))


def test_an_n5_block_that_says_more_voxels_than_a_block_is_refused() -> None:
    objects = arrays.n5(noise(), (8, 16, 16), {"type": "gzip", "level": 1, "useZlib": False})
    objects["0/0/0"] = struct.pack(">HHIII", 0, 3, 2**16, 2**16, 2**10) + objects["0/0/0"][16:]
    _, reader, _ = opened(objects)
    with pytest.raises(CorruptObjectError, match="0/0/0"):
        reader.read(Box.at((0, 0, 0), (1, 1, 1)))


def test_a_shard_index_that_leads_out_of_its_file_is_refused() -> None:
    objects = arrays.precomputed(noise("uint8"), (8, 8, 8), sharding={**arrays.SHARDING, "minishard_index_encoding": "raw"})
    name = next(n for n in objects if n.endswith(".shard"))
    body = bytearray(objects[name])
    body[8:16] = struct.pack("<Q", 2**40)
    objects[name] = bytes(body)
    _, reader, _ = opened(objects)
    with pytest.raises(CorruptObjectError, match=name):
        reader.read(Box.whole(reader.shape))


def test_axes_in_another_order_are_turned_to_z_y_x() -> None:
    voxels = noise()
    stored = np.ascontiguousarray(voxels.transpose(2, 1, 0))
    levels = [("0", (4.0, 4.0, 50.0), (1.0, 2.0, 3.0))]
    found, reader, _ = opened({".zattrs": arrays.ome_zattrs(levels, axes="xyz"), **arrays.zarr2(stored, (16, 16, 8), path="0")})
    np.testing.assert_array_equal(reader.read(Box.whole(reader.shape)), voxels)
    assert found.voxel_size.nm == (50.0, 4.0, 4.0)
    assert found.translation_nm == (3.0, 2.0, 1.0)
    assert "axes_assumed" not in {c.code for c in found.caveats}


@pytest.mark.parametrize(
    ("unit", "nm"),
    [("micrometer", 4000.0), ("angstrom", 0.4), ("nanometer", 4.0), (None, None), ("furlong", None), ("second", None)],
)
def test_units_become_nanometres_or_unknown(unit: str | None, nm: float | None) -> None:
    levels = [("0", (4.0, 4.0, 4.0), (0.0, 0.0, 0.0))]
    found, _, _ = opened({".zattrs": arrays.ome_zattrs(levels, unit=unit), **arrays.zarr2(noise(), (8, 16, 16), path="0")})
    assert found.voxel_size.nm == pytest.approx((nm, nm, nm)) if nm else found.voxel_size.nm == (None, None, None)


def test_the_scale_of_a_whole_multiscale_is_applied_after_its_levels() -> None:
    document = json.loads(arrays.ome_zattrs([("0", (2.0, 3.0, 4.0), (1.0, 0.0, 0.0))]))
    document["multiscales"][0]["coordinateTransformations"] = [
        {"type": "scale", "scale": [10.0, 10.0, 10.0]},
        {"type": "translation", "translation": [5.0, 0.0, 0.0]},
    ]
    found, _, _ = opened({".zattrs": json.dumps(document).encode(), **arrays.zarr2(noise(), (8, 16, 16), path="0")})
    assert found.voxel_size.nm == (20.0, 30.0, 40.0)
    assert found.translation_nm == (15.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("group", "own", "nm", "shift"),
    [
        ({"resolution": [4, 5, 6], "units": "nm"}, {"downsamplingFactors": [2, 2, 1]}, (6.0, 10.0, 8.0), (0.0, 2.5, 2.0)),
        ({}, {"pixelResolution": {"dimensions": [4, 5, 6], "unit": "um"}}, (6000.0, 5000.0, 4000.0), (0.0, 0.0, 0.0)),
        ({"resolution": [4, 5, 6]}, {}, (None, None, None), (0.0, 0.0, 0.0)),
        (
            {},
            {"transform": {"axes": ["z", "y", "x"], "units": ["nm"] * 3, "scale": [6, 5, 4], "translate": [1, 2, 3]}},
            (6.0, 5.0, 4.0),
            (1.0, 2.0, 3.0),
        ),
    ],
    ids=["resolution", "pixelResolution", "without-units", "cosem"],
)
def test_n5_says_its_resolution_in_several_customs(group: dict[str, Any], own: dict[str, Any], nm: Any, shift: Any) -> None:
    objects = arrays.n5(noise(), (8, 16, 16), {"type": "raw"}, path="em/s0")
    document = json.loads(objects["em/s0/attributes.json"])
    objects["em/s0/attributes.json"] = json.dumps({**document, **own}).encode()
    objects["em/attributes.json"] = json.dumps({"n5": "2.0.0", **group}).encode()
    found, _, _ = opened(objects)
    assert found.voxel_size.nm == nm
    assert found.translation_nm == shift


def test_five_dimensions_without_names_need_a_word_from_the_user() -> None:
    voxels = noise(shape=(2, 3, 5, 16, 16))
    objects = arrays.zarr2(voxels, (1, 1, 5, 16, 16))
    with pytest.raises(AmbiguousContentError) as unclear:
        opened(objects)
    assert "axes" in unclear.value.hint
    there = sources(objects)
    found = discover(there, Hints(axes="tczyx", select=Select(time=1)))
    assert [f.series for f in found] == ["s0-c0-t1", "s0-c1-t1", "s0-c2-t1"]
    reader = open_volume([there[k] for k in found[2].objects], found[2])
    np.testing.assert_array_equal(reader.read(Box.whole(reader.shape)), voxels[1, 2])


def test_labels_below_an_image_are_a_volume_of_labels() -> None:
    levels = [("0", (4.0, 4.0, 4.0), (0.0, 0.0, 0.0))]
    objects = {
        "x.zarr/.zattrs": arrays.ome_zattrs(levels),
        **arrays.zarr2(noise(), (8, 16, 16), path="x.zarr/0"),
        "x.zarr/labels/nuclei/.zattrs": arrays.ome_zattrs(levels),
        **arrays.zarr2(compressible("uint32"), (8, 16, 16), path="x.zarr/labels/nuclei/0"),
    }
    image, labels = discover(sources(objects), Hints())
    assert (image.role, image.name, labels.role, labels.name) == ("image", "x.zarr", "labels", "nuclei")
    assert (image.series, labels.series) == ("s0-c0-t0", "s1-c0-t0")


def test_booleans_are_bytes_and_flagged() -> None:
    voxels = noise("uint8") > 128
    found, reader, _ = opened(arrays.zarr2(voxels, (8, 16, 16), fill=False))
    assert found.dtype == "uint8"
    assert "bool_as_uint8" in {c.code for c in found.caveats}
    np.testing.assert_array_equal(reader.read(Box.whole(reader.shape)), voxels.view(np.uint8))


def changed(objects: arrays.Objects, name: str, **fields: Any) -> arrays.Objects:
    return {**objects, name: json.dumps({**json.loads(objects[name]), **fields}).encode()}


ZARR2 = arrays.zarr2(noise(), (8, 16, 16))
ZARR3 = arrays.zarr3(noise(), [BYTES], (8, 16, 16))
N5 = arrays.n5(noise(), (8, 16, 16), {"type": "raw"})
INFO = arrays.precomputed(noise(), (8, 16, 16))
SCALE = json.loads(INFO["info"])["scales"][0]
REFUSED: dict[str, tuple[arrays.Objects, str]] = {
    "complex": (changed(ZARR2, ".zarray", dtype="<c8"), "'<c8'"),
    "structured": (changed(ZARR2, ".zarray", dtype=[["a", "<i2"]]), "dtype"),
    "filters": (changed(ZARR2, ".zarray", filters=[{"id": "delta"}]), "filters"),
    "unknown compressor": (changed(ZARR2, ".zarray", compressor={"id": "pcodec"}), "pcodec"),
    "huge chunks": (changed(ZARR2, ".zarray", chunks=[2**20, 2**20, 2**20]), "GiB"),
    "empty": (changed(ZARR2, ".zarray", shape=[0, 10, 10]), "nothing"),
    "negative": (changed(ZARR2, ".zarray", shape=[-1, 10, 10]), "shape"),
    "infinite": (changed(ZARR2, ".zarray", shape=[10**30, 10, 10]), "shape"),
    "one axis": (changed(ZARR2, ".zarray", shape=[10], chunks=[5]), "one axis"),
    "other version": (changed(ZARR2, ".zarray", zarr_format=4), "zarr_format"),
    "irregular grid": (changed(ZARR3, "zarr.json", chunk_grid={"name": "rectangular", "configuration": {}}), "rectangular"),
    "bfloat16": (changed(ZARR3, "zarr.json", data_type="bfloat16"), "bfloat16"),
    "unknown codec": (changed(ZARR3, "zarr.json", codecs=[BYTES, {"name": "numcodecs.pcodec"}]), "pcodec"),
    "storage transformers": (changed(ZARR3, "zarr.json", storage_transformers=[{"name": "x"}]), "storage transformers"),
    "extension": (changed(ZARR3, "zarr.json", zzz={"must_understand": True}), "zzz"),
    "n5 lz4": (changed(N5, "attributes.json", compression={"type": "lz4"}), "lz4"),
    "n5 strings": (changed(N5, "attributes.json", dataType="string"), "string"),
    "compresso": (changed(INFO, "info", scales=[{**SCALE, "encoding": "compresso"}]), "compresso"),
    "no scales": (changed(INFO, "info", scales=[]), "scales"),
    "scale elsewhere": (changed(INFO, "info", scales=[{**SCALE, "key": "../other"}]), "outside"),
    "unknown sharding": (changed(INFO, "info", scales=[{**SCALE, "sharding": {"@type": "x"}}]), "sharding"),
    "no json": ({**ZARR2, ".zarray": b"{"}, "no JSON"),
    "deep json": ({**ZARR2, ".zarray": b'{"a":' * 100_000}, "no JSON"),
    "a list": ({**ZARR2, ".zarray": b"[]"}, "no object"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_volume_is_refused_by_name(kind: str) -> None:
    objects, word = REFUSED[kind]
    with pytest.raises(ReaderError, match=word) as refused:
        opened(objects)
    assert not isinstance(refused.value, AssertionError)
