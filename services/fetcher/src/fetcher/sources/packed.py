"""Archives among the objects of a source: their members take their place, and are copied like files of a remote archive.

A member's URL is that of its archive with where it lies behind it, so that whoever holds the plan can read it from the archive,
by ranges where it is stored as it is, else in one pass from its beginning:
`inbox:1f…/stack.zip#unpacked=<bytes of the archive>,<how>,<start>,<packed>,<crc>,<path>`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import PurePosixPath
from typing import get_args
from urllib.parse import quote, unquote

from pydantic import JsonValue

from emporter_contracts import storage
from emporter_contracts.commands import IngestRequest
from emporter_contracts.plans import FileRootPath, InboxKey, Location, PlannedObject, Segments
from emporter_readers.cached import CachedSource
from emporter_readers.protocol import ByteSource
from fetcher.errors import ArchiveRefusedError
from fetcher.sources.protocol import Context, Listing, Source
from fetcher.streams import Streams
from fetcher.unpacking import SUFFIXES, How, Member, MemberSource, kind_of, members, pieces

TREES = frozenset({".zarray", ".zgroup", "zarr.json", "attributes.json", "info"})
"""Names by which the archive of an array is known: of it every member counts."""
LEFT_OUT = frozenset({".txt", ".md", ".pdf", ".csv", ".xml", ".html", ".doc", ".docx", ".log", ".ini", ".db"})
"""What people pack beside their images."""
TOLD = 1000
"""Names of members left out that are kept in the record."""

_MEMBER = re.compile(
    r"(?P<url>[^#]*)#unpacked=(?P<size>\d+),(?P<how>[a-z0-9-]+),(?P<start>\d+),(?P<packed>\d+),(?P<crc>\d+),(?P<path>.+)\Z"
)


class PackedSource:
    """A source whose .zip, .tar, .gz and .bz2 are looked into. `located` tells where an object lies by its URL."""

    def __init__(self, inner: Source, located: Callable[[PlannedObject], Location], most: int) -> None:
        self.name = inner.name
        self.gate = inner.gate
        self.connections = inner.connections
        self._inner = inner
        self._located = located
        self._most = most
        self._streams = Streams()
        # Threads of its own: those of the loop, waiting for bytes that the loop brings, could keep it from bringing them.
        self._threads = ThreadPoolExecutor(max(4, inner.connections), thread_name_prefix="unpacking")

    async def resolve(self, request: IngestRequest, context: Context) -> Listing:
        listing = await self._inner.resolve(request, context)
        if not any(_may_be_packed(planned) for planned in listing.objects):
            return listing
        if listing.parts:
            alone = [await self._unpacked_alone(planned, context) for planned in listing.objects]
            return replace(listing, objects=tuple(alone))
        objects: list[PlannedObject] = []
        told: dict[str, JsonValue] = {}
        for planned in listing.objects:
            found = await self._members(planned)
            if found is None:
                objects.append(planned)
                continue
            kept, left_out = _chosen(found)
            prefix = f"{planned.path}/" if len(listing.objects) > 1 else ""
            objects += [_member_object(planned, member, prefix, context) for member in kept]
            told[planned.path] = {"members": len(kept), "left_out": list[JsonValue](left_out[:TOLD]), **_told(planned)}
        if not objects:
            raise ArchiveRefusedError(f"{request.source_id[:200]} holds no image", hint="pack the images themselves")
        return replace(
            listing, objects=tuple(objects), archive={**listing.archive, "unpacked": told} if told else listing.archive
        )

    def open(self, planned: PlannedObject) -> ByteSource:
        match = _MEMBER.match(planned.url)
        if match is None:
            return self._inner.open(planned)
        source = self._inner.open(self._archive(planned, match))
        member = MemberSource(source, _member_of(match, planned), self._streams, _version(planned, match))
        return CachedSource(planned.path, planned.bytes, member.read)

    def fetch(self, planned: PlannedObject, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        match = _MEMBER.match(planned.url)
        if match is None:
            return self._inner.fetch(planned, start, stop)
        source = self._inner.open(self._archive(planned, match))
        member = _member_of(match, planned)
        return self._pieces(pieces(source, member, start, stop, self._streams, _version(planned, match)))

    async def _pieces(self, found: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
        loop = asyncio.get_running_loop()
        while piece := await loop.run_in_executor(self._threads, _next, found):
            yield piece

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._streams.close()
        await self._inner.close()

    async def _unpacked_alone(self, planned: PlannedObject, context: Context) -> PlannedObject:
        """The one file in a .gz or .bz2, in its place among those its archive knows; anything else as it is."""
        found = await self._members(planned) if planned.path.lower().endswith((".gz", ".bz2")) else None
        if found is None or len(found) != 1:
            return planned
        folder = planned.path.rpartition("/")[0]
        return _member_object(planned, found[0], f"{folder}/" if folder else "", context)

    async def _members(self, planned: PlannedObject) -> list[Member] | None:
        """What lies in an object, None where it is no archive."""
        if not _may_be_packed(planned):
            return None
        source = self._inner.open(planned)

        def look() -> list[Member] | None:
            kind = kind_of(source)
            return members(source, kind, self._most) if kind is not None else None

        return await asyncio.get_running_loop().run_in_executor(self._threads, look)

    def _archive(self, planned: PlannedObject, match: re.Match[str]) -> PlannedObject:
        """The archive a member lies in, as its source planned it."""
        url = match["url"]
        whole = planned.model_copy(update={"url": url, "bytes": int(match["size"]), "path": url.rsplit("/", 1)[-1]})
        return whole.model_copy(update={"location": self._located(whole)})


def in_inbox(planned: PlannedObject) -> Location:
    """Where an upload's file lies, by its URL."""
    return InboxKey(key=planned.url.removeprefix("inbox:"))


