"""Volumes that are read where they lie: what is below a root, by metadata alone, as registrations ready to be committed."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from emporter.errors import MistakeError
from emporter.ingesting import SCHEMES as URLS
from emporter_contracts.commands import IngestRequest, Select
from emporter_contracts.geometry import AXES, Box, VoxelSize
from emporter_contracts.ids import record_uuid, short_hash, slug, volume_id
from emporter_contracts.jobs import JobState
from emporter_contracts.plans import Caveat, Role
from emporter_contracts.policy import EMBARGO_PARAMETER
from emporter_contracts.records import Core, LevelRecord, Metadata, MetadataRecord, Provenance, Technical, exact, json_safe
from emporter_contracts.registrations import PREFIX, RegisteredLevel, Registration, SourceDocument
from emporter_readers.chunked.attaching import attached
from emporter_readers.chunked.following import followed_documents, root_of
from emporter_readers.chunked.pyramids import Pyramid, pyramids
from emporter_readers.chunked.reader import ChunkedReader
from emporter_readers.chunked.tree import MOST_JSON_BYTES
from emporter_readers.errors import UnsupportedContentError
from emporter_readers.protocol import Hints
from emporter_readers.sampling import role_of
from emporter_runtime.registering import Registering
from emporter_runtime.roots import (
    FILE_ROOT,
    Got,
    Root,
    RootForbiddenError,
    RootSettings,
    address_of,
    canonical_root,
    file_root_of,
    open_root,
)

LOOKED_AT = 64
"""Chunks of the coarsest level that are looked for: a root where none of so few is there holds nothing."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be registered, and what the user says of it. `source` is a URL, `file-root:…` or a path of this machine."""

    source: str
    name: str | None = None
    hints: Hints = Hints()
    voxel_size_nm: tuple[float | None, float | None, float | None] | None = None
    labels_of: str | None = None
    embargo_until: str | None = None


async def look(wanted: Wanted, settings: RootSettings) -> list[Registering]:
    """The volumes below a root. Reads metadata, and of what may be labels a few chunks.

    Raises MistakeError, ReaderError, RootRefusedError, RootUnreachableError, FileRootError, NotPublicError.
    """
    url = root_url(wanted.source, settings)
    root = open_root(url, settings)
    try:
        return await _Looking(wanted, root, settings).registrations()
    finally:
        await root.close()


def root_url(source: str, settings: RootSettings) -> str:
    """The root that `source` names, as it is kept. Raises MistakeError, RootRefusedError."""
    if source.startswith(URLS):
        return canonical_root(root_of(source) or source)
    if source.startswith(FILE_ROOT):
        return canonical_root(source)
    path = Path(source).expanduser()
    if not path.is_dir():
        raise MistakeError(f"{source} is no folder", hint="name the folder of an array, or its URL")
    return canonical_root(file_root_of(path, settings.file_roots))


