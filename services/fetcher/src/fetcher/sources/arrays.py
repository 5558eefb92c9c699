"""Remote arrays: metadata first, then only the objects that hold chunks of the region asked for.

A root is asked for its documents by name, since most archives list nothing: what is there is followed from document to document.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from pydantic import JsonValue

from emporter_contracts.commands import IngestRequest
from emporter_contracts.geometry import Box
from emporter_contracts.plans import PlannedObject
from emporter_readers.array import MemorySource
from emporter_readers.chunked.following import followed_documents
from emporter_readers.chunked.format import N5, PRECOMPUTED, ZARR, Choice, ChunkedFormat
from emporter_readers.chunked.shards import ShardedChunks
from emporter_readers.chunked.stored import Cell, Lookup
from emporter_readers.chunked.tree import Tree
from emporter_readers.protocol import ByteSource, Hints
from fetcher.errors import NotInArchiveError, RegionOutsideError
from fetcher.regions import region_of
from fetcher.sources.over_http import span

MOST_OBJECTS = 200_000
"""Of one plan: thirteen times the largest array of the five archives, and a plan that still fits into memory."""
INDEX_READERS = 8
"""Minishard indexes read at once while a plan is made."""


class ArrayRoot(Protocol):
    """A folder of an archive. Names are relative to it."""

    @property
    def url(self) -> str: ...

    async def document(self, name: str) -> bytes | None:
        """A small object, None where there is none."""

    async def objects(self, names: Sequence[str]) -> list[PlannedObject]:
        """Those of `names` that are there, with size and version, in the same order; each under its name as path."""

    def open(self, planned: PlannedObject) -> ByteSource:
        """To be read from worker threads."""


@dataclass(frozen=True, slots=True)
class RemoteArray:
    """What the metadata below a root says; no voxel was asked for."""

    root: ArrayRoot
    format: ChunkedFormat
    documents: tuple[str, ...]
    choices: tuple[Choice, ...]

    @property
    def first(self) -> Choice:
        """The first volume: all of one image have one shape."""
        return self.choices[0]

    def region(self, request: IngestRequest) -> Box | None:
        """The voxels asked for, counted from the first; None where all are. Raises RegionOutsideError."""
        if request.region is None and request.random_region is None:
            return None
        reader = self.first.reader
        if any(choice.reader.shape != reader.shape for choice in self.choices):
            raise RegionOutsideError("the volumes below this root have several shapes", hint="choose one with select.series")
        return region_of(request, reader.shape, reader.level.start, reader.array.name)


async def remote_array(root: ArrayRoot, request: IngestRequest) -> RemoteArray:
    """The array below `root` that `request` means. Raises NotInArchiveError where there is none, ReaderError."""
    found = await followed_documents(root.document, level=request.select.level or 0)
    sources = [MemorySource(name, body) for name, body in found.items()]
    for format_ in (ZARR, N5, PRECOMPUTED):
        if format_.claims(sources):
            hints = Hints(select=request.select, axes=request.axes)
            return RemoteArray(root, format_, tuple(found), tuple(format_.choices(Tree(sources), hints)))
    raise NotInArchiveError(
        f"{root.url} holds no Zarr, N5 or precomputed array", hint="name the folder that holds zarr.json, .zarray or info"
    )


async def array_objects(array: RemoteArray, region: Box | None) -> tuple[tuple[PlannedObject, ...], dict[str, JsonValue]]:
    """Metadata and chunks of `region` (None: of all) as objects, and how many chunks the grid has there and the archive.

    Raises RegionOutsideError where they are more than a plan holds.
    """
    wanted = sum(choice.reader.chunks(region or Box.whole(choice.reader.shape)) for choice in array.choices)
    if wanted > MOST_OBJECTS:
        raise RegionOutsideError(
            f"{array.root.url}: {wanted} chunks are too many for one ingest", hint=f"choose a region of at most {MOST_OBJECTS}"
        )
    documents = await array.root.objects(array.documents)
    chunks: dict[str, PlannedObject] = {}
    for choice in array.choices:
        reader = choice.reader
        cells = list(reader.cells(region or Box.whole(reader.shape)))
        layout = reader.array.layout
        if isinstance(layout, ShardedChunks):
            found = await _in_shards(array.root, layout, cells)
        else:
            found = await array.root.objects(list(dict.fromkeys(reader.array.object_name(cell) for cell in cells)))
        chunks.update((planned.path, planned) for planned in found)
    counted: dict[str, JsonValue] = {"chunks_in_region": wanted, "objects_found": len(chunks)}
    return (*documents, *chunks.values()), counted


async def lookup_of(root: ArrayRoot, names: Iterable[str]) -> Lookup:
    """Objects by name, for worker threads. All that will be asked for must be named here."""
    sources = {planned.path: root.open(planned) for planned in await root.objects(list(dict.fromkeys(names)))}
    return sources.get


async def _in_shards(root: ArrayRoot, layout: ShardedChunks, cells: list[Cell]) -> list[PlannedObject]:
    """Each chunk as a span of its shard, named as if there were no shards."""
    around = {planned.path: planned for planned in await root.objects(list(dict.fromkeys(layout.shard(cell) for cell in cells)))}
    sources = {name: root.open(planned) for name, planned in around.items()}

    def located(group: list[Cell]) -> list[PlannedObject]:
        spans = [(cell, layout.locate(cell, sources.get)) for cell in group]
        return [span(layout.plain.name_of(cell), around[at.name], at.start, at.stop) for cell, at in spans if at is not None]

    loop = asyncio.get_running_loop()
    pool = ThreadPoolExecutor(INDEX_READERS, thread_name_prefix="shards")
    try:
        groups = await asyncio.gather(*(loop.run_in_executor(pool, located, group) for group in layout.minishards(cells)))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return [planned for group in groups for planned in group]
