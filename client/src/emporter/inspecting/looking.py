"""Look at files, a folder or a URL through the readers an ingest uses, and say what they found or why they refuse."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from emporter.archive_settings import ArchiveSettings
from emporter.errors import MistakeError
from emporter.ingesting import SCHEMES
from emporter.inspecting.compressions import chunk_compression, compression_of
from emporter.inspecting.seen import Inspection, Unreadable, VolumeSeen
from emporter.links import entry_of
from emporter.remote import NotThereError, Web, ftp_file
from emporter.uploading import collect
from emporter_contracts.records import json_safe
from emporter_readers.array import FileSource, MemorySource
from emporter_readers.chunked.decoding import check
from emporter_readers.chunked.following import followed_documents, root_of
from emporter_readers.chunked.format import N5, PRECOMPUTED, ZARR, Choice
from emporter_readers.chunked.tree import Tree
from emporter_readers.discover import discover, natural_order, open_volume
from emporter_readers.errors import ReaderError, UnsupportedContentError
from emporter_readers.protocol import ByteSource, FoundVolume, Hints

PACKED = frozenset({"a ZIP archive", "a tar archive", "gzip-compressed", "bzip2-compressed"})
"""What an ingest unpacks on the way, and an inspection does not."""


def inspect(words: Sequence[str], hints: Hints | None = None, settings: ArchiveSettings | None = None) -> Inspection:
    """What one URL, or files and folders of this machine, hold. A refusal of the readers is part of the answer.

    Raises MistakeError for what is neither, UnreachableError and NotThereError for a URL that can't be read.
    """
    asked = hints or Hints()
    if words[0].startswith(SCHEMES):
        if len(words) > 1:
            raise MistakeError("one URL at a time", hint="call emporter inspect once for each")
        return _remote(words[0], asked, settings or ArchiveSettings())
    return _local([Path(word).expanduser() for word in words], asked)


class _Counting:
    """A ByteSource that adds up what is read of it."""

    def __init__(self, inner: ByteSource) -> None:
        self.name = inner.name
        self.size = inner.size
        self.read_bytes = 0
        self._inner = inner

    def read(self, start: int, stop: int) -> bytes:
        self.read_bytes += stop - start
        return self._inner.read(start, stop)


def _local(paths: Sequence[Path], hints: Hints) -> Inspection:
    files = collect(paths)
    places = {file.path: file.at for file in files}
    sources = [_Counting(FileSource(name, places[name])) for name in natural_order(places)]
    what = ", ".join(map(str, paths))
    return _seen(
        what,
        len(sources),
        sum(source.size for source in sources),
        lambda: sum(source.read_bytes for source in sources),
        lambda: _of_files(sources, hints),
    )


def _remote(url: str, hints: Hints, settings: ArchiveSettings) -> Inspection:
    url = _data_url(url)
    root = root_of(url)
    with Web(settings.url_s3_endpoint, settings.url_s3_region) as web:
        if root is not None:
            return _seen(url, 0, None, lambda: web.read.bytes, lambda: _of_root(web, root, hints))
        source = ftp_file(url, web.read) if url.startswith("ftp://") else web.file(url)
        return _seen(url, 1, source.size, lambda: web.read.bytes, lambda: _of_files([source], hints))


def _data_url(url: str) -> str:
    """`url` itself; a page of an archive holds no bytes of an image, and what it is about is asked of the stack."""
    entry = entry_of(url)
    if entry is None or url.startswith(("gs://", "s3://")):
        return url
    if entry.source == "url":
        return entry.source_id
    if root_of(url) is not None and urlsplit(url).netloc.endswith(("amazonaws.com", "googleapis.com")):
        return url
    if urlsplit(url).path.endswith(".tif"):
        return url
    raise MistakeError(
        f"this is a page about {entry.source} {entry.source_id}, no data",
        hint=f"emporter ingest {entry.source} {entry.source_id} --plan says what an ingest would bring",
    )


def _seen(
    what: str, files: int, size: int | None, count: Callable[[], int], look: Callable[[], tuple[VolumeSeen, ...]]
) -> Inspection:
    volumes: tuple[VolumeSeen, ...] = ()
    refused: Unreadable | None = None
    try:
        volumes = look()
    except ReaderError as error:
        refused = Unreadable(code=error.code, message=error.message, hint=_hint(error))
    selects = [volume.select for volume in volumes]
    return Inspection(
        what=what,
        files=files,
        bytes=size,
        bytes_read=count(),
        series=len({select.series or 0 for select in selects}),
        channels=len({select.channel or 0 for select in selects}),
        times=len({select.time or 0 for select in selects}),
        volumes=volumes,
        unreadable=refused,
    )


def _hint(error: ReaderError) -> str:
    if any(error.message.endswith(f"is {packed}") for packed in PACKED):
        return "an ingest unpacks it; to inspect it, unpack it first"
    return error.hint


def _of_files(sources: Sequence[ByteSource], hints: Hints) -> tuple[VolumeSeen, ...]:
    return tuple(_volume(sources, found) for found in discover(sources, hints))


def _volume(sources: Sequence[ByteSource], found: FoundVolume) -> VolumeSeen:
    reader = open_volume([sources[n] for n in found.objects], found)
    return VolumeSeen(
        format=found.format,
        name=found.name,
        select=found.select,
        shape=found.shape,
        dtype=found.dtype,
        voxel_size=found.voxel_size,
        native_chunk=reader.native.cell,
        compression=compression_of(found, reader),
        role=found.role,
        start=found.start,
        translation_nm=found.translation_nm,
        caveats=found.caveats,
        said=found.said,
    )


def _of_root(web: Web, root: str, hints: Hints) -> tuple[VolumeSeen, ...]:
    """The volumes below a remote root, by metadata alone: no chunk is asked for."""

    async def document(name: str) -> bytes | None:
        return await asyncio.to_thread(web.document, _below(web.address(root), name))

    bodies = asyncio.run(followed_documents(document, level=hints.select.level or 0))
    sources = [MemorySource(name, body) for name, body in bodies.items()]
    for format_ in (ZARR, N5, PRECOMPUTED):
        if format_.claims(sources):
            return tuple(_choice(format_.name, choice) for choice in format_.choices(Tree(sources), hints))
    if not bodies and web.document(web.address(root) + "/") is None:
        raise NotThereError(
            f"{root} holds no Zarr, N5 or precomputed array", hint="name the folder of zarr.json, .zarray or info"
        )
    raise UnsupportedContentError(
        f"{root} holds no Zarr, N5 or precomputed array", hint="name the folder of zarr.json, .zarray or info"
    )


def _choice(format_name: str, choice: Choice) -> VolumeSeen:
    reader, image = choice.reader, choice.image
    check(reader.array)
    said = {**(image.said or {}), **reader.array.said}
    return VolumeSeen(
        format=format_name,
        name=image.name,
        select=choice.select,
        shape=reader.shape,
        dtype=reader.dtype.name,
        voxel_size=reader.voxel_size,
        native_chunk=reader.native.cell,
        compression=chunk_compression(reader.array.said),
        levels=image.levels,
        role=image.role,
        start=reader.level.start,
        translation_nm=reader.translation_nm,
        caveats=(*reader.placed.caveats, *reader.array.caveats),
        said={name: json_safe(document) for name, document in said.items()},
    )


def _below(root: str, name: str) -> str:
    parts = urlsplit(root)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(name)}"))
