"""Asking for crops, over HTTP and in this process, and how long it took. The client is plain sockets, so that it takes little."""

from __future__ import annotations

import asyncio
import socket
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import uvloop

CROP = 128
"""Voxels along each axis."""
Place = tuple[int, int, int]


@dataclass
class Measured:
    """Crops per second of one contender, round by round, and how long single requests took."""

    name: str
    connections: int
    rates: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    crops: int = 0
    processor: float = 0.0
    """Milliseconds of processor time that its server took for them (the client apart), which what other programs do beside it
    changes little."""

    def note(self, taken: list[float], seconds: float, each: int = 1) -> None:
        """One round: `taken` of single requests, of `each` crops."""
        self.rates.append(len(taken) * each / seconds)
        self.crops += len(taken) * each
        self.seconds.extend(taken)

    def row(self, body: int) -> str:
        """Of the table; `body` is the bytes of a crop."""
        rate, low, high = statistics.median(self.rates), min(self.rates), max(self.rates)
        p50, p95, p99 = np.percentile(self.seconds, [50, 95, 99]) * 1e3
        times = " | ".join(f"{p:.1f}" for p in (p50, p95, p99))
        spent = f"{self.processor / self.crops:.2f}" if self.processor else ""
        return f"| {self.name} | {self.connections} | {rate:.0f} | {rate * body / 1e6:.0f} | {times} | {low:.0f}-{high:.0f} | {spent} |"


@dataclass(frozen=True)
class Ask:
    """One HTTP request: what is sent, and how many bytes are answered."""

    sent: bytes
    body: int

    @classmethod
    def get(cls, path: str, body: int) -> Ask:
        return cls(f"GET {path} HTTP/1.1\r\nHost: bench\r\nAccept: */*\r\n\r\n".encode(), body)

    @classmethod
    def post(cls, path: str, content: bytes, body: int) -> Ask:
        head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        return cls(head.encode() + content, body)


_memory: list[bytearray] = []
"""Of each connection there may be at once. Touched when it is made: whoever is measured first would pay for that."""


def _room(number: int, size: int) -> memoryview:
    while len(_memory) <= number:
        _memory.append(bytearray())
    if len(_memory[number]) < size:
        _memory[number] = bytearray(b"\1" * size)
    return memoryview(_memory[number])


class Connection:
    """One keep-alive connection that reads bodies into the same memory again and again: the `number`th of a process."""

    def __init__(self, port: int, largest: int, number: int = 0) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._memory = _room(number, largest + 65536)

    def ask(self, ask: Ask) -> memoryview:
        """The body; raises where it is not a 200 of that many bytes."""
        self._socket.sendall(ask.sent)
        held, memory, head = 0, self._memory, -1
        while head < 0:
            held += self._received(memory[held:])
            head = bytes(memory[: min(held, 8192)]).find(b"\r\n\r\n")
        said = bytes(memory[:head]).decode(errors="replace")
        if "200 OK" not in said.splitlines()[0] or f"content-length: {ask.body}\r" not in said.lower() + "\r":
            raise RuntimeError(bytes(memory[:held]).decode(errors="replace")[:2000])
        stop = head + 4 + ask.body
        while held < stop:
            held += self._received(memory[held:stop])
        return memory[head + 4 : stop]

    def _received(self, memory: memoryview) -> int:
        count = self._socket.recv_into(memory)
        if count == 0:
            raise RuntimeError("the server hung up")
        return count

    def close(self) -> None:
        self._socket.close()


def over_http(
    port: int, asks: Sequence[Ask], connections: int, seconds: float, into: Measured, each: int = 1, least: int = 1
) -> None:
    """Ask in turn over so many connections, each its own part of `asks`, for a time; every connection `least` times at least."""
    done = threading.Event()
    largest = max(ask.body for ask in asks)
    ready = [Connection(port, largest, number) for number in range(connections)]

    def ask(number: int) -> list[float]:
        taken, k = [], number
        while not (len(taken) >= least and done.is_set()):
            began = time.perf_counter()
            ready[number].ask(asks[k % len(asks)])
            taken.append(time.perf_counter() - began)
            k += connections
        return taken

    with ThreadPoolExecutor(connections) as pool:
        began = time.perf_counter()
        running = [pool.submit(ask, number) for number in range(connections)]
        threading.Timer(seconds, done.set).start()
        taken = [one for each_one in running for one in each_one.result()]
        into.note(taken, time.perf_counter() - began, each)
    for connection in ready:
        connection.close()


def by_tensorstore(array: Any, at: Sequence[Place], connections: int, seconds: float, into: Measured) -> None:
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
    into.note(taken, time.perf_counter() - began)


def by_slicing(array: Any, at: Sequence[Place], connections: int, seconds: float, into: Measured) -> None:
    """The same crops by `array[...]` in this process, in so many threads."""
    until = time.perf_counter() + seconds

    def ask(number: int) -> list[float]:
        k, taken = number, []
        while time.perf_counter() < until:
            began = time.perf_counter()
            z, y, x = at[k % len(at)]
            array[z : z + CROP, y : y + CROP, x : x + CROP]
            taken.append(time.perf_counter() - began)
            k += connections
        return taken

    began = time.perf_counter()
    with ThreadPoolExecutor(connections) as pool:
        taken = [one for each in pool.map(ask, range(connections)) for one in each]
    into.note(taken, time.perf_counter() - began)


Run = Callable[[Measured], None]
