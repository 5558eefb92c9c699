"""Roots of arrays behind http(s)://, where nothing can be listed: what answers 404 is not there."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from urllib.parse import quote, urlsplit, urlunsplit

from emporter_contracts import storage
from emporter_contracts.plans import PlannedObject, Segments
from emporter_readers.chunked.tree import MOST_JSON_BYTES
from emporter_readers.protocol import ByteSource
from fetcher.errors import ArchiveRefusedError, ForbiddenError, NotInArchiveError
from fetcher.sources.arrays import ZARR_DOCUMENTS
from fetcher.sources.over_http import HttpObjects, planned_object
from fetcher.sources.protocol import Context

MOST_AT_ONCE = 64
"""Names probed at once, before the client's own limit by host: a bound on tasks, not on connections."""
KINDS = ("precomputed", "zarr", "zarr2", "zarr3", "n5")
"""What may stand before the URL of a root, as Neuroglancer writes it: `precomputed://https://…`."""
MARKS = frozenset({*ZARR_DOCUMENTS, "attributes.json", "info"})
_KEPT_IN_PATHS = "/()!$'*,;:@&=+~-_."
_IN_ARRAY = re.compile(r"\.(zarr|n5)(/|\Z)", re.IGNORECASE)
_FILE = re.compile(r"\.(zip|tar|tgz|gz|bz2|tiff?|dm[34]|mrc|h5|hdf5?|png|jpe?g)\Z", re.IGNORECASE)


def root_of(url: str) -> str | None:
    """The root of the array that `url` names, None where it looks like the URL of a file.

    Roots are known by a kind in front (`precomputed://https://…`), by a slash at their end, by naming one of the metadata
    documents, and by a folder `….zarr` or `….n5` on the way.
    """
    kind, _, rest = url.partition("://")
    if kind in KINDS and "://" in rest:
        return rest.rstrip("/")
    parts = urlsplit(url)
    folder, _, last = parts.path.rpartition("/")
    if last in MARKS:
        return urlunsplit(parts._replace(path=folder, fragment=""))
    if not last or (_IN_ARRAY.search(parts.path) and not _FILE.search(last)):
        return urlunsplit(parts._replace(path=parts.path.rstrip("/"), fragment=""))
    return None


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