def in_file_root(planned: PlannedObject) -> Location:
    """Where a file below a root lies, by its URL."""
    root, _, path = planned.url.removeprefix("file-root:").partition("/")
    return FileRootPath(root=root, path=path)


def elsewhere(planned: PlannedObject) -> Location:
    """Behind a URL nothing else is needed."""
    return Segments(origin=storage.origin(planned.url, planned.version))


def _may_be_packed(planned: PlannedObject) -> bool:
    return "#" not in planned.url and planned.path.lower().endswith(tuple(suffix for suffix, _ in SUFFIXES))


def _member_object(archive: PlannedObject, member: Member, prefix: str, context: Context) -> PlannedObject:
    where = f"{archive.bytes},{member.how},{member.start},{member.packed},{member.crc},{quote(member.path)}"
    url = f"{archive.url}#unpacked={where}"
    version = archive.version
    if isinstance(archive.location, Segments) and archive.etag is None and " " not in version:
        # Nobody could tell another archive of the same size, so these bytes are never lent to another run.
        version = f"{version} as seen by {context.job} r{context.revision}"
    return archive.model_copy(
        update={
            "path": f"{prefix}{member.path}",
            "url": url,
            "location": Segments(origin=storage.origin(url, version)),
            "bytes": member.bytes,
            "checksum": None,
            "packed_in": archive.checksum,
        }
    )


def _told(archive: PlannedObject) -> dict[str, JsonValue]:
    told: dict[str, JsonValue] = {"bytes": archive.bytes}
    if archive.checksum is not None:
        told[archive.checksum.algorithm] = archive.checksum.hex
    return told


def _version(planned: PlannedObject, match: re.Match[str]) -> str:
    """Of the archive a member lies in."""
    return f"{match['url']} {match['size']} {planned.version}"


def _member_of(match: re.Match[str], planned: PlannedObject) -> Member:
    how = match["how"]
    assert how in get_args(How)
    start, packed, crc = (int(match[name]) for name in ("start", "packed", "crc"))
    return Member(unquote(match["path"]), planned.bytes, how, start, packed, crc)  # type: ignore[arg-type]  # looked at above


def _chosen(found: list[Member]) -> tuple[list[Member], list[str]]:
    """Members that may be images, and the paths of the others."""
    if any(PurePosixPath(member.path).name in TREES for member in found):
        return found, []
    kept = [member for member in found if not _beside(PurePosixPath(member.path))]
    return kept, [member.path for member in found if _beside(PurePosixPath(member.path))]


def _beside(path: PurePosixPath) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return hidden or path.suffix.lower() in LEFT_OUT


def _next(found: Iterator[bytes]) -> bytes:
    """The next piece that holds anything; empty at the end."""
    return next((piece for piece in found if piece), b"")
