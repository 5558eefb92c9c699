"""Arrays as archives store them: every object by its name below the root, written by tensorstore in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from emporter_archives.server import FileServer

Objects = dict[str, bytes]
"""Bodies by name below the root."""

SHARDING = {
    "@type": "neuroglancer_uint64_sharded_v1",
    "hash": "identity",
    "preshift_bits": 3,
    "minishard_bits": 2,
    "shard_bits": 3,
    "minishard_index_encoding": "gzip",
    "data_encoding": "gzip",
}
"""Hemibrain's kind, for grids of a few hundred chunks."""


def zarr2(
    voxels: NDArray[Any],
    chunk: Sequence[int] = (16, 16, 16),
    *,
    path: str = "",
    separator: str = "/",
    order: str = "C",
    compressor: Mapping[str, Any] | None = None,
    fill: Any = 0,
) -> Objects:
    metadata = {
        "zarr_format": 2, "shape": list(voxels.shape), "chunks": list(chunk), "dtype": voxels.dtype.str, "order": order,
        "compressor": compressor, "filters": None, "fill_value": fill, "dimension_separator": separator,
    }  # fmt: skip
    return _written({"driver": "zarr", "metadata": metadata}, voxels, path)


def zarr3(voxels: NDArray[Any], codecs: Sequence[Any], chunk: Sequence[int], *, path: str = "", **more: Any) -> Objects:
    metadata = {
        "shape": list(voxels.shape), "data_type": voxels.dtype.name, "fill_value": 0, "codecs": list(codecs),
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}}, **more,
    }  # fmt: skip
    return _written({"driver": "zarr3", "metadata": metadata}, voxels, path)


def n5(voxels: NDArray[Any], block: Sequence[int], compression: Mapping[str, Any], *, path: str = "", **more: Any) -> Objects:
    """`voxels` and `block` z, y, x, stored x, y, z."""
    metadata = {
        "dimensions": list(reversed(voxels.shape)), "blockSize": list(reversed(block)), "dataType": voxels.dtype.name,
        "compression": dict(compression), **more,
    }  # fmt: skip
    return _written({"driver": "n5", "metadata": metadata}, voxels.T, path)


def precomputed(
    voxels: NDArray[Any],
    chunk: Sequence[int] = (16, 16, 16),
    *,
    encoding: str = "raw",
    sharding: Mapping[str, Any] | None = None,
    offset: Sequence[int] = (0, 0, 0),
    resolution: Sequence[float] = (8, 8, 8),
    kind: str = "image",
    **more: Any,
) -> Objects:
    """One scale. `voxels`, `chunk`, `offset` and `resolution` z, y, x (or channel, z, y, x), stored x, y, z."""
    channels = voxels if voxels.ndim == 4 else voxels[None]
    scale = {
        "size": list(reversed(channels.shape[1:])), "encoding": encoding, "chunk_size": list(reversed(chunk)),
        "resolution": list(reversed(resolution)), "voxel_offset": list(reversed(offset)), **more,
    }  # fmt: skip
    if sharding is not None:
        scale["sharding"] = dict(sharding)
    if encoding == "compressed_segmentation":
        scale["compressed_segmentation_block_size"] = [8, 8, 8]
    multiscale = {"data_type": voxels.dtype.name, "num_channels": channels.shape[0], "type": kind}
    spec = {"driver": "neuroglancer_precomputed", "multiscale_metadata": multiscale, "scale_metadata": scale}
    return _written(spec, channels.T, "")


def ome_zattrs(
    levels: Sequence[tuple[str, Sequence[float], Sequence[float]]], axes: str = "zyx", unit: str | None = "nanometer"
) -> bytes:
    """`.zattrs` of OME-Zarr 0.4 as OpenOrganelle writes it, null name and type and all: (path, scale, translation) by level."""
    types = {"c": "channel", "t": "time"}
    said = [
        {"name": axis, "type": types.get(axis, "space"), **({"unit": unit} if unit and axis in "zyx" else {})} for axis in axes
    ]
    datasets = [
        {
            "path": path,
            "coordinateTransformations": [
                {"type": "scale", "scale": list(scale)},
                {"type": "translation", "translation": list(translation)},
            ],
        }
        for path, scale, translation in levels
    ]
    whole = [{"type": "scale", "scale": [1.0] * len(axes)}]
    multiscale = {
        "axes": said, "coordinateTransformations": whole, "datasets": datasets, "metadata": None, "name": "", "type": None,
        "version": "0.4",
    }  # fmt: skip
    return json.dumps({"multiscales": [multiscale]}).encode()


def decoded(objects: Mapping[str, bytes], driver: str) -> NDArray[Any]:
    """What tensorstore itself reads, axes as stored."""
    context = ts.Context()
    store = ts.KvStore.open({"driver": "memory"}, context=context).result()
    for name, body in objects.items():
        store.write(name, body).result()
    voxels: NDArray[Any] = ts.open({"driver": driver, "kvstore": {"driver": "memory"}}, context=context).result().read().result()
    return np.asarray(voxels)


def put(server: FileServer, folder: str, objects: Mapping[str, bytes]) -> str:
    """Serve them below `folder`; the URL of the root."""
    put_paths(server, folder, objects)
    return server.url(folder)


def put_paths(server: FileServer, folder: str, objects: Mapping[str, bytes]) -> None:
    """The same before the server knows its own address."""
    for name, body in objects.items():
        server.put(f"{folder}/{name}", body)


def _written(spec: dict[str, Any], voxels: NDArray[Any], path: str) -> Objects:
    context = ts.Context()
    place = {"driver": "memory", "path": f"{path}/" if path else ""}
    ts.open({**spec, "kvstore": place}, context=context, create=True).result().write(voxels).result()
    store = ts.KvStore.open({"driver": "memory"}, context=context).result()
    return {key.decode(): store.read(key).result().value for key in store.list().result()}
