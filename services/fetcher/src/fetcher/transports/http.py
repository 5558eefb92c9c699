"""Bytes over HTTP/1.1, by ranges, from servers that may lie, stall and vanish.

It stands on httpcore, the connection layer of httpx: no redirect is followed unseen, nothing is decoded, no proxy is taken from
the environment, and every connection is made by `GuardedBackend`.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import urljoin, urlsplit

import httpcore

from emporter_runtime.addresses import Resolve
from emporter_runtime.errors import RateLimitedError
from fetcher.errors import (
    ArchiveMisbehavesError,
    ArchiveRefusedError,
    ArchiveUnreachableError,
    RangesIgnoredError,
    UnknownHostError,
    UrlRefusedError,
)
from fetcher.transports.addresses import GuardedBackend, HostPolicy, Target
from fetcher.transports.replies import Pinned, Reply, header_list
from fetcher.transports.trying import tries

NOTHING: Mapping[str, str] = MappingProxyType({})
MAX_HOPS = 5
"""Redirects followed for one request: archives need one or two."""
FRESH_START_BYTES = 2**20
"""A connection that brought this much before it broke is not counted as a failed try: a bad line still makes progress."""
OURS_ALONE = frozenset({"Cookie", "Authorization", "X-CSRFToken", "Referer"})
"""Headers that are for the server they were meant for, and never follow a redirect to another."""
DRAINED_BYTES = 4096
"""Of an answer whose rest is not needed: reading so little is cheaper than a new connection."""


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Of one client. Seconds."""

    connections_per_host: int = 4
    connect: float = 10.0
    stall: float = 30.0

    def extensions(self) -> dict[str, dict[str, float]]:
        """As httpcore wants them."""
        return {"timeout": {"connect": self.connect, "read": self.stall, "write": self.stall, "pool": self.connect}}


@dataclass(frozen=True, slots=True)
class Probe:
    """What a server says of a resource before any of it is fetched."""

    pinned: Pinned
    name: str
    ranges: bool


