"""Roots of arrays behind http(s)://, where nothing can be listed: what answers 404 is not there."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from urllib.parse import quote, urlsplit, urlunsplit

from emporter_contracts import storage
from emporter_contracts.plans import PlannedObject, Segments
from emporter_readers.chunked.tree import MOST_JSON_BYTES
from emporter_readers.protocol import ByteSource
from fetcher.errors import ArchiveRefusedError, ForbiddenError, NotInArchiveError
from fetcher.sources.over_http import HttpObjects, planned_object
from fetcher.sources.protocol import Context

MOST_AT_ONCE = 64
"""Names probed at once, before the client's own limit by host: a bound on tasks, not on connections."""
_KEPT_IN_PATHS = "/()!$'*,;:@&=+~-_."


class HttpRoot:
    """An ArrayRoot below `url`, whose query, if it has one, is said with every name."""

    def __init__(self, files: HttpObjects, url: str, context: Context) -> None:
        self.url = url
        self._files = files
        self._context = context
        self._turns = asyncio.Semaphore(MOST_AT_ONCE)
        self._documents: dict[str, int] = {}

    async def document(self, name: str) -> bytes | None:
        try:
            body = await self._files.client.document(self._url(name), MOST_JSON_BYTES)
        except (NotInArchiveError, ForbiddenError, ArchiveRefusedError):
            # S3 that may not be listed answers 403 for what is not there.
            return None
        self._documents[name] = len(body)
        return body

    async def objects(self, names: Sequence[str]) -> list[PlannedObject]:
        tasks = [asyncio.create_task(self._object(name)) for name in names]
        try:
            found = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return [planned for planned in found if planned is not None]

    def open(self, planned: PlannedObject) -> ByteSource:
        return self._files.open(planned)

    async def _object(self, name: str) -> PlannedObject | None:
        async with self._turns:
            try:
                probe = await self._files.client.probe(self._url(name))
            except NotInArchiveError:
                return None
            except ArchiveRefusedError:
                if name not in self._documents:
                    raise
                return self._unsized(name)
        return planned_object(probe, self._context).model_copy(update={"path": name})

    def _unsized(self, name: str) -> PlannedObject:
        """A document whose server says no size: buckets of Google unpack on the way what they store packed."""
        url, size = self._url(name), self._documents[name]
        version = f"{size} as seen by {self._context.job} r{self._context.revision}"
        location = Segments(origin=storage.origin(url, version))
        return PlannedObject(path=name, url=url, location=location, bytes=size, version=str(size))

    def _url(self, name: str) -> str:
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(name, _KEPT_IN_PATHS)}"))
