"""Random unaligned 128³ crops over HTTP, beside other ways to the same stored voxels, and a constant body on the same server.

`python tests/bench/blocks.py [--rounds N] [--seconds S] [--only CASE]`. Everything is measured in turn, round after round, and only ratios
within a round are compared: machines drift. Cold means without a chunk cache (the page cache of the machine is warm), warm means
that every chunk is in it. tiled takes part where `make bench-blocks` has installed it, or EMPORTER_PYTHON_TILED names a Python
that has it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blocks_peers as peers
import numpy as np
from blocks_load import CROP, Ask, Connection, Measured, Place, Run, by_slicing, by_tensorstore, over_http
from numpy.typing import NDArray

from block_server.settings import MIB
from block_server.testing import Made, commit
from emporter_contracts import storage
from emporter_runtime.objects import Objects
from emporter_runtime.testing import file_store, s3_server

CACHE = {"cold": 0, "warm": 1024 * MIB}
BATCH = 64
BATCHES = 5
"""In a round at least: one that takes a third of a round says little."""
SIDE = 512


@dataclass(frozen=True)
class Case:
    """One stored volume, and who reads it."""

    name: str
    store: str
    dtype: str
    codec: Any


CASES = tuple(
    Case(
        f"{dtype}, {'not compressed' if codec == 'none' else codec}, {'files' if store == 'file' else 'S3'}", store, dtype, codec
    )
    for store in ("file", "s3")
    for dtype, packed in (("uint8", "zstd"), ("uint16", "blosc"))
    for codec in (packed, "none")
)


def phantom(dtype: str, seed: int = 0) -> NDArray[Any]:
    """Something that compresses like membranes and organelles in noise: about 1.2 with zstd."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(128, 20, (SIDE // 8,) * 3).astype(np.float32)
    voxels = np.kron(coarse, np.ones((8, 8, 8), np.float32))
    voxels += rng.normal(0, 12, voxels.shape).astype(np.float32)
    return (voxels.clip(0, 255) * (1 if dtype == "uint8" else 200)).astype(dtype)


def origins(count: int, seed: int) -> list[Place]:
    """Where crops begin, drawn uniformly."""
    rng = np.random.default_rng(seed)
    return [tuple(map(int, rng.integers(0, SIDE - CROP + 1, 3))) for _ in range(count)]  # type: ignore[misc]


@dataclass
class Bench:
    """One case: the volume, what a request for a crop is, and everything that is measured, by name and connections."""

    made: Made
    body: int
    at: Sequence[Place]
    seconds: float
    measured: dict[tuple[str, int], tuple[Measured, Run]]

    def path(self, at: Place) -> str:
        return f"/v1/volumes/{self.made.ref}/block?origin={','.join(map(str, at))}&shape={CROP},{CROP},{CROP}"

    def add(self, name: str, connections: int, run: Callable[[int, Measured], None], pid: int | None = None) -> None:
        """Somebody to be measured; `pid` is the process that gives the crops, where its processor time is worth knowing."""

        def measured(into: Measured) -> None:
            if pid is None:
                run(connections, into)
                return
            spent = peers.processor_ms(pid)
            run(connections, into)
            into.processor += peers.processor_ms(pid) - spent

        self.measured[name, connections] = (Measured(name, connections), measured)

    def http(self, name: str, port: int, path: Callable[[Place], str], pid: int | None = None) -> None:
        """A server, alone and with eight connections, after a look whether what it gives is right."""
        asks = [Ask.get(path(one), self.body) for one in self.at]
        connection = Connection(port, self.body)
        for (z, y, x), ask in list(zip(self.at, asks, strict=True))[:4]:
            got = np.frombuffer(connection.ask(ask), self.made.voxels.dtype).reshape((CROP,) * 3)
            if not np.array_equal(got, self.made.voxels[z : z + CROP, y : y + CROP, x : x + CROP]):
                raise RuntimeError(f"{name}: the crop at {z},{y},{x} is wrong")
        connection.close()
        for n in (1, 8):
            self.add(name, n, lambda n, into: over_http(port, asks, n, self.seconds, into), pid)

    def together(self, kind: str, port: int) -> None:
        """The same crops in one request, drawn by us and drawn by the server."""
        places = self.at[:BATCH]
        content = json.dumps({"shape": [CROP] * 3, "origins": places}).encode()
        batch = [Ask.post(f"/v1/volumes/{self.made.ref}/blocks", content, BATCH * self.body)]
        drawn = json.dumps({"n": BATCH, "shape": [CROP] * 3, "seed": 1}).encode()
        sample = [Ask.post(f"/v1/volumes/{self.made.ref}/sample", drawn, BATCH * (self.body + 24))]
        singles = [Ask.get(self.path(one), self.body) for one in places]
        for what, asks in (("blocks", batch), ("sample", sample)):
            self.add(
                f"{BATCH} crops in one POST {what}, {kind}",
                1,
                lambda n, into, asks=asks: over_http(port, asks, n, self.seconds, into, BATCH, BATCHES),
            )
        self.add(f"the same {BATCH} one by one, {kind}", 8, lambda n, into: over_http(port, singles, n, self.seconds, into))


