"""One volume in every format of chunked arrays that is read: in those of several levels it has two."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from emporter_archives import arrays

GZIP = {"type": "gzip", "level": 1, "useZlib": False}


def ome4(voxels: NDArray[Any]) -> arrays.Objects:
    """OME-Zarr 0.4 of two levels; the second holds other values."""
    zstd = {"id": "zstd", "level": 1}
    return {
        ".zgroup": b'{"zarr_format": 2}',
        ".zattrs": arrays.ome_zattrs(
            [("s0", (2.96, 4.0, 5.0), (10.0, 20.0, 30.0)), ("s1", (5.92, 8.0, 10.0), (11.48, 22.0, 32.5))]
        ),
        **arrays.zarr2(voxels, path="s0", compressor=zstd),
        **arrays.zarr2(voxels[::2, ::2, ::2].copy(), path="s1", compressor=zstd),
    }


def ome5(voxels: NDArray[Any]) -> arrays.Objects:
    """OME-Zarr 0.5 in shards."""
    inner = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "zstd", "configuration": {"level": 1}}]
    shards = {
        "name": "sharding_indexed",
        "configuration": {"chunk_shape": [8, 16, 16], "codecs": inner, "index_codecs": [inner[0], {"name": "crc32c"}]},
    }
    (said,) = json.loads(
        arrays.ome_zattrs([("s0", (2.96, 4.0, 5.0), (10.0, 20.0, 30.0)), ("s1", (5.92, 8.0, 10.0), (11.48, 22.0, 32.5))])
    )["multiscales"]
    group = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": {"version": "0.5", "multiscales": [said]}}}
    return {
        "zarr.json": json.dumps(group).encode(),
        **arrays.zarr3(voxels, [shards], (16, 32, 32), path="s0"),
        **arrays.zarr3(voxels[::2, ::2, ::2].copy(), [shards], (16, 32, 32), path="s1"),
    }


def n5(voxels: NDArray[Any]) -> arrays.Objects:
    coarse = voxels[::2, ::2, ::2].copy()
    said = {"dimensions": [5.0, 4.0, 2.96], "unit": "nm"}
    return {
        "attributes.json": json.dumps(
            {"n5": "2.0.0", "pixelResolution": said, "downsamplingFactors": [[1, 1, 1], [2, 2, 2]]}
        ).encode(),
        **arrays.n5(voxels, (16, 16, 16), GZIP, path="s0"),
        **arrays.n5(coarse, (16, 16, 16), GZIP, path="s1", downsamplingFactors=[2, 2, 2]),
    }


KINDS: dict[str, tuple[Callable[[NDArray[Any]], arrays.Objects], str]] = {
    "ome-zarr 0.4": (ome4, "{}"),
    "ome-zarr 0.5": (ome5, "{}/"),
    "zarr v2": (lambda v: arrays.zarr2(v, separator="."), "{}"),
    "zarr v2 fortran": (
        lambda v: arrays.zarr2(v, order="F", compressor={"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1}),
        "zarr2://{}",
    ),
    "zarr v3": (lambda v: arrays.zarr3(v, [{"name": "bytes", "configuration": {"endian": "big"}}], (16, 16, 16)), "zarr://{}"),
    "n5": (n5, "n5://{}"),
    "precomputed": (lambda v: arrays.precomputed(v, offset=(10, 20, 30), resolution=(2.96, 4, 5)), "precomputed://{}"),
    "precomputed in shards": (lambda v: arrays.precomputed(v, sharding=arrays.SHARDING, resolution=(2.96, 4, 5)), "{}"),
}
"""How each is made, and how a user writes its address."""