class _Looking:
    """One look at one root."""

    def __init__(self, wanted: Wanted, root: Root, settings: RootSettings) -> None:
        self._wanted = wanted
        self._root = root
        self._settings = settings
        # The earliest moment that anything below was looked at: what is changed later is another source.
        self._as_of = datetime.now(UTC)
        self._clocks: list[datetime] = []
        self._modified: list[datetime] = []

    async def registrations(self) -> list[Registering]:
        documents = await followed_documents(self._document, level=None)
        user = VoxelSize.said("user", self._wanted.voxel_size_nm or (None, None, None))
        found = pyramids(documents, self._wanted.hints, user)
        return [await self._registering(pyramid, documents) for pyramid in found]

    async def _document(self, name: str) -> bytes | None:
        try:
            got = await self._root.whole(name, MOST_JSON_BYTES)
        except RootForbiddenError:
            return None
        if got is None:
            return None
        self._clocks += [got.clock] if got.clock is not None else []
        self._modified += [got.modified] if got.modified is not None else []
        return got.data

    async def _registering(self, pyramid: Pyramid, documents: dict[str, bytes]) -> Registering:
        finest = pyramid.levels[0].reader
        objects = _Below(self._root)
        await asyncio.to_thread(_check_not_empty, attached(pyramid.levels[-1].reader, objects), self._root.url)
        role, guessed = await self._role(pyramid, objects)
        request = self._request(pyramid, role)
        registration = Registration(
            volume=volume_id(self._job(), pyramid.series),
            revision=1,
            root=self._root.url,
            format=pyramid.format,  # type: ignore[arg-type]  # the names of the three formats
            select=pyramid.select,
            axes=self._wanted.hints.axes,
            shape=finest.shape,
            dtype=finest.dtype.name,
            role=role,
            voxel_size=pyramid.voxel_size,
            source_start=pyramid.start,
            levels=tuple(
                RegisteredLevel(
                    number=k.number,
                    shape=k.reader.shape,
                    chunk=k.reader.native.cell,
                    scale=k.scale,
                    translation=k.translation,
                    factor=k.factor,
                )
                for k in pyramid.levels
            ),
            documents=tuple(
                SourceDocument(name=name, sha256=hashlib.sha256(body).hexdigest()) for name, body in sorted(documents.items())
            ),
            as_of=max([min(self._clocks, default=self._as_of), *self._modified]),
            registered_at=datetime.now(UTC),
        )
        return Registering(registration, self._record(registration, request, pyramid, guessed), request)

    def _job(self) -> str:
        """The name of the volume, or of all of them."""
        if self._wanted.name is not None:
            readable = slug(self._wanted.name)
            if not readable:
                raise MistakeError(f"--name {self._wanted.name!r} leaves nothing", hint="use letters and digits")
            return PREFIX + readable
        hints = self._wanted.hints
        said = f"{self._root.url}\0{hints.select.model_dump_json()}\0{hints.axes}\0{hints.role}\0{self._wanted.voxel_size_nm}"
        return PREFIX + "-".join(filter(None, (slug(self._root.url.rpartition("/")[2]), short_hash(said))))

    async def _role(self, pyramid: Pyramid, objects: _Below) -> tuple[Role, tuple[Caveat, ...]]:
        hints = self._wanted.hints
        if hints.role != "auto":
            return hints.role, ()
        if self._wanted.labels_of is not None:
            return "labels", ()
        if pyramid.role is not None:
            return pyramid.role, ()
        return await asyncio.to_thread(role_of, attached(pyramid.levels[0].reader, objects), hints)

    def _request(self, pyramid: Pyramid, role: Role) -> IngestRequest:
        """The ingest that would copy this very volume, through the sources there are."""
        url = self._root.url
        if url.startswith(FILE_ROOT):
            source, source_id = "file-root", url.removeprefix(FILE_ROOT)
        else:
            source, source_id = "url", (address_of(url, self._settings) if url.startswith("gs://") else url) + "/"
        select = self._wanted.hints.select if not pyramid.series else pyramid.select
        return IngestRequest(
            source=source,
            source_id=source_id,
            select=Select(series=select.series, channel=select.channel, time=select.time),
            axes=self._wanted.hints.axes,
            role=role,
            voxel_size_nm=self._wanted.voxel_size_nm,
            labels_of=self._wanted.labels_of if role == "labels" else None,
            parameters={EMBARGO_PARAMETER: until} if (until := self._wanted.embargo_until) else {},
        )

    def _record(
        self, made: Registration, request: IngestRequest, pyramid: Pyramid, guessed: tuple[Caveat, ...]
    ) -> MetadataRecord:
        finest, levels = made.levels[0], made.levels
        core = Core(
            description=self._wanted.name or pyramid.name or made.root.rpartition("/")[2],
            volume_shape=made.shape,
            voxel_size_nm=made.voxel_size.nm,
            data_type=made.dtype,
            role=made.role,
            labels_of=self._wanted.labels_of if made.role == "labels" else None,
            source_origin=made.source_start,
        )
        technical = Technical(
            file_size_bytes=exact(prod(made.shape) * np.dtype(made.dtype).itemsize),
            chunk=finest.chunk,
            levels=tuple(
                LevelRecord(shape=k.shape, chunk=k.chunk, shard=k.chunk, scale=k.scale, translation=k.translation) for k in levels
            ),
            fill_value=pyramid.fill_value,
        )
        software = f"emporter {version('emporter')}"
        provenance = Provenance(download_url=made.root, software=software, voxel_size=made.voxel_size)
        return MetadataRecord(
            id=record_uuid(made.volume),
            volume=made.volume,
            revision=made.revision,
            source=request.source,
            source_id=request.source_id,
            status=JobState.COMPLETE,
            managed=False,
            created_at=made.registered_at,
            updated_at=made.registered_at,
            metadata=Metadata(core=core, technical=technical, provenance=provenance),
            caveats=(*pyramid.caveats, *guessed, *self._caveats(made)),
            additional_metadata={"header": json_safe(dict(pyramid.said))},
        )

    def _caveats(self, made: Registration) -> tuple[Caveat, ...]:
        found = [
            Caveat(code="read_in_place", evidence=f"voxels are read from {made.root}, which nobody here keeps from changing")
        ]
        unknown = ", ".join(axis for axis, nm in zip(AXES, made.voxel_size.nm, strict=True) if nm is None)
        if unknown:
            found.append(Caveat(code="voxel_size_unknown", evidence=f"nobody says it along {unknown}"))
        told = ", ".join(axis for axis, by in zip(AXES, made.voxel_size.said_by, strict=True) if by == "user")
        if told:
            found.append(Caveat(code="voxel_size_by_user", evidence=f"along {told}"))
        return tuple(found)


class _Below:
    """The objects below a root (NamedObjects), for worker threads of the running loop."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._loop = asyncio.get_running_loop()

    def whole(self, name: str, most: int) -> bytes | None:
        got = self._done(self._root.whole(name, most))
        return None if got is None else got.data

    def size(self, name: str) -> int | None:
        got = self._done(self._root.part(name, 0, 1))
        return None if got is None else got.size

    def part(self, name: str, start: int, stop: int) -> bytes:
        got = self._done(self._root.part(name, start, stop))
        return b"" if got is None else got.data

    def _done(self, work: Coroutine[Any, Any, Got | None]) -> Got | None:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def _check_not_empty(reader: ChunkedReader, url: str) -> None:
    """Raises UnsupportedContentError where the coarsest level is small enough to look at every object, and none is there."""
    whole = Box.whole(reader.shape)
    cells = list(islice(reader.cells(whole), LOOKED_AT))
    names = {name for cell in cells for name in reader.array.names(cell)}
    if reader.chunks(whole) <= LOOKED_AT and all(reader.lookup(name) is None for name in sorted(names)):
        raise UnsupportedContentError(
            f"{url}: its metadata is there, but none of its chunks", hint="is the folder complete, and may its chunks be read?"
        )
