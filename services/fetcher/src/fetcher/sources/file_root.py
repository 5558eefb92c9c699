"""Source `file-root`: files that lie on this machine, below folders the operator named; read in place, never copied."""

from __future__ import annotations

import asyncio
import fnmatch
import os
import re
import stat
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

from emporter_contracts.commands import IngestRequest
from emporter_contracts.plans import FileRootPath, PlannedObject
from emporter_contracts.storage import is_shown
from emporter_readers.cached import CachedSource
from emporter_readers.errors import CorruptObjectError
from emporter_readers.ordering import natural_order
from emporter_readers.protocol import ByteSource
from emporter_runtime.errors import TransientError
from emporter_runtime.file_roots import FileRootError, folder, opened, parts_of, root_folder, version_of
from fetcher.errors import CHANGED_HINT, NotInArchiveError, SourceChangedError
from fetcher.gate import Gate
from fetcher.sources.protocol import Context, Listing

PIECE_BYTES = 4 * 2**20
"""Of one read: large enough that hashing, not calls, is what takes time."""
MAX_FILES = 100_000
"""One pattern may match: more is a mistake in the pattern."""
CONNECTIONS = 4
"""Files read at once by one process."""

_WILD = re.compile(r"[*?\[]")


class FileRootSource:
    """source_id is `<root>/<pattern>`; a folder stands for every file in it, at any depth."""

    name = "file-root"
    connections = CONNECTIONS

    def __init__(self, roots: dict[str, Path], gate: Gate) -> None:
        self.gate = gate
        self._roots = {name: path.resolve() for name, path in roots.items()}

    async def resolve(self, request: IngestRequest, _: Context) -> Listing:
        root, *rest = request.source_id.split("/", 1)
        pattern = "".join(rest)
        where = root_folder(self._roots, root)
        if "**" in pattern:
            raise FileRootError(
                f"{pattern!r}: ** is not known here", hint="name the folder: it stands for every file in it, at any depth"
            )
        found = await asyncio.to_thread(_matching, where, parts_of(pattern))
        if not found:
            raise NotInArchiveError(f"nothing below {root} matches {pattern!r}", hint="quote patterns, and check the spelling")
        objects = [_planned(root, path, found[path]) for path in natural_order(found)]
        return Listing(objects=tuple(objects), download_url=f"file-root:{request.source_id}", description=f"{root}/{pattern}")

    def open(self, planned: PlannedObject) -> ByteSource:
        def read(start: int, stop: int) -> bytes:
            return _read(self._folder(planned), planned, start, stop)

        return CachedSource(planned.path, planned.bytes, read)

    async def fetch(self, planned: PlannedObject, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        for position in range(start, stop, PIECE_BYTES):
            yield await asyncio.to_thread(_read, self._folder(planned), planned, position, min(stop, position + PIECE_BYTES))

    async def close(self) -> None:
        return

    def _folder(self, planned: PlannedObject) -> Path:
        assert isinstance(planned.location, FileRootPath)
        return root_folder(self._roots, planned.location.root)


def _planned(root: str, path: str, status: os.stat_result) -> PlannedObject:
    return PlannedObject(
        path=path,
        url=f"file-root:{root}/{path}",
        location=FileRootPath(root=root, path=path),
        bytes=status.st_size,
        version=version_of(status),
    )


def _read(root: Path, planned: PlannedObject, start: int, stop: int) -> bytes:
    """Bytes of the planned version: looked at after the read, so that a change under our hands is seen."""
    assert isinstance(planned.location, FileRootPath)
    try:
        with opened(root, planned.location.path) as descriptor:
            pieces = list(_pieces(descriptor, start, stop))
            now = version_of(os.fstat(descriptor))
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise TransientError(f"{planned.path} can't be read: {error.strerror}") from error
    if now != planned.version:
        raise SourceChangedError(f"{planned.path} changed since it was planned", hint=CHANGED_HINT)
    data = b"".join(pieces)
    if len(data) != stop - start:
        raise CorruptObjectError(f"{planned.path}: ends at byte {start + len(data)}, needed up to {stop}")
    return data


def _pieces(descriptor: int, start: int, stop: int) -> Iterator[bytes]:
    """One `pread` gives less than asked for past 2 GiB and when interrupted."""
    while start < stop:
        piece = os.pread(descriptor, stop - start, start)
        if not piece:
            return
        yield piece
        start += len(piece)


def _matching(root: Path, pattern: tuple[str, ...]) -> dict[str, os.stat_result]:
    """Every regular file that matches, by its path below the root. Links are refused, not passed over: a stack without one of
    its slices would be another volume.
    """
    found: dict[str, os.stat_result] = {}
    for path, status in _walk(root, (), pattern):
        found[path] = status
        if len(found) > MAX_FILES:
            raise FileRootError(f"more than {MAX_FILES} files match", hint="name a narrower pattern")
    return found


def _walk(root: Path, at: tuple[str, ...], pattern: tuple[str, ...]) -> Iterator[tuple[str, os.stat_result]]:
    names = _names(root, at, pattern[0]) if pattern else _all_names(root, at)
    for name in names:
        path = (*at, name)
        shown = "/".join(path)
        with folder(root, at) as parent:
            status = _status(parent, name, shown)
        if status is None:
            continue
        if stat.S_ISDIR(status.st_mode):
            yield from _walk(root, path, pattern[1:])
        elif len(pattern) <= 1:
            with opened(root, shown) as descriptor:
                yield shown, os.fstat(descriptor)


def _names(root: Path, at: tuple[str, ...], pattern: str) -> list[str]:
    """Names in a folder that match one step of a pattern; every name matches itself, brackets and all."""
    if not _WILD.search(pattern):
        return [pattern]
    matching = re.compile(fnmatch.translate(pattern))
    return [name for name in _all_names(root, at) if name == pattern or matching.match(name)]


def _all_names(root: Path, at: tuple[str, ...]) -> list[str]:
    """Names in a folder, but for hidden ones."""
    with folder(root, at) as descriptor:
        return sorted(name for name in os.listdir(descriptor) if is_shown(name))  # noqa: PTH208  # pathlib takes no descriptor


def _status(parent: int, name: str, shown: str) -> os.stat_result | None:
    """What a name stands for, None where it does not exist. Raises FileRootError for a link."""
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FileRootError(f"{shown} may not be looked at: {error.strerror}", hint="check its permissions") from error
    if stat.S_ISLNK(status.st_mode):
        raise FileRootError(f"{shown} is a link", hint="name the folder it leads to as a file root of its own")
    return status
