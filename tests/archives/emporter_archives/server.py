"""An HTTP/1.1 file server on loopback, in a thread of its own: ranges, validators, keep-alive, and every fault of `faults`.

It speaks the protocol by hand, since no library would tell the lies it has to tell.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import random
import re
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol, Self
from urllib.parse import parse_qsl

from emporter_archives.faults import (
    Bare,
    Drop,
    Fault,
    Gzip,
    Hangup,
    LyingLength,
    OtherRange,
    ShortRange,
    Silence,
    SmallerRange,
    Stall,
    Status,
    Swap,
    Unsized,
    Whole,
)

PIECE = 256 * 1024
"""Bytes written at once."""
HELD_SECONDS = 0.2
"""Between two bytes of a path that is held."""
LAST_MODIFIED = "Mon, 11 Jun 2018 22:27:00 GMT"

BLOCK = 2**20
"""Of `Blocks`."""

_RANGE = re.compile(r"bytes=(\d+)-(\d*)\Z")


class Content(Protocol):
    """Bytes that need not lie in memory."""

    def __len__(self) -> int: ...

    def __getitem__(self, piece: slice, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Blocks:
    """`size` bytes without keeping them: one random mebibyte again and again, each stamped with its number, so that any wrong
    offset shows."""

    size: int
    seed: int = 0

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, piece: slice) -> bytes:
        start, stop, _ = piece.indices(self.size)
        first, last = start // BLOCK, -(-stop // BLOCK)
        data = b"".join(n.to_bytes(8, "little") + _block(self.seed) for n in range(first, last))
        return data[start - first * BLOCK :][: stop - start]


@dataclass(slots=True)
class File:
    """What lies under one path."""

    content: Content
    etag: str | None
    modified: str | None = LAST_MODIFIED
    ranges: bool = True
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came, and what was answered."""

    path: str
    headers: dict[str, str]
    status: int


