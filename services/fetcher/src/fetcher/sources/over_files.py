"""Files of an archive that serves them over HTTPS and, as a second way to the same bytes, over FTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import TypeVar
from urllib.parse import quote, unquote, urlsplit

from emporter_contracts.plans import PlannedObject
from emporter_readers.cached import CachedSource
from emporter_readers.protocol import ByteSource
from emporter_runtime.logging import get_logger
from fetcher.errors import ArchiveUnreachableError, FetcherError, NotInArchiveError, UrlRefusedError
from fetcher.gate import Gate
from fetcher.sources.over_http import HttpObjects, first_byte, pinned, planned_object
from fetcher.sources.protocol import Context
from fetcher.transports.addresses import HostPolicy
from fetcher.transports.ftp import FtpClient
from fetcher.transports.http import HttpLimits, Probe
from fetcher.transports.listing import MAX_PAGE_BYTES, Entry, index_entries
from fetcher.transports.reading import from_thread
from fetcher.transports.replies import Pinned

T = TypeVar("T")

log = get_logger(__name__)

MOST_AT_ONCE = 16
"""Files probed at once, before the client's own limit by host: a bound on tasks, not on connections."""
BELIEVED_DOWN = 60.0
"""Seconds for which a web server that did not answer is not asked first: thousands of files must not each wait for it."""
_KEPT_IN_PATHS = "/()!$'*,;:@&=+~-_."
"""What may stand in the path of a URL as it is; `%`, `?` and `#` of a file's name may not."""


def url_of(base: str, path: str) -> str:
    """The URL of a file by its real name below `base`."""
    return f"{base.rstrip('/')}/{quote(path.lstrip('/'), _KEPT_IN_PATHS)}"


class FileObjects(HttpObjects):
    """Opens and fetches files by the scheme of their URL. `mirrors` are the same folders twice, over HTTP(S) and over FTP."""

    def __init__(self, hosts: HostPolicy, limits: HttpLimits, gate: Gate, mirrors: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(replace(hosts, schemes=("http", "https")), limits, gate)
        self.ftp = FtpClient(hosts, limits)
        self._web_down_until = 0.0
        self._mirrors = tuple((web.rstrip("/") + "/", ftp.rstrip("/") + "/") for web, ftp in mirrors if ftp)

    def open(self, planned: PlannedObject) -> ByteSource:
        if not _is_ftp(planned.url):
            return super().open(planned)
        there = pinned(planned)

        async def read(start: int, stop: int) -> bytes:
            return await self.ftp.read(there, start, stop)

        return CachedSource(planned.path, planned.bytes, from_thread(read))

    async def fetch(self, planned: PlannedObject, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        there = pinned(planned)
        if _is_ftp(planned.url):
            async with aclosing(self.ftp.pieces(there, start, stop)) as pieces:
                async for piece in pieces:
                    yield piece
            return
        first = first_byte(planned)
        position = first + start
        try:
            async with aclosing(self.client.pieces(there, first + start, first + stop)) as pieces:
                async for piece in pieces:
                    position += len(piece)
                    yield piece
        except ArchiveUnreachableError as error:
            twin = self._twin(planned)
            if twin is None:
                raise
            log.info("by_ftp_instead", object=planned.path, at=position, reason=error.message)
            async with aclosing(self.ftp.pieces(twin, position, first + stop)) as pieces:
                async for piece in pieces:
                    yield piece

    async def probed(self, url: str) -> Probe:
        """A file by its URL; by its mirror where the first way does not answer or gives something else than data."""
        if _is_ftp(url):
            return await self.ftp.probe(url)
        return await self._either(url, self.client.probe, self.ftp.probe)

    async def planned(self, path: str, url: str, context: Context) -> PlannedObject:
        """A file as an object to be copied, under the name `path`. Its version holds its time, by which a mirror is compared."""
        probe = await self.probed(url)
        there = probe.pinned
        found = planned_object(probe, context)
        if there.etag and there.modified:
            found = found.model_copy(update={"version": f"{there.etag} {there.modified}"})
        return found.model_copy(update={"path": path})

    async def planned_all(self, files: Sequence[tuple[str, str]], context: Context) -> tuple[PlannedObject, ...]:
        """Several files, each (path, URL), in that order."""
        turns = asyncio.Semaphore(MOST_AT_ONCE)

        async def one(path: str, url: str) -> PlannedObject:
            async with turns:
                return await self.planned(path, url, context)

        tasks = [asyncio.create_task(one(path, url)) for path, url in files]
        try:
            return tuple(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def entries(self, url: str) -> list[Entry]:
        """What lies in the folder `url`, by its index page, or by its mirror's listing."""
        folder = url.rstrip("/") + "/"

        async def by_page(address: str) -> list[Entry]:
            return index_entries(address, await self.client.document(address, MAX_PAGE_BYTES))

        if _is_ftp(folder):
            return await self.ftp.entries(folder)
        return await self._either(folder, by_page, self.ftp.entries)

    async def close(self) -> None:
        await self.client.close()
        await self.ftp.close()

    async def _either(self, url: str, web: Callable[[str], Awaitable[T]], ftp: Callable[[str], Awaitable[T]]) -> T:
        mirror = self._mirror(url)
        if mirror is not None and time.monotonic() < self._web_down_until:
            with suppress(ArchiveUnreachableError, FetcherError):
                return await ftp(mirror)
        try:
            return await web(url)
        except (NotInArchiveError, UrlRefusedError):
            raise
        except (ArchiveUnreachableError, FetcherError) as error:
            if mirror is None:
                raise
            if isinstance(error, ArchiveUnreachableError):
                self._web_down_until = time.monotonic() + BELIEVED_DOWN
            log.info("by_ftp_instead", url=url, reason=error.message)
            try:
                return await ftp(mirror)
            except (ArchiveUnreachableError, FetcherError) as second:
                # What the first way said is what can be acted on: the mirror may only be closed to us.
                raise error from second

    def _mirror(self, url: str) -> str | None:
        """The same file or folder over FTP."""
        for web, ftp in self._mirrors:
            if url.startswith(web):
                return ftp + url[len(web) :]
        return None

    def _twin(self, planned: PlannedObject) -> Pinned | None:
        """The same version over FTP; None where nobody could tell that it is the same."""
        there = pinned(planned)
        mirror = self._mirror(there.url)
        modified = planned.version.removeprefix(planned.etag or str(there.size)).strip()
        return Pinned(mirror, there.size, modified=modified) if mirror and modified else None


def name_of(url: str) -> str:
    """The last step of a URL's path, as the file is called."""
    return unquote(urlsplit(url).path).rstrip("/").rsplit("/", 1)[-1]


def _is_ftp(url: str) -> bool:
    return url.startswith("ftp://")
