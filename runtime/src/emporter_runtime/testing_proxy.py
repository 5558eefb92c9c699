"""A store as far away as one likes: an HTTP proxy that waits before each request, and remembers what was put. For tests."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress

PIECE = 2**18
"""Bytes relayed at once."""
TROUBLE = (OSError, asyncio.IncompleteReadError)
"""How a connection ends when one side was killed."""


class SlowProxy:
    """Forwards HTTP/1.1 from a free port of the loopback to another; every request waits `delay` seconds, each for itself."""

    def __init__(self, upstream: int, delay: float = 0.0) -> None:
        self.port = 0
        self.requests: Counter[str] = Counter()
        """By method."""
        self.put: dict[str, set[str]] = defaultdict(set)
        """SHA-256 of every body that was put whole, by path."""
        self._upstream = upstream
        self._delay = delay

    async def serve(self, started: threading.Event, stop: asyncio.Event) -> None:
        """Listen until `stop`."""
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, limit=PIECE)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        async with server:
            await stop.wait()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _connection(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        with suppress(*TROUBLE):
            server, forth = await asyncio.open_connection("127.0.0.1", self._upstream, limit=PIECE)
            try:
                with suppress(*TROUBLE, asyncio.CancelledError):
                    while await self._exchange(client, back, server, forth):
                        pass
            finally:
                forth.close()
        back.close()

    async def _exchange(
        self, client: asyncio.StreamReader, back: asyncio.StreamWriter, server: asyncio.StreamReader, forth: asyncio.StreamWriter
    ) -> bool:
        """One request and its answer; whether the connection goes on."""
        head = await _head(client)
        if head is None:
            return False
        method, path, _ = head.split(b" ", 2)
        fields = _fields(head)
        if fields.get("expect") == "100-continue":
            back.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await asyncio.sleep(self._delay)
        self.requests[method.decode()] += 1
        digest = hashlib.sha256()
        forth.write(head.replace(b"Expect: 100-continue\r\n", b"").replace(b"expect: 100-continue\r\n", b""))
        await _relay(client, forth, int(fields.get("content-length", 0)), digest)
        if method == b"PUT":
            self.put[path.decode().split("?")[0]].add(digest.hexdigest())
        answer = await _head(server)
        if answer is None:
            return False
        back.write(answer)
        await _answer(server, back, method, answer)
        return _fields(answer).get("connection") != "close"


async def _answer(server: asyncio.StreamReader, back: asyncio.StreamWriter, method: bytes, head: bytes) -> None:
    fields = _fields(head)
    status = int(head.split(b" ", 2)[1])
    if method == b"HEAD" or status in (204, 304):
        await back.drain()
    elif fields.get("transfer-encoding") == "chunked":
        size = 1
        while size:
            line = await server.readuntil(b"\n")
            size = int(line.split(b";")[0], 16)
            back.write(line)
            await _relay(server, back, size + 2)
    else:
        await _relay(server, back, int(fields.get("content-length", 0)))


async def _head(stream: asyncio.StreamReader) -> bytes | None:
    try:
        return await stream.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None


def _fields(head: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:] if line)
    return {name.strip().lower(): value.strip() for name, _, value in lines}


async def _relay(source: asyncio.StreamReader, to: asyncio.StreamWriter, size: int, digest: hashlib._Hash | None = None) -> None:
    while size:
        piece = await source.read(min(size, PIECE))
        if not piece:
            raise asyncio.IncompleteReadError(b"", size)
        size -= len(piece)
        if digest is not None:
            digest.update(piece)
        to.write(piece)
        await to.drain()
    await to.drain()


@contextmanager
def slow_proxy(upstream: int, delay: float = 0.0) -> Iterator[SlowProxy]:
    """A proxy before the port `upstream`, in a thread of its own, while inside."""
    proxy, started, stop = SlowProxy(upstream, delay), threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(proxy.serve(started, stop))

    thread = threading.Thread(target=run, name="proxy", daemon=True)
    thread.start()
    started.wait()
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