def measure(case: Case, arguments: argparse.Namespace, folder: Path, stack: ExitStack) -> list[Ratio]:
    """Make the volume, measure everything in turn, print the table and the ratios."""
    store = file_store(folder) if case.store == "file" else stack.enter_context(s3_server(folder))
    objects = Objects.open(store)
    made = Made(phantom(case.dtype), codec=case.codec, chunk=(64, 64, 64), shard=(256, 256, 256), halvings=())
    commit(objects, made)
    root = storage.zarr_root(made.name, 1) + "0/"
    kvstore = objects.kvstore(storage.VOLUMES, root)
    bench = Bench(made, CROP**3 * made.voxels.dtype.itemsize, origins(512, seed=1), arguments.seconds, {})
    servers = {kind: stack.enter_context(peers.block_server(store, cache)) for kind, cache in CACHE.items()}
    arrays = {kind: peers.by_tensorstore(kvstore, cache) for kind, cache in CACHE.items()}
    arrays["warm"].read().result()
    port, _ = servers["warm"]
    fill = [Ask.get(bench.path(at), bench.body) for at in corners()]
    connection = Connection(port, bench.body)
    for ask in fill:
        connection.ask(ask)
    connection.close()
    for kind, (port, pid) in servers.items():
        bench.http(f"block-server, {kind}", port, bench.path, pid)
        for n in (1, 8):
            bench.add(
                f"in-process tensorstore, {kind}",
                n,
                lambda n, into, a=arrays[kind]: by_tensorstore(a, bench.at, n, bench.seconds, into),
                os.getpid(),
            )
    constant = [Ask.get(f"/constant/{bench.body}", bench.body)]
    for n in (1, 8):
        bench.add(
            "block-server, constant body",
            n,
            lambda n, into: over_http(servers["warm"][0], constant, n, bench.seconds, into),
            servers["warm"][1],
        )
    add_peers(bench, objects.local_path(storage.VOLUMES, root), kvstore, stack)
    for kind, (port, _) in servers.items():
        bench.together(kind, port)
    bench.seconds = 0.05  # memory that was never touched is slow, whoever comes first
    for one, run in bench.measured.values():
        run(Measured(one.name, one.connections))
    bench.seconds = arguments.seconds
    for _ in range(arguments.rounds):
        for measured, run in bench.measured.values():
            run(measured)
    resident = {kind: peers.resident_mb(pid) for kind, (_, pid) in servers.items()}
    return report(case, bench, arguments, resident)


def add_peers(bench: Bench, folder: Path | None, kvstore: dict[str, Any], stack: ExitStack) -> None:
    """Other servers and libraries on the same objects; `folder` is None where they are in S3, which zarrs can't read from here."""
    where = str(folder) if folder is not None else json.dumps(peers.place_of(kvstore))
    port = stack.enter_context(peers.peer(sys.executable, peers.ZARR_APP, where))
    bench.http("zarr-python behind bare ASGI", port, lambda at: f"/{','.join(map(str, at))}")
    python = peers.python_of_tiled()
    if python is not None:
        port = stack.enter_context(peers.peer(python, peers.TILED_APP, where))
        form = "format=application/octet-stream"
        cut = lambda at: ",".join(f"{a}:{a + CROP}" for a in at)  # noqa: E731
        bench.http("tiled", port, lambda at: f"/api/v1/array/full/a?slice={cut(at)}&{form}")
    if folder is None:
        return
    zarrs = peers.by_zarrs(folder)
    for n in (1, 8):
        bench.add("in-process zarrs", n, lambda n, into: by_slicing(zarrs, bench.at, n, bench.seconds, into))


def corners() -> list[Place]:
    """Crops that touch every chunk."""
    steps = range(0, SIDE - CROP + 1, CROP)
    return [(z, y, x) for z in steps for y in steps for x in steps]


