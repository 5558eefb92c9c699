"""TIFF to sharded OME-Zarr with its pyramid, on local folders, beside others: `python tests/bench/convert.py [--rounds N] [--only …]`.

Every contender converts every input once per round, in turn, in a process of its own: machines drift, so only ratios within a
round are compared. Time is from an open file to the last byte of the last level, imports and process start left out, page cache
warm, nothing synced. What is written is compared with the source voxel for voxel. A contender that is not installed is left out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

INPUTS: dict[str, tuple[tuple[int, int, int], str, str | None]] = {
    "u8 512^3": ((512, 512, 512), "uint8", None),
    "u16 256x1024^2": ((256, 1024, 1024), "uint16", None),
    "u16 256x1024^2 zlib": ((256, 1024, 1024), "uint16", "zlib"),
}
CHUNK = 64
SHARD = 256
LEVELS = 4


def phantom(path: Path, shape: tuple[int, int, int], dtype: str, compression: str | None) -> None:
    """Cells with noise on them; compresses to about three quarters, as microscopy does."""
    random = np.random.default_rng(7)
    scale = 1 if dtype == "uint8" else 40
    cells = random.integers(60, 180, tuple(-(-n // 16) for n in shape)).astype(np.float32)
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for z in range(shape[0]):
            plane = np.repeat(np.repeat(cells[z // 16], 16, 0), 16, 1)[: shape[1], : shape[2]]
            noisy = (plane + random.normal(0, 14, plane.shape)) * scale
            writer.write(
                noisy.clip(0, np.iinfo(dtype).max).astype(dtype), compression=compression, photometric="minisblack", contiguous=compression is None, metadata=None
            )  # fmt: skip


def emporter(source: Path, out: Path) -> Path:
    """The converter's own core: plan and every task of every level, one after another."""
    from converter.allocator import keep_buffers
    from converter.sources import open_reader
    from converter.testing import run_of
    from emporter_contracts import storage
    from emporter_contracts.plans import FileRootPath, ManifestObject, PlannedVolume
    from emporter_readers.array import FileSource
    from emporter_readers.discover import discover
    from emporter_readers.protocol import Hints
    from emporter_runtime.file_roots import version_of
    from emporter_runtime.objects import Objects
    from emporter_runtime.testing import file_store

    keep_buffers()
    found = discover([FileSource(source.name, source)], Hints())[0]
    volume = PlannedVolume(
        volume="bench", name="bench", format=found.format, objects=(0,), select=found.select, axes=found.axes, shape=found.shape,
        dtype=found.dtype, voxel_size=found.voxel_size, role="image", source_shape=found.shape,
    )  # fmt: skip
    run = run_of(None, volume)  # type: ignore[arg-type]
    held = ManifestObject(
        path=source.name, url="", location=FileRootPath(root="bench", path=source.name), bytes=source.stat().st_size,
        sha256="0" * 64, version=version_of(source.stat()),
    )  # fmt: skip
    run.manifest = run.manifest.model_copy(update={"objects": (held,)})
    run.reader = open_reader(Objects.in_memory(), run.fetch, run.manifest, "bench", {"bench": source.parent})
    objects = Objects.open(file_store(out))
    run.write(objects, run.plan().volumes[0])
    path = objects.local_path(storage.VOLUMES, storage.zarr_root("bench", 1))
    assert path is not None
    return path


def ome_zarr_py(source: Path, out: Path) -> Path:
    """`write_image` with its local mean; it takes the whole image in memory."""
    import zarr
    from ome_zarr.scale import Methods
    from ome_zarr.writer import write_image

    group = zarr.open_group(out, mode="w", zarr_format=3)
    write_image(
        tifffile.imread(source),
        group,
        axes="zyx",
        scale_factors=[2**k for k in range(1, LEVELS)],
        method=Methods.LOCAL_MEAN,
        storage_options={"chunks": (CHUNK,) * 3, "shards": (SHARD,) * 3},
    )
    return out


