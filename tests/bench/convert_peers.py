"""Other programs that make OME-Zarr, each as its documentation shows it; run by convert.py, in a Python that has them.

Each is told the same chunk, shard, levels and, where it can be told, codec. What they can't read is read for them into numpy.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
import tifffile
from convert_loop import CHUNK, SHARD, serve

DRIVERS = {"zarr2": "zarr", "n5": "n5", "precomputed": "neuroglancer_precomputed"}


@dataclass(frozen=True)
class Source:
    """An input by slabs of planes: `slab(a, b)` are planes a to b."""

    shape: tuple[int, int, int]
    dtype: Any
    slab: Callable[[int, int], Any]

    def whole(self) -> Any:
        return self.slab(0, self.shape[0])


def opened(kind: str, path: Path) -> Source:
    if kind == "tiff":
        pages = tifffile.TiffFile(path)
        shape = (len(pages.pages), *pages.pages[0].shape)
        return Source(shape, pages.pages[0].dtype, lambda a, b: pages.asarray(key=slice(a, b)).reshape(-1, *shape[1:]))
    if kind == "dm3":
        return slices(path)
    array = ts.open({"driver": DRIVERS[kind], "kvstore": {"driver": "file", "path": f"{path}/"}}, context=no_cache()).result()
    if kind == "precomputed":
        array = array[..., 0]
    if kind != "zarr2":
        array = array.T
    return Source(array.shape, array.dtype.numpy_dtype, lambda a, b: array[a:b].read().result())


def slices(folder: Path) -> Source:
    """DM3 slices by the offset that convert.py noted: no reader is faster."""
    said = json.loads(folder.with_suffix(".json").read_text())
    names, shape, dtype = said["names"], tuple(said["shape"]), np.dtype(said["dtype"])

    def slab(a: int, b: int) -> Any:
        planes = [np.fromfile(folder / n, dtype, shape[1] * shape[2], offset=said["offset"]) for n in names[a:b]]
        return np.stack(planes).reshape(-1, *shape[1:])

    return Source(shape, dtype, slab)


def no_cache() -> Any:
    return ts.Context({"cache_pool": {"total_bytes_limit": 0}})


def ome_zarr_py(kind: str, path: Path, out: Path, levels: int) -> None:
    """`write_image` with its local mean; it takes the whole image in memory."""
    import zarr
    from ome_zarr.scale import Methods
    from ome_zarr.writer import write_image

    write_image(
        opened(kind, path).whole(),
        zarr.open_group(out, mode="w", zarr_format=3),
        axes="zyx",
        scale_factors=[dict.fromkeys("zyx", 2**k) for k in range(1, levels)],
        method=Methods.LOCAL_MEAN,
        storage_options={"chunks": (CHUNK,) * 3, "shards": (SHARD,) * 3, "compressors": [zarr.codecs.ZstdCodec(level=1)]},
    )


def ngff_zarr(kind: str, path: Path, out: Path, levels: int) -> None:
    """`to_multiscales` and `to_ngff_zarr` with its bin means over dask."""
    from ngff_zarr import Methods, to_multiscales, to_ngff_image, to_ngff_zarr

    image = to_ngff_image(opened(kind, path).whole(), dims=["z", "y", "x"])
    factors = [2**k for k in range(1, levels)]
    pyramid = to_multiscales(image, scale_factors=factors, method=Methods.DASK_BIN_SHRINK, chunks=CHUNK)
    to_ngff_zarr(str(out), pyramid, version="0.5", chunks_per_shard=SHARD // CHUNK)


def acquire_zarr(kind: str, path: Path, out: Path, levels: int) -> None:
    """A stream of slabs with its mean; it chooses the levels itself."""
    import acquire_zarr as az

    source = opened(kind, path)
    dimensions = [
        az.Dimension(
            name=axis, kind=az.DimensionType.SPACE, array_size_px=n, chunk_size_px=CHUNK, shard_size_chunks=SHARD // CHUNK
        )
        for axis, n in zip("zyx", source.shape, strict=True)
    ]
    array = az.ArraySettings(dimensions=dimensions, data_type=getattr(az.DataType, np.dtype(source.dtype).name.upper()))
    array.compression = az.CompressionSettings(compressor=az.Compressor.ZSTD, codec=az.CompressionCodec.ZSTD, level=1, shuffle=0)
    array.downsampling_method = az.DownsamplingMethod.MEAN
    stream = az.ZarrStream(az.StreamSettings(store_path=str(out), arrays=[array]))
    for z in range(0, source.shape[0], CHUNK):
        stream.append(np.ascontiguousarray(source.slab(z, min(z + CHUNK, source.shape[0]))))
    stream.close()


def zarr_python(kind: str, path: Path, out: Path, levels: int) -> None:
    """A slab of one shard's depth at a time, one write per shard, means by numpy in the dtype's double width."""
    import zarr

    source = opened(kind, path)

    def store(level: int, shape: tuple[int, ...]) -> Any:
        return zarr.create_array(
            out / str(level), shape=shape, chunks=(CHUNK,) * 3, shards=(SHARD,) * 3, dtype=source.dtype,
            compressors=zarr.codecs.ZstdCodec(level=1), config={"write_empty_chunks": True},
        )  # fmt: skip

    array = store(0, source.shape)
    for z in range(0, source.shape[0], SHARD):
        by_shards(array, source.slab(z, min(z + SHARD, source.shape[0])), z)
    for level in range(1, levels):
        above = store(level, tuple(-(-n // 2) for n in array.shape))
        for z in range(0, above.shape[0], SHARD):
            by_shards(above, halved(np.asarray(array[2 * z : 2 * (z + SHARD)])), z)
        array = above


def by_shards(array: Any, slab: Any, z: int) -> None:
    for y in range(0, array.shape[1], SHARD):
        for x in range(0, array.shape[2], SHARD):
            array[z : z + SHARD, y : y + SHARD, x : x + SHARD] = slab[:, y : y + SHARD, x : x + SHARD]


def halved(voxels: Any) -> Any:
    total = np.zeros(tuple(n // 2 for n in voxels.shape), np.uint32)
    for z, y, x in np.ndindex(2, 2, 2):
        total += voxels[z::2, y::2, x::2]
    return ((total + 4) >> 3).astype(voxels.dtype)


def tensorstore_copy(kind: str, path: Path, out: Path, levels: int) -> None:
    """A slab of one shard's depth at a time in one transaction; levels by its own downsampling of what is stored."""
    source, context = opened(kind, path), no_cache()
    array = created(out, 0, source.shape, source.dtype, context)
    for z in range(0, source.shape[0], SHARD):
        end = min(z + SHARD, source.shape[0])
        with ts.Transaction() as transaction:
            array.with_transaction(transaction)[z:end] = source.slab(z, end)
    for level in range(1, levels):
        less = ts.downsample(array, [2, 2, 2], "mean")
        above = created(out, level, less.shape, source.dtype, context)
        for z in range(0, above.shape[0], SHARD):
            end = min(z + SHARD, above.shape[0])
            with ts.Transaction() as transaction:
                above.with_transaction(transaction)[z:end] = less[z:end].read().result()
        array = above


def created(out: Path, level: int, shape: Any, dtype: Any, context: Any) -> Any:
    codecs = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "zstd", "configuration": {"level": 1}}]
    metadata = {
        "shape": list(shape), "data_type": np.dtype(dtype).name, "fill_value": 0,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [SHARD] * 3}},
        "codecs": [{"name": "sharding_indexed", "configuration": {"chunk_shape": [CHUNK] * 3, "codecs": codecs}}],
    }  # fmt: skip
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{out}/{level}/"}, "metadata": metadata}
    return ts.open(spec, create=True, context=context).result()


PEERS = {
    "tensorstore copy": tensorstore_copy,
    "zarr-python": zarr_python,
    "ome-zarr-py": ome_zarr_py,
    "ngff-zarr": ngff_zarr,
    "acquire-zarr": acquire_zarr,
}

if __name__ == "__main__":
    serve(PEERS[sys.argv[1]])
