"""Fetching beside a plain copy of the same bytes.

Many small objects: a Zarr v2 in a public bucket, chunks of 64 KB, as OpenOrganelle serves them, beside this machine and 50 ms away; one
large object: a TIFF behind HTTP with ranges, as EPFL's. The archives are processes of their own on this machine. The link is a plain loop of obstore over the same objects:
get from the archive, put to the same kind of store, as many at once as the fetcher may. Rounds are interleaved.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import obstore
import tifffile
from obstore.store import HTTPStore

from emporter.testing import RunningStack, running_stack
from emporter_archives import arrays, openorganelle
from emporter_archives.s3 import S3Server
from emporter_archives.server import FileServer
from emporter_contracts.commands import IngestRequest
from emporter_contracts.jobs import JobStatus
from emporter_runtime.objects import Objects

CHUNK = 32
"""Voxels along each axis, int16, stored as they are: 64 KB."""
CONNECTIONS = {"small": 32, "large": 4}
FAR_SECONDS = 0.05
"""Before each piece of a body of an archive that is far away: what a bucket on another continent takes."""

COLUMNS = (
    "what",
    "store",
    "plain copy, s",
    "planning, s",
    "fetching, s",
    "manifest, s",
    "MB/s",
    "objects/s",
    "copy over fetch (least to most)",
    "fetcher's peak RSS, MB",
)


def serve(kind: str, size: int, pace: float) -> None:
    """An archive until its standard input ends; its address on standard output."""
    if kind == "small":
        edge = round(size ** (1 / 3))
        server = S3Server()
        folder = f"{openorganelle.DATASET}/{openorganelle.DATASET}.zarr"
        group = {".zgroup": b'{"zarr_format": 2}', ".zattrs": arrays.ome_zattrs(openorganelle.LEVELS[:1])}
        voxels = openorganelle.em((edge * CHUNK,) * 3)
        server.put_all(folder, {".zgroup": b'{"zarr_format": 2}', "recon-2/.zgroup": b'{"zarr_format": 2}'})
        server.put_all(f"{folder}/recon-2/em/fibsem-int16", group | arrays.zarr2(voxels, (CHUNK,) * 3, path="s0"))
    else:
        server = FileServer()
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / "large.tif"
            plane = np.random.default_rng(0).integers(0, 255, (1000, 1000), np.uint8)
            tifffile.imwrite(path, (np.roll(plane, z) for z in range(size)), shape=(size, 1000, 1000), dtype=np.uint8)
            server.put("/large.tif", path.read_bytes())
    server.pace = lambda path: pace if path in server.files else 0.0
    with server:
        paths = [path for path in server.files if path.endswith(".tif") or re.search(r"/s0/\d", path)]
        print(
            json.dumps({"url": server.url(""), "paths": paths, "bytes": sum(len(server.files[p].content) for p in paths)}),
            flush=True,
        )
        sys.stdin.read()


@contextmanager
def archive(kind: str, size: int, pace: float) -> Iterator[dict[str, Any]]:
    """A process that serves; its address, the paths of its objects, their bytes."""
    command = [sys.executable, __file__, "--serve", kind, "--size", str(size), "--pace", str(pace)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
        process.stdin.close()


async def copy(served: dict[str, Any], objects: Objects, kind: str, round_: int) -> float:
    """The link: seconds of the plain loop."""
    source = HTTPStore.from_url(served["url"], client_options={"allow_http": True})
    turns = asyncio.Semaphore(CONNECTIONS[kind])
    step = 64 * 2**20

    async def one(path: str, k: int, start: int, length: int) -> None:
        async with turns:
            data = await obstore.get_range_async(source, path.lstrip("/"), start=start, length=length)
            await objects.put("emporter-raw", f"link/{round_}{path}/{k}", bytes(data))

    sizes = {path: served["bytes"] // len(served["paths"]) for path in served["paths"]}
    began = time.monotonic()
    pieces = [(p, k, a, min(step, n - a)) for p, n in sizes.items() for k, a in enumerate(range(0, n, step))]
    await asyncio.gather(*(one(*piece) for piece in pieces))
    return time.monotonic() - began


def fetched(stack: RunningStack, request: IngestRequest) -> tuple[float, float, float]:
    """Seconds from the request to a plan (every object listed, sized, versioned), to all stored, to all hashed and in the manifest."""
    client = stack.client()
    began = time.monotonic()
    job = client.ingest(request).job
    planned = stored = None
    for state in client.watch(job):
        if not isinstance(state, JobStatus):
            continue
        if planned is None and state.fetch.total:
            planned = time.monotonic() - began
        if stored is None and state.fetch.total and state.fetch.done == state.fetch.total:
            stored = time.monotonic() - began
        if state.convert.total or not state.state.running:
            break
    whole = time.monotonic() - began
    client.cancel(job) if state.state.running else None
    return planned or whole, stored or whole, whole


def peak_mb(stack: RunningStack) -> float:
    status = Path(f"/proc/{stack.process('fetcher').pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) * 1024 / 1e6


def measure(kind: str, size: int, store: Literal["s3", "file"], rounds: int, pace: float = 0.0) -> None:
    """One line of the table."""
    with archive(kind, size, pace) as served, tempfile.TemporaryDirectory(prefix="emporter-bench-") as place:
        env = {
            "EMPORTER_OPENORGANELLE_ENDPOINT": served["url"],
            "EMPORTER_URL_ALLOWED_HOSTS": "127.0.0.1",
            "EMPORTER_URL_ALLOW_PRIVATE": "true",
        }
        with running_stack(Path(place) / "stack", store=store, env=env) as stack:
            took = []
            for n in range(rounds):
                link = asyncio.run(copy(served, stack.objects(), kind, n))
                force: Literal["no", "fetch"] = "no" if n == 0 else "fetch"
                if kind == "small":
                    request = IngestRequest(source="openorganelle", source_id=openorganelle.DATASET, force=force)
                else:
                    request = IngestRequest(source="url", source_id=served["url"] + "/large.tif", force=force)
                took.append((link, *fetched(stack, request)))
            link, planned, stored, whole = (statistics.median(t[k] for t in took) for k in range(4))
            ratios = [t[0] / (t[2] - t[1]) for t in took]
            objects, mb = len(served["paths"]), served["bytes"] / 1e6
            cells = (
                f"{kind}{', far' if pace else ''}: {objects:,} of {mb / objects:.3g} MB",
                store,
                *(f"{seconds:.1f}" for seconds in (link, planned, stored - planned, whole - stored)),
                f"{mb / (stored - planned):.0f}",
                f"{objects / (stored - planned):.0f}",
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                f"{peak_mb(stack):.0f}",
            )
            print("|", " | ".join(cells), "|", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--objects", type=int, default=4096)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--store", choices=["file", "s3"], action="append")
    parser.add_argument("--serve", choices=["small", "large"], help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--pace", type=float, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        serve(chosen.serve, chosen.size, chosen.pace)
        return 0
    print("|", " | ".join(COLUMNS), "|")
    print("|" + "---|" * len(COLUMNS))
    for store in chosen.store or ["file", "s3"]:
        measure("small", chosen.objects, store, chosen.rounds)
        measure("small", chosen.objects, store, chosen.rounds, FAR_SECONDS)
        measure("large", chosen.megabytes, store, chosen.rounds)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("NO_PROXY", "127.0.0.1")
    sys.exit(main())
