"""Which inner chunk: conversion, objects and crops by chunk, shard and store: `python tests/bench/convert_chunks.py [--rounds 5]`.

Every layout is converted by the core and cropped by TensorStore without a cache, 128³ boxes at random unaligned places, eight in
flight; in turn, round by round. Ratios are medians over rounds against the first row of the same store.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from convert_inputs import phantom

from converter.testing import Run, a_run
from emporter_contracts import storage
from emporter_contracts.commands import Output
from emporter_runtime.objects import Objects
from emporter_runtime.testing import file_store, s3_server

SHAPE = (256, 512, 512)
CROP = 128
CROPS = 48
IN_FLIGHT = 8
LAYOUTS = {
    "64³ in 64x512x512": Output(chunk=(64, 64, 64), shard=(64, 512, 512), codec="zstd"),
    "64³ in 256³": Output(chunk=(64, 64, 64), shard=(256, 256, 256), codec="zstd"),
    "32³ in 64x512x512": Output(chunk=(32, 32, 32), shard=(64, 512, 512), codec="zstd"),
    "32³ in 256³": Output(chunk=(32, 32, 32), shard=(256, 256, 256), codec="zstd"),
    "64³, no shards": Output(chunk=(64, 64, 64), shard=(64, 64, 64), codec="zstd"),
}


@dataclass(slots=True)
class Row:
    convert: list[float] = field(default_factory=list)
    crops: list[float] = field(default_factory=list)
    objects: int = 0
    stored: int = 0


def boxes() -> Iterator[tuple[slice, ...]]:
    random = np.random.default_rng(1)
    for _ in range(CROPS):
        yield tuple(slice(a, a + CROP) for a in (int(random.integers(0, n - CROP + 1)) for n in SHAPE))


def cropped(objects: Objects, voxels: Any, *, check: bool) -> float:
    """Seconds for all crops."""
    spec = {"driver": "zarr3", "kvstore": objects.kvstore(storage.VOLUMES, f"{storage.zarr_root('url-brain', 1)}0/")}
    array = ts.open(spec, open=True, context=ts.Context({"cache_pool": {"total_bytes_limit": 0}})).result()
    began, flying = time.perf_counter(), []
    for box in boxes():
        flying.append((box, array[box].read()))
        if len(flying) == IN_FLIGHT:
            where, future = flying.pop(0)
            found = future.result()
            if check:
                np.testing.assert_array_equal(found, voxels[where])
    for _, future in flying:
        future.result()
    return time.perf_counter() - began


def one(row: Row, run: Run, objects: Objects, voxels: Any, *, check: bool) -> None:
    run.shards.clear()
    began = time.perf_counter()
    run.write(objects, run.plan().volumes[0])
    row.convert.append(time.perf_counter() - began)
    row.objects = sum(len(shards) for shards in run.shards.values())
    row.stored = sum(shard.bytes for shards in run.shards.values() for shard in shards)
    row.crops.append(cropped(objects, voxels, check=check))


def main(rounds: int) -> None:
    voxels = phantom(SHAPE, "uint8")
    rows: dict[tuple[str, str], Row] = {}
    with tempfile.TemporaryDirectory(prefix="emporter-bench-") as folder, ExitStack() as stack:
        root = Path(folder)
        far = Objects.open(stack.enter_context(s3_server(root / "s3")))
        for n in range(rounds + 1):
            for name, output in LAYOUTS.items():
                run = a_run(voxels, output=output)
                for store in ("files", "S3"):
                    near = root / "near"
                    objects = far if store == "S3" else Objects.open(file_store(near))
                    row = rows.setdefault((store, name), Row())
                    one(row, run, objects, voxels, check=n == 0)
                    for key in objects.sizes_sync(storage.VOLUMES, ""):
                        objects.store(storage.VOLUMES).delete(key)
                    shutil.rmtree(near, ignore_errors=True)
            if n == 0:  # imports, compiled loops, connections
                for row in rows.values():
                    row.convert.clear()
                    row.crops.clear()
    report(rows)


def report(rows: dict[tuple[str, str], Row]) -> None:
    size = np.prod(SHAPE) / 1e6
    first = next(iter(LAYOUTS))
    print(
        "| store | chunk and shard | convert, MB/s | of the first | 128³ crops/s | of the first (least to most) | objects | stored / input |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for store in ("files", "S3"):
        base = rows[store, first]
        for name in LAYOUTS:
            row = rows[store, name]
            speed = statistics.median(a / b for a, b in zip(base.convert, row.convert, strict=True))
            crops = [a / b for a, b in zip(base.crops, row.crops, strict=True)]
            print(
                f"| {store} | {name} | {size / statistics.median(row.convert):.0f} | {speed:.2f} | {CROPS / statistics.median(row.crops):.0f} "
                f"| {statistics.median(crops):.2f} ({min(crops):.2f} to {max(crops):.2f}) | {row.objects} | {row.stored / 1e6 / size:.2f} |"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    main(parser.parse_args().rounds)
