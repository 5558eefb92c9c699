"""Files of the user's into the inbox: hashed, sent in parts, resumable, and visible to a fetcher only when all of it is there."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from emporter.errors import MistakeError
from emporter_contracts import ids
from emporter_contracts.commands import IngestRequest
from emporter_contracts.storage import INBOX, is_shown
from emporter_runtime.errors import ObjectMissingError
from emporter_runtime.objects import STREAM_PART_BYTES, Objects

INDEX = ".emporter.json"
"""Lists the files of an upload. Written last: an upload without it does not exist."""
PIECE_BYTES = 4 * 2**20
"""Of one read: hashing and sending take turns on so much."""
SETTLE_SECONDS = 0.02
"""A thread of obstore needs the interpreter for a moment after its last answer; a program that ends within it is aborted."""
MAX_PARTS = 9_000
"""S3 allows 10,000 parts of one object."""


@dataclass(frozen=True, slots=True)
class LocalFile:
    """One file to upload; `path` is its name inside the upload, with slashes."""

    at: Path
    path: str
    bytes: int


@dataclass(frozen=True, slots=True)
class HashedFile(LocalFile):
    sha256: str


@dataclass(frozen=True, slots=True)
class Step:
    """How far an upload is: this many bytes of `file` were hashed or sent, or found there already, since the last step."""

    doing: Literal["hash", "send", "skip"]
    file: LocalFile
    bytes: int


@dataclass(frozen=True, slots=True)
class Upload:
    """Files in the inbox, ready to be ingested."""

    upload: str
    name: str
    files: tuple[HashedFile, ...]

    @property
    def source_id(self) -> str:
        return f"{self.name}-{self.upload}"

    def request(self) -> IngestRequest:
        """The plain request for these files."""
        return IngestRequest(source="inbox", source_id=self.source_id)


Told = Callable[[Step], None]


def collect(paths: Sequence[Path]) -> list[LocalFile]:
    """The files that `paths` stand for: files, or folders with everything in them but what is hidden. Raises MistakeError."""
    found: dict[str, LocalFile] = {}
    for given in paths:
        if not given.exists():
            raise MistakeError(f"there is no file {given}", hint="check the spelling; quote names with spaces")
        for file in _files(given):
            if file.path in found:
                raise MistakeError(f"two files are named {file.path}", hint="give the folder that holds both")
            found[file.path] = file
    if not found:
        raise MistakeError(f"no file in {', '.join(map(str, paths))}", hint="give a file, or a folder that holds slices")
    return [found[path] for path in sorted(found)]


async def upload(objects: Objects, files: Sequence[LocalFile], name: str, told: Told = lambda _: None) -> Upload:
    """Hash the files, send those that are not there, then the index. Begun again it goes on where it stopped.

    Raises MistakeError where a file can't be read or changes meanwhile, StoreUnavailableError, DiskFullError.
    """
    hashed = [await asyncio.to_thread(_hashed, file, told) for file in files]
    made = Upload(ids.upload_id((f.path, f.bytes, f.sha256) for f in hashed), _name(name), tuple(hashed))
    for file in hashed:
        await _send(objects, made.upload, file, told)
    listed = [{"path": f.path, "bytes": f.bytes, "sha256": f.sha256} for f in hashed]
    index = json.dumps({"name": made.name, "files": listed}).encode()
    await objects.put(INBOX, f"{made.upload}/{INDEX}", index)
    await asyncio.sleep(SETTLE_SECONDS)
    return made


def default_name(paths: Sequence[Path]) -> str:
    """What an upload is called where nobody says: the first file's stem, or the folder's name."""
    first = paths[0].resolve()
    return first.name if first.is_dir() else first.name.split(".", 1)[0] or first.stem


def _name(name: str) -> str:
    made = ids.slug(name)
    if not made:
        raise MistakeError(f"{name!r} holds no letter or digit", hint="give a name with --name")
    return made


def _files(given: Path) -> Iterable[LocalFile]:
    if given.is_file():
        return [_local(given, given.name)]
    inside = (path for path in sorted(given.rglob("*")) if path.is_file())
    relative = ((path, path.relative_to(given)) for path in inside)
    return [_local(path, name.as_posix()) for path, name in relative if all(is_shown(part) for part in name.parts)]


def _local(at: Path, path: str) -> LocalFile:
    if not path.isprintable() or path == INDEX:
        raise MistakeError(f"{path!r} can't be the name of an uploaded file", hint="rename it")
    return LocalFile(at, path, at.stat().st_size)


def _hashed(file: LocalFile, told: Told) -> HashedFile:
    digest = hashlib.sha256()
    size = 0
    try:
        with file.at.open("rb") as opened:
            while piece := opened.read(PIECE_BYTES):
                digest.update(piece)
                size += len(piece)
                told(Step("hash", file, len(piece)))
    except OSError as error:
        raise _unreadable(file, error) from error
    return HashedFile(file.at, file.path, size, digest.hexdigest())


async def _send(objects: Objects, upload_id: str, file: HashedFile, told: Told) -> None:
    key = f"{upload_id}/{file.path}"
    try:
        # The upload's name is a hash of its files, so a key that is there with this size holds these bytes.
        if (await objects.head(INBOX, key)).size == file.bytes:
            told(Step("skip", file, file.bytes))
            return
    except ObjectMissingError:
        pass
    part = max(STREAM_PART_BYTES, -(-file.bytes // MAX_PARTS))
    await objects.put_stream(INBOX, key, _pieces(file, told), part)


async def _pieces(file: HashedFile, told: Told) -> AsyncIterator[bytes]:
    """The file's bytes, as they were hashed; an error at their end where they changed since, so that nothing is stored."""
    digest = hashlib.sha256()
    try:
        with file.at.open("rb") as opened:
            while piece := await asyncio.to_thread(_read_and_hash, opened, digest):
                yield piece
                told(Step("send", file, len(piece)))
    except OSError as error:
        raise _unreadable(file, error) from error
    if digest.hexdigest() != file.sha256:
        raise MistakeError(f"{file.at} changed while it was uploaded", hint="upload it when nobody writes to it")


def _read_and_hash(opened: object, digest: object) -> bytes:
    piece: bytes = opened.read(PIECE_BYTES)  # type: ignore[attr-defined]
    digest.update(piece)  # type: ignore[attr-defined]
    return piece


def _unreadable(file: LocalFile, error: OSError) -> MistakeError:
    return MistakeError(f"{file.at} can't be read: {error.strerror}", hint="check its permissions")
