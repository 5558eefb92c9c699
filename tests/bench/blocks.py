"""Random unaligned 128³ crops over HTTP, beside in-process TensorStore on the same store and a constant body on the same server.

`python tests/bench/blocks.py [--store file|s3] [--rounds N] [--chunk 64]`. Everything is measured in turn, round after round, and only ratios
within a round are compared: machines drift. Cold means without a chunk cache (the page cache of the machine is warm), warm means
that every chunk is in it. The client is another process with plain sockets, so that it takes little of the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
import uvloop
from numpy.typing import NDArray
from starlette.responses import Response
from starlette.routing import Route

from block_server.app import create_app
from block_server.memory import keep_freed_memory
from block_server.settings import MIB, BlockServerSettings
from block_server.testing import Made, commit
from emporter_contracts import storage
from emporter_runtime.health import serving
from emporter_runtime.objects import Objects
from emporter_runtime.service import forever, run_service
from emporter_runtime.settings import StoreSettings
from emporter_runtime.testing import file_store, s3_server

CROP = 128
"""Voxels along each axis: 2 MiB of 8 bit."""
BODY = bytes(CROP**3)
CACHE = {"cold": 0, "warm": 1024 * MIB}


@dataclass
class Measured:
    """Crops per second of one contender, round by round, and how long single crops took."""

    name: str
    connections: int
    rates: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def row(self) -> str:
        rate, low, high = statistics.median(self.rates), min(self.rates), max(self.rates)
        p50, p95 = np.percentile(self.seconds, [50, 95]) * 1e3
        return f"| {self.name} | {self.connections} | {rate:.0f} | {rate * CROP**3 / 1e6:.0f} | {p50:.1f} | {p95:.1f} | {low:.0f}-{high:.0f} |"


def phantom(side: int, seed: int = 0) -> NDArray[np.uint8]:
    """Something that compresses like membranes and organelles in noise: about 1.2 with zstd."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(128, 20, (side // 8,) * 3).astype(np.float32)
    voxels = np.kron(coarse, np.ones((8, 8, 8), np.float32))
    voxels += rng.normal(0, 12, voxels.shape).astype(np.float32)
    return voxels.clip(0, 255).astype(np.uint8)


def origins(side: int, count: int, seed: int) -> list[tuple[int, int, int]]:
    """Where crops begin, drawn uniformly."""
    rng = np.random.default_rng(seed)
    return [tuple(map(int, rng.integers(0, side - CROP + 1, 3))) for _ in range(count)]


def serve() -> int:
    """The block-server as it is, with one more route that gives a constant body."""

    async def run(settings: BlockServerSettings) -> None:
        app = create_app(settings)

        async def constant(_: Any) -> Response:
            return Response(BODY, media_type="application/octet-stream")

        app.router.routes.append(Route("/constant", constant))
        async with serving(app, settings.http_host, settings.http_port):
            await forever()

    keep_freed_memory()
    return run_service("block-server", BlockServerSettings, run)


