"""A folder behind HTTP, where nothing can be listed: what answers 404 is not there."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

import httpcore

from emporter_runtime.addresses import PublicBackend
from emporter_runtime.hosts import host_allowed
from emporter_runtime.roots import (
    MOST_OBJECT_BYTES,
    Got,
    RootForbiddenError,
    RootRefusedError,
    RootSettings,
    RootUnreachableError,
)

AT_ONCE = 16
"""Requests to one root at once: what hides the latency of a store without pressing it."""
MOST_HOPS = 5
TRIES = 3
FIRST_PAUSE = 0.2
"""Seconds before the second try; twice that before the third. Then the reader is told, who may come back."""
LATER = frozenset({408, 429, 500, 502, 503, 504})
MOVED = frozenset({301, 302, 303, 307, 308})
NOT_THERE = frozenset({404, 410})

_KEPT_IN_PATHS = "/()!$'*,;:@&=+~-_."
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)\Z")


@dataclass(frozen=True, slots=True)
class _Answer:
    """One answer, its body read."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpFolder:
    """A Root below `address`. Hosts are checked at every hop of a redirect, addresses at every connection."""

    def __init__(self, url: str, address: str, settings: RootSettings) -> None:
        self.url = url
        self._address = address
        self._allowed = settings.url_allowed_hosts
        connect, stall = settings.http_connect_seconds, settings.http_stall_seconds
        self._extensions = {"timeout": {"connect": connect, "read": stall, "write": stall, "pool": stall}}
        backend = PublicBackend(allow_private=settings.url_allow_private)
        self._pool = httpcore.AsyncConnectionPool(max_connections=AT_ONCE, keepalive_expiry=15.0, network_backend=backend)
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._checked(address)

    async def whole(self, name: str, most: int = MOST_OBJECT_BYTES) -> Got | None:
        answer = await self._ask(name, {}, most)
        if answer is None:
            return None
        body = answer.body
        if answer.headers.get("content-encoding", "identity") == "gzip":
            body = _unpacked(body, most, name)
        return _got(answer, body, len(body))

    async def part(self, name: str, start: int, stop: int) -> Got | None:
        answer = await self._ask(name, {"Range": f"bytes={start}-{stop - 1}"}, stop - start, ranged=True)
        if answer is None:
            return None
        if answer.headers.get("content-encoding", "identity") != "identity":
            raise RootRefusedError(f"{name} is served packed, so that no part of it can be read", hint="ingest it")
        if answer.status == 416:
            return _got(answer, b"", 0)
        said = _RANGE.match(answer.headers.get("content-range", ""))
        if answer.status != 206 or said is None:
            raise RootRefusedError(f"{self.url}: the server gives whole files only", hint="ingest it: shards are read by ranges")
        first, last, size = (int(number) for number in said.groups())
        if first != start or last + 1 != min(stop, size) or len(answer.body) != last + 1 - first:
            raise RootUnreachableError(f"{name}: the server answers with other bytes than asked for")
        return _got(answer, answer.body, size)

    async def touched_since(self, name: str, moment: datetime) -> bool:
        del name, moment
        return False

    async def close(self) -> None:
        await self._pool.aclose()

    async def _ask(self, name: str, headers: Mapping[str, str], most: int, *, ranged: bool = False) -> _Answer | None:
        for left in range(TRIES - 1, -1, -1):
            try:
                answer = await self._once(name, headers, most)
            except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
                if not left:
                    raise RootUnreachableError(f"{self.url} does not answer ({type(error).__name__})") from error
            else:
                if answer.status not in LATER:
                    return self._meant(answer, name, ranged=ranged)
                if not left:
                    raise RootUnreachableError(f"{self.url} answers {answer.status}")
            await asyncio.sleep(FIRST_PAUSE * 2 ** (TRIES - 1 - left))
        raise AssertionError("the last try returns or raises")

    def _meant(self, answer: _Answer, name: str, *, ranged: bool) -> _Answer | None:
        if answer.status in NOT_THERE:
            return None
        if answer.status in (401, 403):
            raise RootForbiddenError(f"{self.url}: {name} may not be read ({answer.status})", hint="is it public?")
        if answer.status == 200 or (ranged and answer.status in (206, 416)):
            return answer
        raise RootForbiddenError(f"{self.url}: {name} is answered with {answer.status}", hint="is this the root of an array?")

    async def _once(self, name: str, headers: Mapping[str, str], most: int) -> _Answer:
        parts = urlsplit(self._address)
        url = urlunsplit(
            parts._replace(path=f"{quote(parts.path.rstrip('/'), _KEPT_IN_PATHS + '%')}/{quote(name, _KEPT_IN_PATHS)}")
        )
        async with self._turns:
            for _ in range(MOST_HOPS):
                self._checked(url)
                # As it is stored: a packed answer would be of another length than the object.
                asked = [("Accept-Encoding", "identity"), ("User-Agent", "emporter"), *headers.items()]
                try:
                    async with self._pool.stream("GET", url, headers=asked, extensions=self._extensions) as response:
                        said = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in response.headers}
                        if response.status in MOVED and "location" in said:
                            url = urljoin(url, said["location"])
                            continue
                        wanted = response.status in (200, 206)
                        return _Answer(response.status, said, await _body(response, most, name) if wanted else b"")
                except httpcore.UnsupportedProtocol as error:
                    raise RootRefusedError(f"{self.url}: only http and https are opened") from error
        raise RootRefusedError(f"{self.url}: more than {MOST_HOPS} redirects")

    def _checked(self, url: str) -> None:
        """Raises RootRefusedError unless an operator allowed the host of `url`."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        if parts.scheme not in ("http", "https") or parts.username is not None or parts.password is not None:
            raise RootRefusedError(f"{self.url} leads to what is no plain http(s) address", hint="register what it leads to")
        if not host_allowed(host, self._allowed):
            raise RootRefusedError(
                f"host {host} is not allowed here", hint="an operator can add it to EMPORTER_URL_ALLOWED_HOSTS"
            )


async def _body(response: httpcore.Response, most: int, name: str) -> bytes:
    held = bytearray()
    async for piece in response.aiter_stream():
        held += piece
        if len(held) > most:
            raise RootRefusedError(f"{name} is larger than {most} bytes", hint="is this the root of an array?")
    return bytes(held)


def _got(answer: _Answer, data: bytes, size: int) -> Got:
    tag, modified = answer.headers.get("etag", ""), answer.headers.get("last-modified", "")
    version = tag.removeprefix("W/") or (f"{modified} {size}" if modified else f"{size} bytes")
    return Got(data, size, version, _time(modified), _clock(answer))


def _clock(answer: _Answer) -> datetime | None:
    """What the source's clock shows: an answer out of a cache on the way carries an old Date, and its Age."""
    said, age = _time(answer.headers.get("date", "")), answer.headers.get("age", "0")
    return None if said is None else said + timedelta(seconds=int(age) if age.isdecimal() and len(age) < 10 else 0)


def _time(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    return moment if moment.tzinfo is not None else None


def _unpacked(body: bytes, most: int, name: str) -> bytes:
    """What a server stores packed, and says so (Content-Encoding), as precomputed chunks often are."""
    inflater = zlib.decompressobj(wbits=31)
    try:
        data = inflater.decompress(body, most + 1)
    except zlib.error as error:
        raise RootUnreachableError(f"{name} is damaged on its way: {error}") from error
    if len(data) > most or not inflater.eof:
        raise RootRefusedError(f"{name} is damaged, or larger than {most} bytes", hint="is this the root of an array?")
    return data
