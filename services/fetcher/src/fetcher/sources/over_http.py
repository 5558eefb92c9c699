"""What all archives behind HTTP share: objects by ranges from one client."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator

from emporter_contracts import storage
from emporter_contracts.plans import Checksum, PlannedObject, Segments
from emporter_readers.cached import CachedSource
from emporter_readers.protocol import ByteSource
from fetcher.errors import RangesIgnoredError
from fetcher.gate import Gate
from fetcher.sources.protocol import Context
from fetcher.transports.addresses import HostPolicy
from fetcher.transports.http import HttpClient, HttpLimits, Probe
from fetcher.transports.reading import from_thread
from fetcher.transports.replies import Pinned

LONGEST_BEGINNING = 64 * 2**20
"""Bytes held of an object whose server has no ranges, to read its headers: what one segment in flight costs."""
FIRST_BEGINNING = 2**20
"""Bytes asked for first; doubled while the headers reach further, so that all in all at most twice what was needed is read."""

_SPAN = re.compile(r"(?P<url>[^#]*)#bytes=(?P<start>\d+)-\d+/(?P<total>\d+)\Z")


class HttpObjects:
    """Opens and fetches objects that a source listed. Knows no archive."""

    def __init__(self, hosts: HostPolicy, limits: HttpLimits, gate: Gate) -> None:
        self.client = HttpClient(hosts, limits)
        self.gate = gate
        self.connections = limits.connections_per_host

    def open(self, planned: PlannedObject) -> ByteSource:
        headers = _Headers(self.client, pinned(planned), first_byte(planned))
        return CachedSource(planned.path, planned.bytes, from_thread(headers.read))

    def fetch(self, planned: PlannedObject, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        first = first_byte(planned)
        return self.client.pieces(pinned(planned), first + start, first + stop)

    async def close(self) -> None:
        await self.client.close()


def planned_object(probe: Probe, context: Context, checksum: Checksum | None = None) -> PlannedObject:
    """A probed resource as an object that will be copied into segments."""
    there = probe.pinned
    version = there.version
    if not there.told_apart:
        # Nobody could tell another version of the same size, so these bytes are never lent to another run.
        version = f"{version} as seen by {context.job} r{context.revision}"
    return PlannedObject(
        path=probe.name,
        url=there.url,
        location=Segments(origin=storage.origin(there.url, version)),
        bytes=there.size,
        version=there.version,
        etag=there.etag,
        checksum=checksum,
    )


def span(path: str, around: PlannedObject, start: int, stop: int) -> PlannedObject:
    """Bytes `start` to `stop` (exclusive) of a planned object as an object of their own, named `path`.

    Its URL says which in the words of Content-Range: `…/0a.shard#bytes=1024-2047/700000`.
    """
    assert isinstance(around.location, Segments)
    which = f"bytes={start}-{stop - 1}/{around.bytes}"
    return around.model_copy(
        update={
            "path": path,
            "url": f"{around.url}#{which}",
            "location": Segments(origin=storage.origin(around.location.origin, which)),
            "bytes": stop - start,
            "checksum": None,
        }
    )


def pinned(planned: PlannedObject) -> Pinned:
    """The version that was planned, as the transport checks it: of a span, that of the whole it lies in."""
    modified = None if planned.etag else planned.version.partition(" ")[2] or None
    match = _SPAN.match(planned.url)
    if match is None:
        return Pinned(planned.url, planned.bytes, planned.etag, modified)
    return Pinned(match["url"], int(match["total"]), planned.etag, modified)


def first_byte(planned: PlannedObject) -> int:
    """Where an object begins in what its server serves: not 0 for a span."""
    match = _SPAN.match(planned.url)
    return int(match["start"]) if match is not None else 0


class _Headers:
    """Ranges of one object; its beginning, kept, where the server has no ranges."""

    def __init__(self, client: HttpClient, there: Pinned, first: int) -> None:
        self._client = client
        self._there = there
        self._first = first
        self._beginning: bytes | None = None
        self._lock = asyncio.Lock()

    async def read(self, start: int, stop: int) -> bytes:
        if self._beginning is None:
            try:
                return await self._client.read(self._there, self._first + start, self._first + stop)
            except RangesIgnoredError:
                pass
        async with self._lock:
            return (await self._up_to(self._first + stop))[self._first + start : self._first + stop]

    async def _up_to(self, stop: int) -> bytes:
        held = self._beginning or b""
        if len(held) >= stop:
            return held
        if stop > LONGEST_BEGINNING:
            raise RangesIgnoredError(
                f"{self._there.url}: its server sends whole files only, and its headers reach to byte {stop}",
                hint="download it and ingest the file",
            )
        size = max(FIRST_BEGINNING, len(held) * 2, stop)
        self._beginning = await self._client.beginning(self._there, min(size, LONGEST_BEGINNING, self._there.size))
        return self._beginning