RATIOS = (
    ("cold, to in-process tensorstore", "block-server, cold", "in-process tensorstore, cold", (1, 8), "≥ 0.9"),
    ("warm, to in-process tensorstore", "block-server, warm", "in-process tensorstore, warm", (1, 8), ""),
    ("warm, to a constant body", "block-server, warm", "block-server, constant body", (1, 8), "≥ 0.5"),
    ("cold, to tiled", "block-server, cold", "tiled", (1, 8), "≥ 8"),
    ("cold, to zarr-python behind bare ASGI", "block-server, cold", "zarr-python behind bare ASGI", (1, 8), ""),
    ("cold, to in-process zarrs", "block-server, cold", "in-process zarrs", (1, 8), ""),
)


def report(case: Case, bench: Bench, arguments: argparse.Namespace, resident: dict[str, float]) -> list[Ratio]:
    """The table, and the ratios that DESIGN section 7 aims at."""
    print(f"\n### {case.name}\n")
    print(
        f"{SIDE}³, chunks 64³, shards 256³, {arguments.rounds} interleaved rounds of {arguments.seconds} s; peak RSS of the server: ",
        end="",
    )
    print(", ".join(f"{kind} {mb:.0f} MB" for kind, mb in resident.items()) + "\n")
    print(
        "| | connections | crops/s | MB/s | p50 ms | p95 ms | p99 ms | min-max crops/s | CPU ms |\n|---|---|---|---|---|---|---|---|---|"
    )
    rates: dict[tuple[str, int], list[float]] = {}
    for key, (one, _) in bench.measured.items():
        rates[key] = one.rates
        print(one.row(bench.body))
    found = list(ratios_of(rates))
    print("\n| ratio (median of rounds, spread) | connections | measured | aim |\n|---|---|---|---|")
    for one_ratio in found:
        print(one_ratio.row())
    sys.stdout.flush()
    return found


@dataclass(frozen=True)
class Ratio:
    """One contender over another, round by round."""

    title: str
    connections: str
    each: tuple[float, ...]
    aim: str

    @property
    def median(self) -> float:
        return statistics.median(self.each)

    def row(self) -> str:
        measured = f"{self.median:.2f} ({min(self.each):.2f}-{max(self.each):.2f})"
        return f"| {self.title} | {self.connections} | {measured} | {self.aim} |"


def ratios_of(rates: dict[tuple[str, int], list[float]]) -> Iterator[Ratio]:
    """Of all that was measured."""

    def ratio(title: str, connections: str, over: Sequence[float], under: Sequence[float], aim: str) -> Ratio:
        return Ratio(title, connections, tuple(a / b for a, b in zip(over, under, strict=True)), aim)

    for title, over, under, connections, aim in RATIOS:
        for n in connections:
            if (over, n) in rates and (under, n) in rates:
                yield ratio(title, str(n), rates[over, n], rates[under, n], aim)
    for kind in CACHE:
        singles = rates[f"the same {BATCH} one by one, {kind}", 8]
        for how in ("POST blocks", "POST sample"):
            batch = rates[f"{BATCH} crops in one {how}, {kind}", 1]
            yield ratio(f"{BATCH} crops in one {how}, {kind}, to one by one", "1 : 8", batch, singles, "≥ 1.5")


def summary(found: dict[str, list[Ratio]]) -> None:
    """All cases side by side: medians."""
    rows = list(dict.fromkeys((one.title, one.connections, one.aim) for ratios in found.values() for one in ratios))
    print(f"\n### All of it\n\n| ratio (medians) | connections | {' | '.join(found)} | aim |\n|{'---|' * (len(found) + 3)}")
    for title, connections, aim in rows:
        known = [next((r for r in ratios if (r.title, r.connections) == (title, connections)), None) for ratios in found.values()]
        print(f"| {title} | {connections} | {' | '.join(f'{r.median:.2f}' if r else '' for r in known)} | {aim} |")


def main() -> int:
    """Measure, or with --serve be the server."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.7, help="of one contender in one round")
    parser.add_argument("--only", help="cases whose name holds this text")
    arguments = parser.parse_args()
    if arguments.serve:
        return peers.serve()
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}; the clients are on the same machine."
    )
    if peers.python_of_tiled() is None:
        print(f"tiled is left out: make bench-blocks installs it, or {peers.TILED} names a Python that has it.")
    began = time.monotonic()
    found: dict[str, list[Ratio]] = {}
    for case in CASES:
        if arguments.only is None or arguments.only in case.name:
            with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
                found[case.name] = measure(case, arguments, Path(folder), stack)
    summary(found)
    print(f"\nAll of it took {time.monotonic() - began:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