def ngff_zarr(source: Path, out: Path) -> Path:
    """`to_multiscales` and `to_ngff_zarr` with its dask means."""
    from ngff_zarr import Methods, to_multiscales, to_ngff_image, to_ngff_zarr

    image = to_ngff_image(tifffile.imread(source), dims=["z", "y", "x"])
    pyramid = to_multiscales(
        image, scale_factors=[2**k for k in range(1, LEVELS)], method=Methods.DASK_IMAGE_GAUSSIAN, chunks=CHUNK
    )
    to_ngff_zarr(str(out), pyramid, version="0.5", chunks_per_shard=SHARD // CHUNK)
    return out


def zarr_python(source: Path, out: Path) -> Path:
    """A slab of one shard's depth at a time, one write per shard, means by numpy."""
    import zarr

    def store(level: int, shape: tuple[int, ...], dtype: Any) -> Any:
        return zarr.create_array(
            out / str(level), shape=shape, chunks=(CHUNK,) * 3, shards=(SHARD,) * 3, dtype=dtype,
            compressors=zarr.codecs.ZstdCodec(level=1), config={"write_empty_chunks": True},
        )  # fmt: skip

    with tifffile.TiffFile(source) as file:
        shape = (len(file.pages), *file.pages[0].shape)
        array = store(0, shape, file.pages[0].dtype)
        for z in range(0, shape[0], SHARD):
            slab = file.asarray(key=slice(z, z + SHARD)).reshape(-1, *shape[1:])
            _by_shards(array, slab, z)
    for level in range(1, LEVELS):
        above = store(level, tuple(-(-n // 2) for n in array.shape), array.dtype)
        for z in range(0, above.shape[0], SHARD):
            _by_shards(above, _local_mean(np.asarray(array[2 * z : 2 * (z + SHARD)])), z)
        array = above
    return out


def tensorstore_slabs(source: Path, out: Path) -> Path:
    """A slab of one shard's depth at a time in one transaction; levels by its own downsampling of what is stored."""
    import tensorstore as ts

    context = ts.Context({"cache_pool": {"total_bytes_limit": 0}})
    codecs = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "zstd", "configuration": {"level": 1}}]
    sharding = {
        "name": "sharding_indexed",
        "configuration": {"chunk_shape": [CHUNK] * 3, "codecs": codecs},
    }

    def store(level: int, shape: tuple[int, ...], dtype: str) -> Any:
        metadata = {
            "shape": list(shape), "data_type": dtype, "codecs": [sharding],
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [SHARD] * 3}},
        }  # fmt: skip
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{out}/{level}/"}, "metadata": metadata}
        return ts.open(spec, create=True, context=context).result()

    with tifffile.TiffFile(source) as file:
        shape = (len(file.pages), *file.pages[0].shape)
        array = store(0, shape, file.pages[0].dtype.name)
        for z in range(0, shape[0], SHARD):
            slab = file.asarray(key=slice(z, z + SHARD)).reshape(-1, *shape[1:])
            with ts.Transaction() as transaction:
                array.with_transaction(transaction)[z : z + len(slab)] = slab
    for level in range(1, LEVELS):
        halved = ts.downsample(array, [2, 2, 2], "mean")
        above = store(level, halved.shape, array.dtype.name)
        for z in range(0, above.shape[0], SHARD):
            with ts.Transaction() as transaction:
                end = min(z + SHARD, above.shape[0])
                above.with_transaction(transaction)[z:end] = halved[z:end].read().result()
        array = above
    return out


CONTENDERS: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "emporter": (emporter, "converter"),
    "tensorstore slabs": (tensorstore_slabs, "tensorstore"),
    "zarr-python slabs": (zarr_python, "zarr"),
    "ome-zarr-py": (ome_zarr_py, "ome_zarr"),
    "ngff-zarr": (ngff_zarr, "ngff_zarr"),
}


def _by_shards(array: Any, slab: NDArray[Any], z: int) -> None:
    for y in range(0, array.shape[1], SHARD):
        for x in range(0, array.shape[2], SHARD):
            array[z : z + SHARD, y : y + SHARD, x : x + SHARD] = slab[:, y : y + SHARD, x : x + SHARD]


def _local_mean(voxels: NDArray[Any]) -> NDArray[Any]:
    from converter.downsampling import mean

    return mean(voxels, (2, 2, 2))


@dataclass(slots=True)
class Result:
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    rss: float = 0.0
    stored: float = 0.0


