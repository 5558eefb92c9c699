"""The inputs of the conversion bench, made once: cells with noise on them, which compress to about three quarters as microscopy does."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
import tifffile

from emporter_readers.testing_dm import dm_file

SCALE = 64 * 2**20
"""Voxels of an 8-bit input at --size 64."""


@dataclass(frozen=True)
class Input:
    """`kind` is how it is read; `write(path, voxels)` makes it."""

    name: str
    kind: str
    dtype: str
    write: Callable[[Path, Any], None]
    file: str


def tiff(compression: str | None) -> Callable[[Path, Any], None]:
    def write(path: Path, voxels: Any) -> None:
        with tifffile.TiffWriter(path, bigtiff=True) as writer:
            for plane in voxels:
                writer.write(
                    plane, compression=compression, photometric="minisblack", contiguous=compression is None, metadata=None
                )

    return write


def dm3(path: Path, voxels: Any) -> None:
    path.mkdir()
    names = [f"slice{z:04}.dm3" for z in range(len(voxels))]
    for name, plane in zip(names, voxels, strict=True):
        data = dm_file(plane, scale=0.008, unit="\u00b5m")
        (path / name).write_bytes(data)
    offset = data.find(plane.tobytes()[:4096])
    said = {"names": names, "shape": voxels.shape, "dtype": voxels.dtype.str, "offset": offset}
    path.with_suffix(".json").write_text(json.dumps(said))


def by_tensorstore(driver: str, chunk: tuple[int, ...], **more: Any) -> Callable[[Path, Any], None]:
    def write(path: Path, voxels: Any) -> None:
        spec: dict[str, Any] = {"driver": driver, "kvstore": {"driver": "file", "path": f"{path}/"}, **more}
        stored = voxels if driver == "zarr" else voxels.T
        if driver == "neuroglancer_precomputed":
            stored = stored[..., None]
            size = {"size": voxels.shape[::-1], "encoding": "raw", "chunk_size": chunk, "resolution": [8, 8, 8]}
            spec |= {
                "scale_metadata": size,
                "multiscale_metadata": {"data_type": voxels.dtype.name, "num_channels": 1, "type": "image"},
            }
        elif driver == "n5":
            spec["metadata"] |= {"dimensions": stored.shape, "blockSize": chunk, "dataType": voxels.dtype.name}
        else:
            spec["metadata"] |= {"shape": stored.shape, "chunks": chunk, "dtype": voxels.dtype.str}
        ts.open(spec, create=True).result()[...] = stored

    return write


INPUTS = [
    Input("uint8 TIFF", "tiff", "uint8", tiff(None), "a.tif"),
    Input("uint16 TIFF", "tiff", "uint16", tiff(None), "b.tif"),
    Input("uint8 TIFF, zlib", "tiff", "uint8", tiff("zlib"), "c.tif"),
    Input("uint16 TIFF, zlib", "tiff", "uint16", tiff("zlib"), "d.tif"),
    Input("uint16 DM3 slices", "dm3", "uint16", dm3, "e"),
    Input("uint8 Zarr v2, 96³ blosc", "zarr2", "uint8", by_tensorstore(
        "zarr", (96, 96, 96), metadata={"compressor": {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1}}), "f.zarr"),
    Input("uint8 N5, 64³ gzip", "n5", "uint8", by_tensorstore(
        "n5", (64, 64, 64), metadata={"compression": {"type": "gzip", "level": 1}}), "g.n5"),
    Input("uint8 precomputed, 64³ raw", "precomputed", "uint8", by_tensorstore(
        "neuroglancer_precomputed", (64, 64, 64)), "h"),
]  # fmt: skip


def shape_of(wanted: Input, megabytes: int) -> tuple[int, int, int]:
    """A volume of about so many MiB whose axes are powers of two times 64, so that all halve alike."""
    voxels = megabytes * 2**20 // np.dtype(wanted.dtype).itemsize
    shape = [64, 64, 64]
    axis = 2
    while shape[0] * shape[1] * shape[2] * 2 <= voxels:
        shape[axis] *= 2
        axis = (axis - 1) % 3
    return (shape[0], shape[1], shape[2])


def made(wanted: Input, folder: Path, megabytes: int) -> Path:
    path = folder / wanted.file
    if not path.exists():
        voxels = phantom(shape_of(wanted, megabytes), wanted.dtype)
        wanted.write(path, voxels)
    return path


def phantom(shape: tuple[int, int, int], dtype: str) -> Any:
    random = np.random.default_rng(7)
    scale = 1 if dtype == "uint8" else 40
    cells = random.integers(60, 180, tuple(-(-n // 16) for n in shape)).astype(np.float32)
    voxels = np.empty(shape, dtype)
    for z in range(shape[0]):
        plane = np.repeat(np.repeat(cells[z // 16], 16, 0), 16, 1)[: shape[1], : shape[2]]
        noisy = (plane + random.normal(0, 14, plane.shape).astype(np.float32)) * scale
        voxels[z] = noisy.clip(0, np.iinfo(dtype).max).astype(dtype)
    return voxels
