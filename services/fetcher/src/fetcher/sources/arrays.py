"""Remote arrays: metadata first, then only the objects that hold chunks of the region asked for.

A root is asked for its documents by name, since most archives list nothing: what is there is followed from document to document.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import JsonValue

from emporter_contracts.commands import IngestRequest
from emporter_contracts.geometry import Box
from emporter_contracts.plans import PlannedObject
from emporter_readers.array import MemorySource
from emporter_readers.chunked import n5, precomputed, zarr2, zarr3
from emporter_readers.chunked.format import N5, PRECOMPUTED, ZARR, Choice, ChunkedFormat
from emporter_readers.chunked.images import dataset_paths, multiscales_of
from emporter_readers.chunked.shards import ShardedChunks
from emporter_readers.chunked.stored import Cell, Lookup
from emporter_readers.chunked.tree import Document, Tree, under
from emporter_readers.protocol import ByteSource, Hints
from fetcher.errors import NotInArchiveError, RegionOutsideError
from fetcher.regions import region_of
from fetcher.sources.over_http import span

MOST_OBJECTS = 200_000
"""Of one plan: thirteen times the largest array of the five archives, and a plan that still fits into memory."""
MOST_SERIES = 1000
"""Images looked for below one root: a plate has a few hundred."""
INDEX_READERS = 8
"""Minishard indexes read at once while a plan is made."""

ZARR_DOCUMENTS = (zarr3.NODE, zarr2.ATTRIBUTES, zarr2.ARRAY, zarr2.GROUP, zarr2.CONSOLIDATED)


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
    found = await _Following(root, request).documents()
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


class _Following:
    """From the root's documents to those they speak of, as far as the request needs them."""

    def __init__(self, root: ArrayRoot, request: IngestRequest) -> None:
        self._root = root
        self._level = request.select.level or 0
        self._series = request.select.series
        self._bodies: dict[str, bytes] = {}

    async def documents(self) -> dict[str, bytes]:
        """Bodies by name."""
        await self._get([*ZARR_DOCUMENTS, n5.ATTRIBUTES, precomputed.INFO])
        if any(name in self._bodies for name in ZARR_DOCUMENTS):
            await self._zarr("")
        elif precomputed.INFO not in self._bodies and not n5.is_dataset(self._said(n5.ATTRIBUTES)):
            await self._n5()
        return self._bodies

    async def _zarr(self, folder: str) -> None:
        attributes = self._said(under(folder, zarr2.ATTRIBUTES)) or self._attributes(folder)
        known = self._consolidated(folder)
        wanted = []
        for multiscale in multiscales_of(attributes):
            paths = dataset_paths(folder, multiscale)
            wanted += [paths[self._level]] if self._level < len(paths) else []
        if "bioformats2raw.layout" in {*attributes, *_part(attributes, "ome")}:
            await self._all_series(folder)
        names = (zarr3.NODE,) if under(folder, zarr3.NODE) in self._bodies else (zarr2.ARRAY, zarr2.ATTRIBUTES)
        await self._get([under(path, name) for path in wanted if path not in known for name in names])

    async def _all_series(self, folder: str) -> None:
        """Images named 0, 1, … until there is none; a gap before the one asked for does not matter."""
        for number in range(MOST_SERIES):
            inside = under(folder, str(number))
            await self._get([under(inside, name) for name in ZARR_DOCUMENTS])
            if not any(under(inside, name) in self._bodies for name in ZARR_DOCUMENTS):
                return
            await self._zarr(inside)

    async def _n5(self) -> None:
        """Levels named s0, s1, …, or by multiscales."""
        named = [path for one in multiscales_of(self._said(n5.ATTRIBUTES)) for path in dataset_paths("", one)]
        await self._get(
            [under(path, n5.ATTRIBUTES) for path in named[: self._level + 1] or [f"s{k}" for k in range(self._level + 1)]]
        )

    async def _get(self, names: list[str]) -> None:
        bodies = await asyncio.gather(*(self._root.document(name) for name in names))
        # A server that answers every name with a page has none of them.
        self._bodies.update((name, body) for name, body in zip(names, bodies, strict=True) if body and _is_object(body))

    def _attributes(self, folder: str) -> Document:
        return _part(self._said(under(folder, zarr3.NODE)), "attributes")

    def _consolidated(self, folder: str) -> set[str]:
        """Folders whose metadata a document of `folder` holds already."""
        older = _part(self._said(under(folder, zarr2.CONSOLIDATED)), "metadata")
        newer = _part(_part(self._said(under(folder, zarr3.NODE)), "consolidated_metadata"), "metadata")
        return {under(folder, path.rpartition("/")[0]) for path in older if path.endswith(zarr2.ARRAY)} | {
            under(folder, path) for path in newer
        }

    def _said(self, name: str) -> Document:
        body = self._bodies.get(name)
        said = json.loads(body) if body is not None else {}
        return said if isinstance(said, dict) else {}


def _part(document: Document, key: str) -> Document:
    part: Any = document.get(key)
    return part if isinstance(part, dict) else {}


def _is_object(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body), dict)
    except (ValueError, RecursionError):
        return False