def one(name: str, source: Path, out: Path) -> None:
    """In a process of its own: convert, then say how long it took and the most memory it held."""
    convert, _ = CONTENDERS[name]
    warm = out.with_name(out.name + "-warm")
    # Imports, thread pools and compiled loops: a conversion of a small file first.
    small = out.with_name(out.name + "-small.tif")
    phantom(small, (8, 64, 64), "uint8", None)
    convert(small, warm)
    began, worked = time.perf_counter(), time.process_time()
    path = convert(source, out)
    seconds = time.perf_counter() - began
    cpu = time.process_time() - worked
    # Not ru_maxrss, which begins at what the parent held when it started us.
    status = Path("/proc/self/status").read_text()
    rss = int(status.split("VmHWM:")[1].split()[0]) * 1024
    small.unlink()
    shutil.rmtree(warm, ignore_errors=True)
    print(json.dumps({"seconds": seconds, "cpu": cpu, "rss": rss, "path": str(path)}))


def check(path: Path, source: Path) -> None:
    """Level 0 is the source, by TensorStore; the mean of level 1 is that of level 0 within half a grey value."""
    import tensorstore as ts

    levels = [p for p in sorted(path.iterdir()) if (p / "zarr.json").exists()]
    arrays = [ts.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{p}/"}}).result() for p in levels[:2]]
    voxels = tifffile.imread(source)
    np.testing.assert_array_equal(arrays[0].read().result(), voxels)
    assert abs(float(arrays[1].read().result().mean(dtype=np.float64)) - float(voxels.mean(dtype=np.float64))) < 0.6


def measured(name: str, source: Path, out: Path, *, checked: bool) -> tuple[float, float, float, float]:
    command = [sys.executable, __file__, "--one", name, str(source), str(out)]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
    answer = json.loads(said)
    path = Path(answer["path"])
    if checked:
        check(path, source)
    stored = sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    shutil.rmtree(out, ignore_errors=True)
    return answer["seconds"], answer["cpu"], answer["rss"], stored


def contenders(only: list[str]) -> Iterator[str]:
    for name, (_, module) in CONTENDERS.items():
        if only and name not in only:
            continue
        if find_spec(module) is None:
            print(f"{name}: left out, {module} is not installed", file=sys.stderr)
            continue
        yield name


def report(results: dict[tuple[str, str], Result], names: list[str], rounds: int) -> None:
    print(
        f"\nMedians of {rounds} interleaved rounds; the ratio is the median over rounds of emporter's speed over the other's.\n"
    )
    print("| input | contender | MB/s | emporter / it | MB per CPU second | peak RSS, MB | stored / input |")
    print("|---|---|---|---|---|---|---|")
    for which, (shape, dtype, _) in INPUTS.items():
        size = np.prod(shape) * np.dtype(dtype).itemsize
        for name in names:
            result = results.get((which, name))
            if result is None:
                continue
            speed = size / 1e6 / statistics.median(result.seconds)
            ours = results.get((which, "emporter"))
            ratio = statistics.median(b / a for a, b in zip(ours.seconds, result.seconds, strict=True)) if ours else 0
            work = size / 1e6 / statistics.median(result.cpu)
            print(
                f"| {which} | {name} | {speed:.0f} | {ratio:.2f} | {work:.0f} | {result.rss / 1e6:.0f} | {result.stored / size:.2f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--inputs", nargs="*", default=list(INPUTS))
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--one", nargs=3, metavar=("NAME", "SOURCE", "OUT"))
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments.one[0], Path(arguments.one[1]), Path(arguments.one[2]))
        return
    names = list(contenders(arguments.only))
    results: dict[tuple[str, str], Result] = {}
    with tempfile.TemporaryDirectory(prefix="emporter-bench-", dir=arguments.folder) as folder:
        root = Path(folder)
        for which in arguments.inputs:
            source = root / "input.tif"
            phantom(source, *INPUTS[which])
            for n in range(arguments.rounds):
                for name in names:
                    seconds, cpu, rss, stored = measured(name, source, root / "out", checked=n == 0)
                    result = results.setdefault((which, name), Result())
                    result.seconds.append(seconds)
                    result.cpu.append(cpu)
                    result.rss, result.stored = max(result.rss, rss), stored
                    print(f"{which} {name}: {seconds:.2f} s, {cpu:.2f} CPU s, {rss / 1e6:.0f} MB", file=sys.stderr)
    report(results, names, arguments.rounds)


if __name__ == "__main__":
    main()