@contextmanager
def server(store: StoreSettings, cache_bytes: int) -> Iterator[int]:
    """A server process of its own; yields its port."""
    env = os.environ | {
        "EMPORTER_STORE_URL": store.store_url,
        "EMPORTER_S3_ACCESS_KEY": store.s3_access_key,
        "EMPORTER_S3_SECRET_KEY": store.s3_secret_key.get_secret_value(),
        "EMPORTER_BLOCKS_CACHE_BYTES": str(cache_bytes),
    }
    if store.s3_endpoint:
        env["EMPORTER_S3_ENDPOINT"] = store.s3_endpoint
    process = subprocess.Popen([sys.executable, __file__, "--serve"], env=env, stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr or ():
            if '"listening"' in line:
                threading.Thread(target=lambda: [None for _ in process.stderr or ()], daemon=True).start()
                yield json.loads(line)["port"]
                return
        raise RuntimeError("the server did not start")
    finally:
        process.terminate()
        process.wait(30)


class Connection:
    """One keep-alive connection that reads bodies into the same memory again and again."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._memory = memoryview(bytearray(CROP**3 + 65536))

    def get(self, path: str) -> memoryview:
        """The body of a GET; raises where it is not a 200 of one crop."""
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
        held, memory = 0, self._memory
        while True:
            held += self._socket.recv_into(memory[held:])
            head = bytes(memory[: min(held, 4096)]).find(b"\r\n\r\n")
            if head >= 0:
                break
        if not bytes(memory[:12]) == b"HTTP/1.1 200":
            raise RuntimeError(bytes(memory[:held]).decode(errors="replace"))
        stop = head + 4 + CROP**3
        while held < stop:
            held += self._socket.recv_into(memory[held:stop])
        return memory[head + 4 : stop]

    def close(self) -> None:
        self._socket.close()


def over_http(port: int, paths: Sequence[str], connections: int, seconds: float, into: Measured) -> None:
    """Ask for `paths` in turn over so many connections, each its own part of them, for a time."""
    done = threading.Event()
    taken: list[list[float]] = [[] for _ in range(connections)]

    def ask(number: int) -> None:
        connection = Connection(port)
        k = number
        while not done.is_set():
            began = time.perf_counter()
            connection.get(paths[k % len(paths)])
            taken[number].append(time.perf_counter() - began)
            k += connections
        connection.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(connections)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    done.set()
    for thread in threads:
        thread.join()
    _note(into, [one for each in taken for one in each], time.perf_counter() - began)


def in_process(array: Any, at: Sequence[tuple[int, int, int]], connections: int, seconds: float, into: Measured) -> None:
    """The same crops by TensorStore alone, in this process."""
    taken: list[float] = []

    async def ask(number: int, until: float) -> None:
        k = number
        while time.perf_counter() < until:
            began = time.perf_counter()
            z, y, x = at[k % len(at)]
            await array[z : z + CROP, y : y + CROP, x : x + CROP].read()
            taken.append(time.perf_counter() - began)
            k += connections

    async def all_at_once() -> None:
        until = time.perf_counter() + seconds
        await asyncio.gather(*(ask(number, until) for number in range(connections)))

    began = time.perf_counter()
    uvloop.run(all_at_once())
    _note(into, taken, time.perf_counter() - began)


def _note(into: Measured, taken: list[float], seconds: float) -> None:
    into.rates.append(len(taken) / seconds)
    into.seconds.extend(taken)


def check(port: int, made: Made, at: Sequence[tuple[int, int, int]]) -> None:
    """What is measured is right, too."""
    connection = Connection(port)
    for z, y, x in at:
        got = np.frombuffer(connection.get(path_of(made, (z, y, x))), np.uint8).reshape((CROP,) * 3)
        if not np.array_equal(got, made.voxels[z : z + CROP, y : y + CROP, x : x + CROP]):
            raise RuntimeError(f"the crop at {z},{y},{x} is wrong")
    connection.close()


def path_of(made: Made, at: tuple[int, int, int]) -> str:
    return f"/v1/volumes/{made.ref}/block?origin={','.join(map(str, at))}&shape={CROP},{CROP},{CROP}"


def measure(store: StoreSettings, arguments: argparse.Namespace) -> None:
    """Make the volume, measure everything in turn, print the table and the ratios."""
    objects = Objects.open(store)
    cell = (arguments.chunk,) * 3
    made = commit(objects, Made(phantom(arguments.side), chunk=cell, shard=(256, 256, 256), halvings=()))
    kvstore = objects.kvstore(storage.VOLUMES, storage.zarr_root(made.name, 1) + "0/")
    at = origins(arguments.side, 512, seed=1)
    paths = [path_of(made, one) for one in at]
    with ExitStack() as stack:
        ports = {kind: stack.enter_context(server(store, cache)) for kind, cache in CACHE.items()}
        arrays = {kind: opened(kvstore, cache) for kind, cache in CACHE.items()}
        for port in ports.values():
            check(port, made, at[:8])
        arrays["warm"].read().result()
        over_http(ports["warm"], [path_of(made, one) for one in corners(arguments.side)], 1, 3.0, Measured("fill", 1))
        contenders: dict[tuple[str, int], tuple[Measured, Callable[[Measured], None]]] = {}
        for n in (1, 8):
            for kind in CACHE:
                contenders[f"tensorstore {kind}", n] = _contender(
                    f"in-process tensorstore, {kind}",
                    n,
                    lambda m, k=kind, n=n: in_process(arrays[k], at, n, arguments.seconds, m),
                )
                contenders[f"blocks {kind}", n] = _contender(
                    f"block-server, {kind}", n, lambda m, k=kind, n=n: over_http(ports[k], paths, n, arguments.seconds, m)
                )
            contenders["constant", n] = _contender(
                "block-server, constant body", n, lambda m, n=n: over_http(ports["warm"], ["/constant"], n, arguments.seconds, m)
            )
        for _ in range(arguments.rounds):
            for measured, run in contenders.values():
                run(measured)
    report({key: measured for key, (measured, _) in contenders.items()}, arguments)


def _contender(name: str, n: int, run: Callable[[Measured], None]) -> tuple[Measured, Callable[[Measured], None]]:
    return Measured(name, n), run


def corners(side: int) -> list[tuple[int, int, int]]:
    """Crops that touch every chunk."""
    steps = range(0, side - CROP + 1, CROP)
    return [(z, y, x) for z in steps for y in steps for x in steps]


def opened(kvstore: dict[str, Any], cache: int) -> Any:
    context = ts.Context({"cache_pool": {"total_bytes_limit": cache}})
    spec = {"driver": "zarr3", "kvstore": kvstore, "recheck_cached_data": "open", "fill_missing_data_reads": False}
    return ts.open(spec, open=True, read=True, context=context).result()


def report(measured: dict[tuple[str, int], Measured], arguments: argparse.Namespace) -> None:
    """The table, and the ratios that DESIGN section 7 aims at."""
    print(
        f"\n{arguments.store} store, {arguments.side}³ uint8, chunks {arguments.chunk}³, shards 256³, {arguments.rounds} rounds of {arguments.seconds} s\n"
    )
    print("| | connections | crops/s | MB/s | p50 ms | p95 ms | min-max crops/s |\n|---|---|---|---|---|---|---|")
    for one in measured.values():
        print(one.row)
    print("\n| ratio (median of rounds) | connections | measured | aim |\n|---|---|---|---|")
    for title, over, under, aim in (
        ("cold, to in-process tensorstore", "blocks cold", "tensorstore cold", 0.9),
        ("warm, to in-process tensorstore", "blocks warm", "tensorstore warm", None),
        ("warm, to a constant body", "blocks warm", "constant", 0.5),
    ):
        for n in (1, 8):
            pairs = zip(measured[over, n].rates, measured[under, n].rates, strict=True)
            print(f"| {title} | {n} | {statistics.median(a / b for a, b in pairs):.2f} | {'' if aim is None else f'≥ {aim}'} |")


def main() -> int:
    """Measure, or with --serve be the server."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--store", choices=["file", "s3"], default="file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one contender in one round")
    parser.add_argument("--side", type=int, default=512, help="voxels along each axis of the volume")
    parser.add_argument("--chunk", type=int, default=64)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.store == "file":
            measure(file_store(Path(folder)), arguments)
        else:
            with s3_server(Path(folder)) as store:
                measure(store, arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
