"""Builders for tests: plans and sources without an archive behind them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from datetime import UTC, datetime

from emporter_contracts import storage
from emporter_contracts.commands import IngestRequest
from emporter_contracts.plans import SEGMENT_BYTES, Checksum, FetchPlan, PlannedObject, Segments
from emporter_readers.array import MemorySource
from emporter_readers.protocol import ByteSource
from fetcher.gate import Gate
from fetcher.sources.protocol import Context, Listing, Part


def a_request(source: str = "url", source_id: str = "http://archive/volume.tif", **fields: object) -> IngestRequest:
    return IngestRequest.model_validate({"source": source, "source_id": source_id, **fields})


def a_plan(*objects: PlannedObject, source: str = "url") -> FetchPlan:
    return FetchPlan(
        job="job",
        revision=1,
        source=source,
        source_id="x",
        objects=objects,
        volumes=(),
        planned_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def an_object(
    path: str, size: int, *, url: str = "", etag: str | None = '"1"', modified: str = "", checksum: Checksum | None = None
) -> PlannedObject:
    """An object that is copied into segments."""
    where = url or f"http://archive/{path}"
    version = etag or f"{size} {modified}".strip()
    origin = storage.origin(where, version)
    return PlannedObject(
        path=path, url=where, location=Segments(origin=origin), bytes=size, version=version, etag=etag, checksum=checksum
    )


class MemoryArchive:
    """A Source over bytes: the in-memory twin. Counts what is fetched, by path."""

    name = "url"

    def __init__(self, files: Mapping[str, bytes], *parts: Part, connections: int = 4, **listing: object) -> None:
        self.files = dict(files)
        self.gate = Gate(4 * SEGMENT_BYTES)
        self.connections = connections
        self.fetched: dict[str, int] = dict.fromkeys(files, 0)
        self.opened: list[MemorySource] = []
        self._parts = parts
        self._listing = listing

    async def resolve(self, request: IngestRequest, _: Context) -> Listing:
        objects = tuple(an_object(path, len(data)) for path, data in self.files.items())
        return Listing(objects=objects, download_url=request.source_id, parts=self._parts, **self._listing)  # type: ignore[arg-type]

    def open(self, planned: PlannedObject) -> ByteSource:
        self.opened.append(MemorySource(planned.path, self.files[planned.path]))
        return self.opened[-1]

    async def fetch(self, planned: PlannedObject, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        for position in range(start, stop, 1_000_003):
            piece = self.files[planned.path][position : min(stop, position + 1_000_003)]
            self.fetched[planned.path] += len(piece)
            yield piece

    async def close(self) -> None:
        return
