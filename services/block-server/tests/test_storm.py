"""Many clients at once, slow ones, and such as hang up. EMPORTER_STORM_SECONDS=60 makes it last a minute (default: a few seconds)."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest

from block_server.arrays import OpenVolume
from block_server.testing import House, Made, house_on, serving_process
from emporter_runtime.testing import file_store

SECONDS = float(os.environ.get("EMPORTER_STORM_SECONDS", "4"))
CONNECTIONS, SLOW, BUSY = 1000, 200, 12
"""In all; of them those that read slowly; of them twice those that never rest: readers, and such as hang up."""
MIB = 2**20
IN_FLIGHT, CACHE, PASSING = 64 * MIB, 32 * MIB, 32 * MIB


@pytest.fixture
def stormed(tmp_path: Path) -> Iterator[tuple[str, int, Made]]:
    """A server process of its own with little memory: its URL, its process, a volume."""
    voxels = np.random.default_rng(0).integers(0, 256, (192, 256, 256), dtype="u1")
    made = Made(voxels, name="storm", chunk=(64, 64, 64), shard=(128, 128, 128), halvings=())
    settings = {
        "EMPORTER_BLOCKS_CACHE_BYTES": str(CACHE),
        "EMPORTER_BLOCKS_IN_FLIGHT_BYTES": str(IN_FLIGHT),
        "EMPORTER_BLOCKS_PASSTHROUGH_BYTES": str(PASSING),
        "EMPORTER_BLOCKS_WAIT_SECONDS": "1",
    }
    with serving_process(file_store(tmp_path), made, settings) as (url, pid):
        yield url, pid, made


def resident(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


def connected(url: str, request: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    connection.settimeout(60)
    connection.connect((host, int(port)))
    connection.sendall(request.encode())
    return connection


def block(made: Made, rng: random.Random, largest: int = 128) -> tuple[str, tuple[slice, ...]]:
    shape = [rng.randint(min(8, largest), largest) for _ in range(3)]
    at = [rng.randint(0, n - s) for n, s in zip(made.voxels.shape, shape, strict=True)]
    path = f"/v1/volumes/{made.ref}/block?origin={','.join(map(str, at))}&shape={','.join(map(str, shape))}"
    return path, tuple(slice(a, a + s) for a, s in zip(at, shape, strict=True))


def bytes_of(made: Made, where: tuple[slice, ...]) -> bytes:
    return np.ascontiguousarray(made.voxels[where]).tobytes()


@dataclass
class Storm:
    """What all clients of a storm share."""

    url: str
    made: Made
    until: float = float("inf")
    seen: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    """Answers by kind of client."""
    cut: int = 0
    """Slow readers that were given up in the middle of a body, as is said of them."""
    wrong: list[str] = field(default_factory=list)

    @property
    def whole(self) -> str:
        return f"/v1/volumes/{self.made.ref}/block?shape={','.join(map(str, self.made.voxels.shape))}"

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self.until

    def answered(self, kind: str, status: int, retry_after: str | None, path: str) -> None:
        self.seen[kind][status] += 1
        if status == 503 and not retry_after:
            self.wrong.append(f"no Retry-After: {path}")

    def reads(self, number: int) -> None:
        """Any block, as fast as it comes."""
        rng = random.Random(number)
        with httpx.Client(base_url=self.url, timeout=60) as web:
            while self.goes_on:
                path, where = block(self.made, rng)
                answer = web.get(path)
                self.answered("readers", answer.status_code, answer.headers.get("retry-after"), path)
                if answer.status_code == 200 and answer.content != bytes_of(self.made, where):
                    self.wrong.append(path)

    def hangs_up(self, number: int) -> None:
        """Asks, takes a little or nothing, and is gone."""
        rng = random.Random(number)
        while self.goes_on:
            path = self.whole if rng.random() < 0.5 else block(self.made, rng)[0]
            with connected(self.url, f"GET {path} HTTP/1.1\r\nHost: t\r\n\r\n") as one:
                if rng.random() < 0.7:
                    one.recv(rng.randint(1, 100_000))


class Line:
    """One connection that stays open, as little of it as a client in a hurry would read."""

    def __init__(self, storm: Storm, kind: str, rng: random.Random) -> None:
        self._storm, self._kind, self._rng = storm, kind, rng
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def open(self) -> None:
        one = connected(self._storm.url, "")
        one.setblocking(False)
        self._reader, self._writer = await asyncio.open_connection(sock=one, limit=32768)

    async def ask(self, path: str) -> tuple[int, int, float]:
        """The status of the answer, how long its body is, and after how many seconds it may be asked again."""
        self._writer.write(f"GET {path} HTTP/1.1\r\nHost: t\r\n\r\n".encode())
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        status, said = int(head.split(" ")[1]), dict(line.split(": ", 1) for line in head.splitlines()[1:] if line)
        self._storm.answered(self._kind, status, said.get("retry-after"), path)
        return status, int(said["content-length"]), float(said.get("retry-after", 0))

    async def small(self) -> int:
        """A small block over this very connection; what was answered."""
        path, where = block(self._storm.made, self._rng, 8)
        status, size, _ = await self.ask(path)
        body = await self._reader.readexactly(size)
        if status == 200 and body != bytes_of(self._storm.made, where):
            self._storm.wrong.append(path)
        return status

    async def stays(self) -> None:
        """A small block now and then, and nothing in between."""
        while self._storm.goes_on:
            await asyncio.sleep(self._rng.uniform(1, 6))  # its pace
            await self.small()

    async def slow(self, *, takes_any: bool) -> None:
        """The whole volume, which is more than sockets hold: a little at a time, or nothing after the first bytes; and again."""
        while self._storm.goes_on:
            status, size, patience = await self.ask(self._storm.whole)
            if status == 200:
                await self._takes(takes_any=takes_any)
            else:
                await self._reader.readexactly(size)
                await asyncio.sleep(patience)  # as the server says
            self.close()
            await self.open()
        self.close()

    async def _takes(self, *, takes_any: bool) -> None:
        whole, got = memoryview(self._storm.made.voxels).cast("B"), 0
        while got < len(whole) and self._storm.goes_on:
            if takes_any or got == 0:
                try:
                    piece = await self._reader.read(32768)
                except ConnectionError:
                    piece = b""
                if not piece:
                    self._storm.cut += 1
                    return
                if piece != whole[got : got + len(piece)]:
                    self._storm.wrong.append(f"{self._storm.whole} at byte {got}")
                got += len(piece)
            await asyncio.sleep(0.02)  # its pace

    def close(self) -> None:
        self._writer.close()


async def lines(storm: Storm, begun: threading.Event) -> list[int]:
    """All that stay on the line, for as long as it storms; what a small block over each idle one is answered when it is over."""
    staying = [Line(storm, "idle", random.Random(k)) for k in range(CONNECTIONS - SLOW - 2 * BUSY)]
    slow = [Line(storm, "slow", random.Random(k)) for k in range(SLOW)]
    for one in [*staying, *slow]:
        await one.open()
    for one in staying:
        await one.small()
    storm.until = time.monotonic() + SECONDS
    begun.set()
    async with asyncio.TaskGroup() as group:
        for k, one in enumerate(slow):
            group.create_task(one.slow(takes_any=k % 2 == 0))
        for one in staying:
            group.create_task(one.stays())
    after = [await one.small() for one in staying]
    for one in staying:
        one.close()
    return after


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_thousand_connections_slow_readers_and_such_as_hang_up_leave_the_server_as_it_was(stormed):
    url, pid, made = stormed
    storm, begun = Storm(url, made), threading.Event()
    assert httpx.get(url + storm.whole, timeout=60).content == made.voxels.tobytes()
    before = resident(pid)
    with ThreadPoolExecutor(2 * BUSY + 1) as pool:
        staying = pool.submit(asyncio.run, lines(storm, begun))
        staying.add_done_callback(lambda _: begun.set())
        begun.wait()
        running = [pool.submit(work, k) for work in (storm.reads, storm.hangs_up) for k in range(BUSY)]
        after = staying.result()
        for one in running:
            one.result()
    grown = resident(pid) - before
    said = {kind: dict(counted) for kind, counted in storm.seen.items()}
    print(
        f"{SECONDS:.0f} s, {CONNECTIONS} connections: answers {said}, {storm.cut} bodies cut off, "
        f"RSS {before / MIB:.0f} MiB before, {grown / MIB:.0f} more"
    )
    assert not storm.wrong
    assert {status for counted in said.values() for status in counted} == {200, 503}
    # It was too much for it: some were turned away, with a Retry-After (else it is `wrong`).
    assert sum(counted.get(503, 0) for counted in said.values()) > 0, said
    # What it may hold, with what the allocator and the interpreter take beside; not what a thousand answers would be.
    assert grown < IN_FLIGHT + PASSING + CACHE + 192 * MIB
    # Afterwards everyone is served: who stayed on the line, who reads slowly, and who reads at once.
    assert after == [200] * (CONNECTIONS - SLOW - 2 * BUSY)
    eventually_all_given_back(url)
    assert slowly(url, storm.whole).endswith(made.voxels.tobytes())
    assert httpx.get(url + storm.whole, timeout=60).content == made.voxels.tobytes()


def slowly(url: str, path: str) -> bytes:
    """An answer, head and all, as one takes it that reads a little at a time."""
    with connected(url, f"GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n") as one:
        return b"".join(iter(lambda: one.recv(4096), b""))


def eventually_all_given_back(url: str) -> None:
    until = time.monotonic() + 60
    while 'emporter_blocks_held_bytes{kind="voxels"} 0.0' not in httpx.get(f"{url}/metrics", timeout=60).text:
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[tuple[House, Made]]:
    voxels = np.random.default_rng(0).integers(0, 256, (128, 512, 512), dtype="u1")
    with house_on(file_store(tmp_path), blocks_in_flight_bytes=64 * MIB, blocks_wait_seconds=30) as house:
        yield house, house.commit(Made(voxels, name="crowded", chunk=(64, 64, 64), shard=(128, 256, 256), halvings=()))


def test_who_takes_nothing_while_others_wait_is_given_up_soon(crowded, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("block_server.answers.PATIENCE_SECONDS", 1.0)
    house, made = crowded
    path = f"/v1/volumes/{made.ref}/block?shape=128,512,512"
    silent = [connected(house.url, f"GET {path} HTTP/1.1\r\nHost: t\r\n\r\n") for _ in range(3)]
    for one in silent[:1]:
        assert one.recv(12) == b"HTTP/1.1 200"
    began = time.monotonic()
    assert httpx.get(house.url + path, timeout=60).content == made.voxels.tobytes()
    assert time.monotonic() - began < 30  # not the minute that one has whom nobody waits for
    for one in silent:
        one.close()


def test_what_a_client_asked_for_and_no_longer_wants_is_not_read(crowded, monkeypatch: pytest.MonkeyPatch):
    house, made = crowded
    begun: list[int] = []
    plain = OpenVolume.begin

    def begin(self, level, box, batch=None):
        begun.append(box.size)
        return plain(self, level, box, batch)

    monkeypatch.setattr(OpenVolume, "begin", begin)
    origins = [[0, 0, k] for k in range(256)]
    body = f'{{"shape": [128, 256, 256], "origins": {origins}}}'  # 2 GiB
    head = f"POST /v1/volumes/{made.ref}/blocks HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with connected(house.url, head + body) as one:
        assert one.recv(12) == b"HTTP/1.1 200"
    eventually_all_given_back(house.url)
    assert 0 < len(begun) < 64


def test_who_hangs_up_while_waiting_in_line_is_not_served_later(crowded):
    house, made = crowded
    path = f"/v1/volumes/{made.ref}/block?shape=128,512,512"
    with connected(house.url, f"GET {path} HTTP/1.1\r\nHost: t\r\n\r\n") as holding:
        assert holding.recv(12) == b"HTTP/1.1 200"
        waiting = [connected(house.url, f"GET {path} HTTP/1.1\r\nHost: t\r\n\r\n") for _ in range(5)]
        for one in waiting:
            one.close()
    eventually_all_given_back(house.url)
    text = httpx.get(f"{house.url}/metrics").text
    assert 'emporter_blocks_held_bytes{kind="voxels"} 0.0' in text
