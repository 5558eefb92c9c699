"""Source `inbox`: files that a client uploaded; read in place, never copied.

An upload lies below `<upload>/` in the inbox bucket, its index `<upload>/.emporter.json` written last. The upload's name is the
hash of what it holds, so the index can't say anything else than what was asked for, and each file's sha256 is checked when it
is read.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import Field, ValidationError

from emporter_contracts import ids, storage
from emporter_contracts.commands import IngestRequest, Message
from emporter_contracts.plans import Checksum, InboxKey, PlannedObject
from emporter_readers.cached import CachedSource
from emporter_readers.ordering import natural_order
from emporter_readers.protocol import ByteSource
from emporter_runtime.errors import ObjectMissingError
from emporter_runtime.objects import Objects
from fetcher.errors import InboxRefusedError
from fetcher.gate import Gate
from fetcher.sources.protocol import Context, Listing
from fetcher.stored import stored_pieces

INDEX = ".emporter.json"
MAX_INDEX_BYTES = 64 * 2**20
"""Of an index: a quarter of a million files; a larger one is no index of ours."""

_SOURCE_ID = re.compile(rf"(?P<name>.+)-(?P<upload>[0-9a-f]{{{ids.HASH_LENGTH}}})\Z")
_AGAIN = "upload the files again: emporter ingest PATH"


class UploadedFile(Message):
    """One file of an upload."""

    path: Annotated[str, Field(min_length=1, max_length=1024)]
    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class UploadIndex(Message):
    """`.emporter.json`: written when every file is there."""

    name: str = ""
    files: Annotated[tuple[UploadedFile, ...], Field(min_length=1)]


class InboxSource:
    """source_id is `<name>-<upload>`."""

    name = "inbox"

    def __init__(self, objects: Objects, gate: Gate, connections: int) -> None:
        self.gate = gate
        self.connections = connections
        self._objects = objects

    async def resolve(self, request: IngestRequest, _: Context) -> Listing:
        match = _SOURCE_ID.match(request.source_id)
        if match is None:
            raise InboxRefusedError(f"{request.source_id[:100]!r} names no upload", hint=_AGAIN)
        upload = match["upload"]
        index = await self._index(upload)
        stored = {info.key: info.size async for info in self._objects.listing(storage.INBOX, f"{upload}/")}
        by_path = {file.path: file for file in index.files}
        objects = tuple(_planned(upload, by_path[path], stored) for path in natural_order(by_path))
        return Listing(objects=objects, download_url=f"inbox:{request.source_id}", description=match["name"])

    def open(self, planned: PlannedObject) -> ByteSource:
        key = _key(planned)

        def read(start: int, stop: int) -> bytes:
            return self._objects.get_range_sync(storage.INBOX, key, start, stop)

        return CachedSource(planned.path, planned.bytes, read)

    def fetch(self, planned: PlannedObject, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        return stored_pieces(self._objects, storage.INBOX, _key(planned), start, stop)

    async def close(self) -> None:
        return

    async def _index(self, upload: str) -> UploadIndex:
        key = f"{upload}/{INDEX}"
        try:
            if (await self._objects.head(storage.INBOX, key)).size > MAX_INDEX_BYTES:
                raise InboxRefusedError(f"the index of upload {upload} is too large", hint=_AGAIN)
            index = UploadIndex.model_validate_json(await self._objects.get(storage.INBOX, key))
        except ObjectMissingError as error:
            raise InboxRefusedError(f"upload {upload} is not in the inbox, or not finished", hint=_AGAIN) from error
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise InboxRefusedError(f"the index of upload {upload} is broken: {where}: {first['msg']}", hint=_AGAIN) from error
        _check(index, upload)
        return index


def _check(index: UploadIndex, upload: str) -> None:
    """Raises InboxRefusedError where the index is not the one the upload is named after, or names what lies elsewhere."""
    paths = [file.path for file in index.files]
    if len(set(paths)) != len(paths):
        raise InboxRefusedError(f"the index of upload {upload} names a file twice", hint=_AGAIN)
    for path in paths:
        pure = PurePosixPath(path)
        outside = pure.is_absolute() or ".." in pure.parts or not pure.parts
        if outside or str(pure) != path or path == INDEX or not path.isprintable():
            raise InboxRefusedError(f"upload {upload}: {path[:200]!r} is no path inside an upload", hint=_AGAIN)
    made_of = ids.upload_id((file.path, file.bytes, file.sha256) for file in index.files)
    if made_of != upload:
        raise InboxRefusedError(f"the index of upload {upload} is of other files ({made_of})", hint=_AGAIN)


def _planned(upload: str, file: UploadedFile, stored: dict[str, int]) -> PlannedObject:
    key = f"{upload}/{file.path}"
    if stored.get(key) != file.bytes:
        there = f"has {stored[key]} bytes" if key in stored else "is missing"
        raise InboxRefusedError(f"upload {upload}: {file.path} {there}, its index says {file.bytes}", hint=_AGAIN)
    return PlannedObject(
        path=file.path,
        url=f"inbox:{key}",
        location=InboxKey(key=key),
        bytes=file.bytes,
        version=file.sha256,
        checksum=Checksum(algorithm="sha256", hex=file.sha256),
    )


def _key(planned: PlannedObject) -> str:
    assert isinstance(planned.location, InboxKey)
    return planned.location.key