class HttpClient:
    """One archive's connections. Its coroutines belong to the event loop it is used in."""

    def __init__(self, hosts: HostPolicy, limits: HttpLimits | None = None, resolve: Resolve | None = None) -> None:
        self._hosts = hosts
        self._limits = limits or HttpLimits()
        self._pool = httpcore.AsyncConnectionPool(
            max_connections=None,
            keepalive_expiry=15.0,
            network_backend=GuardedBackend(allow_private=hosts.allow_private, resolve=resolve),
        )
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._patience: dict[str, float] = {}

    async def close(self) -> None:
        await self._pool.aclose()

    async def probe(self, url: str) -> Probe:
        """Size, version and manners of `url`, by asking for its first byte: what HEAD says is too often about something else."""
        try:
            async for attempt in tries():
                with attempt:
                    return await self._probe(url)
        except UnknownHostError as error:
            # Before the first byte an unknown name is a typing mistake; in the middle of a job it is a resolver that is away.
            raise UrlRefusedError(error.message, hint="check the name, and that this machine can resolve it") from error
        raise AssertionError("stamina ends by returning or raising")

    async def read(self, pinned: Pinned, start: int, stop: int) -> bytes:
        """Exactly these bytes, for headers. Raises RangesIgnoredError where the server has no ranges."""
        held = bytearray()
        async with aclosing(self.pieces(pinned, start, stop)) as pieces:
            async for piece in pieces:
                held += piece
        return bytes(held)

    async def beginning(self, pinned: Pinned, size: int) -> bytes:
        """The first `size` bytes, also from a server without ranges."""
        held = bytearray()
        async with aclosing(self.pieces(pinned, 0, pinned.size)) as pieces:
            async for piece in pieces:
                held += piece
                if len(held) >= size:
                    break
        return bytes(held[:size])

    async def pieces(self, pinned: Pinned, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` to `stop` in order, as they come; goes on where a connection broke.

        Raises SourceChangedError, RangesIgnoredError (only for a part: a whole object is also had from a server without
        ranges), ArchiveUnreachableError or RateLimitedError after a few tries without progress.
        """
        whole = (start, stop) == (0, pinned.size)
        position = start
        while position < stop:
            begun = position
            async for attempt in tries():
                with attempt:
                    try:
                        async with aclosing(self._once(pinned, position, stop, whole)) as pieces:
                            async for piece in pieces:
                                position += len(piece)
                                yield piece
                    except ArchiveUnreachableError:
                        if position - begun < FRESH_START_BYTES:
                            raise

    async def document(self, url: str, longest: int, headers: Mapping[str, str] = NOTHING) -> bytes:
        """All of a page or API answer of any size up to `longest` bytes; else ArchiveMisbehavesError."""
        async for attempt in tries():
            with attempt:
                async with self._answer(url, dict(headers)) as (reply, response):
                    return await _whole(reply, response, longest)
        raise AssertionError("stamina ends by returning or raising")

    async def exchange(
        self, url: str, headers: Mapping[str, str], longest: int, form: bytes | None = None
    ) -> tuple[Reply, bytes]:
        """One answer as it is, of any status and without following a redirect: GET, or POST of a `form`."""
        target = self._hosts.checked(url)
        said = dict(headers)
        if form is not None:
            said |= {"Content-Type": "application/x-www-form-urlencoded", "Content-Length": str(len(form))}
        async for attempt in tries():
            with attempt:
                async with self._asked(target, said, form) as (reply, response):
                    return reply, await _whole(reply, response, longest)
        raise AssertionError("stamina ends by returning or raising")

    async def _once(self, pinned: Pinned, start: int, stop: int, whole: bool) -> AsyncGenerator[bytes, None]:
        """One connection's worth of `pieces`; raises ArchiveUnreachableError where it ends early."""
        headers = {"Range": f"bytes={start}-{stop - 1}", **pinned.if_range()}
        async with self._answer(pinned.url, headers) as (reply, response):
            skip, end = _agreed(pinned, reply, start, stop, whole)
            position = start - skip
            async for piece in response.aiter_stream():
                wanted = piece[max(0, start - position) : end - position]
                position += len(piece)
                if wanted:
                    yield wanted
                if position >= end:
                    break
            if position > end and reply.partial:
                raise ArchiveMisbehavesError(f"{pinned.url}: more bytes than the range it announced", hint="try another mirror")
            if position < end:
                raise ArchiveUnreachableError(f"{pinned.url} ended at byte {position} of {end}")

    async def _probe(self, url: str) -> Probe:
        async with self._answer(url, {"Range": "bytes=0-0"}) as (reply, response):
            total = reply.total
            if total is None:
                raise ArchiveRefusedError(
                    f"{url}: the archive does not say how large it is", hint="download it and ingest the file"
                )
            if reply.status == 416 and total > 0:
                raise ArchiveMisbehavesError(f"{url}: {total} bytes, but not the first", hint="download it and ingest the file")
            if reply.partial:
                await _drain(response)
            pinned = Pinned(url, total, reply.etag, reply.modified)
            return Probe(pinned, reply.file_name(), reply.partial or total == 0)

    @asynccontextmanager
    async def _answer(self, url: str, headers: dict[str, str]) -> AsyncIterator[tuple[Reply, httpcore.Response]]:
        """GET `url`, redirects followed and checked; 200, 206 or 416."""
        target = self._hosts.checked(url)
        for _ in range(MAX_HOPS + 1):
            async with self._asked(target, headers, None) as (reply, response):
                location = reply.redirect()
                if location is None:
                    self._checked(target, reply)
                    yield reply, response
                    return
            there = self._hop(target, location)
            if urlsplit(there.url)[:2] != urlsplit(target.url)[:2]:
                headers = {name: value for name, value in headers.items() if name not in OURS_ALONE}
            target = there
        raise ArchiveRefusedError(
            f"{url}: more than {MAX_HOPS} redirects", hint="open the URL in a browser and use where it ends"
        )

    @asynccontextmanager
    async def _asked(
        self, target: Target, headers: dict[str, str], form: bytes | None
    ) -> AsyncIterator[tuple[Reply, httpcore.Response]]:
        """One request on one connection, within the host's slots and patience."""
        host = target.host
        left = self._patience.get(host, 0.0) - time.monotonic()
        if left > 0:
            raise RateLimitedError(f"{host} asked for patience", retry_after=left)
        asked = {"Accept-Encoding": "identity", "User-Agent": "emporter", "Accept": "*/*", **headers}
        slot = self._slots.setdefault(host, asyncio.Semaphore(self._limits.connections_per_host))
        async with slot:
            with _faults(target.url):
                extensions, method = self._limits.extensions(), "GET" if form is None else "POST"
                async with self._pool.stream(
                    method, target.url, headers=header_list(asked), content=form, extensions=extensions
                ) as response:
                    yield Reply.of(target.url, response), response

    def _checked(self, target: Target, reply: Reply) -> None:
        try:
            reply.check()
        except RateLimitedError as error:
            if error.retry_after is not None:
                self._patience[target.host] = time.monotonic() + error.retry_after
            raise

    def _hop(self, target: Target, location: str) -> Target:
        there = self._hosts.checked(urljoin(target.url, location))
        if target.scheme == "https" and there.scheme == "http":
            raise UrlRefusedError(f"{target.url} leads from https to http", hint="ask the archive for an https address")
        return there


def _agreed(pinned: Pinned, reply: Reply, start: int, stop: int, whole: bool) -> tuple[int, int]:
    """How many bytes before `start` the answer begins, and where it ends. Raises where it is not the one asked for."""
    if reply.status == 416:
        pinned.changed("too short for this range")
    pinned.check(reply)
    if not reply.partial:
        if not whole:
            raise RangesIgnoredError(f"{pinned.url}: the server sends whole files only", hint="download it and ingest the file")
        return start, stop
    first, end, _ = reply.content_range()
    if first != start or not start < end <= stop:
        raise ArchiveMisbehavesError(
            f"{pinned.url}: asked for bytes {start}-{stop - 1}, answered {first}-{end - 1}", hint="try another mirror"
        )
    return 0, end


async def _whole(reply: Reply, response: httpcore.Response, longest: int) -> bytes:
    """A small answer. Raises ArchiveMisbehavesError for a longer one, ArchiveUnreachableError for one that ends early."""
    held = bytearray()
    async for piece in response.aiter_stream():
        held += piece
        if len(held) > longest:
            raise ArchiveMisbehavesError(f"{reply.url}: answers more than {longest} bytes", hint="open the URL in a browser")
    if reply.length is not None and len(held) < reply.length:
        raise ArchiveUnreachableError(f"{reply.url} ended at byte {len(held)} of {reply.length}")
    return bytes(held)


async def _drain(response: httpcore.Response) -> None:
    """Read the little that is left, so that the connection can be used again."""
    read = 0
    async for piece in response.aiter_stream():
        read += len(piece)
        if read > DRAINED_BYTES:
            return


@contextmanager
def _faults(url: str) -> Iterator[None]:
    """Exceptions of httpcore as ours."""
    try:
        yield
    except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.RemoteProtocolError) as error:
        if _is_untrusted(error):
            raise UrlRefusedError(f"{url}: the certificate is not trusted: {error}", hint="check the address") from error
        reason = str(error) or type(error).__name__
        raise ArchiveUnreachableError(f"{url}: {reason}") from error


def _is_untrusted(error: BaseException) -> bool:
    """Whether a certificate was the reason, however deep it lies."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