class FileServer:
    """Use it as a context manager. Paths are compared as they stand on the wire: a literal %20 stays one."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {}
        self.requests: list[Request] = []
        self.sent: dict[str, int] = defaultdict(int)
        """Body bytes by path."""
        self.open_now = 0
        """Answers under way, and the most there were."""
        self.open_most = 0
        self.pace: Callable[[str], float] = lambda _: 0.0
        """Seconds before each piece of a body, by path: a slow line."""
        self.before_answer: Callable[[str], None] = lambda _: None
        """Called with the path of every request, in the server's thread."""
        self.held: set[str] = set()
        """Paths whose bodies come a byte at a time until they are taken out again: a line that is slow, not dead."""
        self.torn: set[str] = set()
        """Of those the ones whose connection breaks at the next byte."""
        self._faults: dict[str, deque[Fault]] = defaultdict(deque)
        self._always: dict[str, Fault] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="archive", daemon=True)
        self._started = threading.Event()
        self._port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Close every connection and listen no more; harmless when repeated."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def url(self, path: str = "/") -> str:
        return f"http://127.0.0.1:{self._port}{path}"

    @property
    def port(self) -> int:
        return self._port

    def put(
        self, path: str, content: Content, *, etag: str | None = "", ranges: bool = True, modified: str | None = LAST_MODIFIED
    ) -> str:
        """Serve `content`, with an etag made of it unless another (or none) is given; its URL."""
        self.files[path] = File(content, _etag(content) if etag == "" else etag, modified, ranges)
        return self.url(path)

    def misbehave(self, path: str, *faults: Fault) -> None:
        """The next requests of `path` get these, one each."""
        self._faults[path].extend(faults)

    def always(self, path: str, fault: Fault | None) -> None:
        """Every request of `path` gets this; None ends it."""
        if fault is None:
            self._always.pop(path, None)
        else:
            self._always[path] = fault

    def asked(self, path: str) -> list[Request]:
        """The requests of one path."""
        return [request for request in self.requests if request.path == path]

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._connection, "127.0.0.1", 0))
        self._port = server.sockets[0].getsockname()[1]
        self._started.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await self._exchange(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip().split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self.open_now += 1
        self.open_most = max(self.open_most, self.open_now)
        try:
            await self._answer(_Answer(self, reader, writer, first, headers))
        finally:
            self.open_now -= 1

    async def _answer(self, answer: _Answer) -> None:
        path = answer.path
        self.before_answer(path)
        queue = self._faults[path]
        fault = queue.popleft() if queue else self._always.get(path)
        if isinstance(fault, Swap):
            old = self.files[path]
            self.files[path] = File(fault.data, old.etag if fault.same_etag else _etag(fault.data), old.modified, old.ranges)
        file = self.files.get(path)
        if isinstance(fault, Status):
            await answer.status(fault.code, fault.headers)
        elif isinstance(fault, Silence):
            await answer.nothing_more()
        elif file is None:
            await answer.status(404, {})
        else:
            await answer.file(file, fault)


class _Answer:
    """One answer on one connection."""

    def __init__(
        self,
        server: FileServer,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        first: str,
        headers: dict[str, str],
    ) -> None:
        self.method, self.path = first.split(" ")[:2]
        self._server = server
        self._reader = reader
        self._writer = writer
        self._asked = headers

    @property
    def headers(self) -> dict[str, str]:
        """Of the request, names in lower case."""
        return self._asked

    async def form(self) -> dict[str, str]:
        """The body of a POST."""
        body = await self._reader.readexactly(int(self._asked.get("content-length", "0")))
        return dict(parse_qsl(body.decode()))

    async def status(self, code: int, headers: dict[str, str] | object) -> None:
        said = dict(headers) if isinstance(headers, dict) else {}
        await self._head(code, {**said, "Content-Length": "0"})

    async def nothing_more(self) -> None:
        """Until the client has had enough."""
        await self._reader.read()
        raise ConnectionAbortedError

    async def file(self, file: File, fault: Fault | None) -> None:
        size = len(file.content)
        said = {"Content-Type": "application/octet-stream", **file.headers}
        if not isinstance(fault, Bare):
            said |= {"ETag": file.etag} if file.etag else {}
            said |= {"Last-Modified": file.modified} if file.modified else {}
        asked = None if isinstance(fault, Whole | Unsized) or not file.ranges else self._range(file)
        if asked is None:
            await self._body(file.status, said, file, 0, size, fault)
        elif asked[0] >= size:
            await self.status(416, {**said, "Content-Range": f"bytes */{size}"})
        else:
            start, stop = asked
            if isinstance(fault, OtherRange):
                start, stop = start + fault.by, stop + fault.by
            if isinstance(fault, SmallerRange):
                stop = min(stop, start + fault.size)
            said["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
            await self._body(206, said, file, start, stop - (fault.by if isinstance(fault, ShortRange) else 0), fault)

    def _range(self, file: File) -> tuple[int, int] | None:
        """The range asked for, None where the whole file is due: without Range, or where If-Range is about another version."""
        match = _RANGE.match(self._asked.get("range", ""))
        validator = self._asked.get("if-range")
        if match is None or (validator is not None and validator not in (file.etag, file.modified)):
            return None
        start, last = match.groups()
        return int(start), min(int(last) + 1 if last else len(file.content), len(file.content))

    async def _body(self, status: int, said: dict[str, str], file: File, start: int, stop: int, fault: Fault | None) -> None:
        content: Content = file.content
        if isinstance(fault, Gzip):
            content, start = gzip.compress(file.content[start:stop]), 0
            stop = len(content)
            said["Content-Encoding"] = "gzip"
        if isinstance(fault, Unsized):
            said["Transfer-Encoding"] = "chunked"
        else:
            said["Content-Length"] = str(stop - start + (fault.more if isinstance(fault, LyingLength) else 0))
        await self._head(status, said)
        if self.method == "HEAD":
            return
        cut = start + fault.after if isinstance(fault, Drop | Hangup | Stall) else stop
        await self._write(content, start, min(cut, stop), chunked=isinstance(fault, Unsized))
        if isinstance(fault, Stall):
            await self.nothing_more()
        if isinstance(fault, Drop):
            self._writer.transport.abort()
            raise ConnectionResetError
        if isinstance(fault, Hangup) or (isinstance(fault, LyingLength) and fault.more > 0):
            raise ConnectionAbortedError

    async def _write(self, content: Content, start: int, stop: int, *, chunked: bool) -> None:
        pace = self._server.pace(self.path)
        while self.path in self._server.held and start + 1 < stop and not chunked:
            self._server.sent[self.path] += 1
            self._writer.write(content[start : start + 1])
            await self._writer.drain()
            start += 1
            await asyncio.sleep(HELD_SECONDS)
            if self.path in self._server.torn:
                self._server.torn.discard(self.path)
                self._writer.transport.abort()
                raise ConnectionResetError
        for position in range(start, stop, PIECE):
            if pace:
                await asyncio.sleep(pace)
            piece = content[position : min(stop, position + PIECE)]
            # Counted first: whoever has all of it may ask at once how much was sent.
            self._server.sent[self.path] += len(piece)
            self._writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            await self._writer.drain()
        if chunked:
            self._writer.write(b"0\r\n\r\n")

    async def _head(self, status: int, headers: dict[str, str]) -> None:
        self._server.requests.append(Request(self.path, self._asked, status))
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._writer.write(f"HTTP/1.1 {status} x\r\n{lines}\r\n".encode("latin-1"))
        await self._writer.drain()


@lru_cache(maxsize=8)
def _block(seed: int) -> bytes:
    return random.Random(seed).randbytes(BLOCK - 8)


def _etag(content: Content) -> str:
    """Of the whole content where it is small; of its size and first bytes where it is made up."""
    seen = content[0 : min(len(content), 2**20)]
    return f'"{hashlib.sha256(b"%d" % len(content) + seen).hexdigest()[:16]}"'
