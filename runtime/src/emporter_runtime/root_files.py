"""A folder below a file root, as it lies."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path

from emporter_runtime.errors import ObjectMissingError
from emporter_runtime.file_roots import FileRootError, folder, opened, parts_of, root_folder, version_of
from emporter_runtime.roots import FILE_ROOT, MOST_OBJECT_BYTES, Got, RootRefusedError, RootUnreachableError


class FileFolder:
    """A Root of files. No link is followed; what is opened is what was checked."""

    def __init__(self, url: str, roots: dict[str, Path]) -> None:
        self.url = url
        name, _, path = url.removeprefix(FILE_ROOT).partition("/")
        self._folder = root_folder(roots, name).resolve()
        self._path = "/".join(parts_of(path))

    async def whole(self, name: str, most: int = MOST_OBJECT_BYTES) -> Got | None:
        return await asyncio.to_thread(self._read, name, 0, None, most)

    async def part(self, name: str, start: int, stop: int) -> Got | None:
        return await asyncio.to_thread(self._read, name, start, stop, stop - start)

    async def touched_since(self, name: str, moment: datetime) -> bool:
        return await asyncio.to_thread(self._touched, name, moment)

    async def close(self) -> None:
        return

    def _read(self, name: str, start: int, stop: int | None, most: int) -> Got | None:
        try:
            with opened(self._folder, f"{self._path}/{name}") as descriptor:
                before = os.fstat(descriptor)
                last = before.st_size if stop is None else min(stop, before.st_size)
                if last - start > most:
                    raise RootRefusedError(f"{name} has {before.st_size} bytes", hint=f"at most {most} are read at once")
                data = _all(descriptor, start, last)
                after = os.fstat(descriptor)
        except (ObjectMissingError, NotADirectoryError):
            return None
        except OSError as error:
            raise RootUnreachableError(f"{name} can't be read: {error.strerror}") from error
        if _version(before) != _version(after) or len(data) != max(0, last - start):
            # Half of one version, half of another: as good as a version nobody has seen.
            return Got(data, after.st_size, f"{_version(after)} while it was read", datetime.now(UTC))
        return Got(data, after.st_size, _version(after), _changed(after))

    def _touched(self, name: str, moment: datetime) -> bool:
        """The nearest folder that is there tells: making or deleting a folder changes the one it lies in."""
        parts = parts_of(f"{self._path}/{name}")[:-1]
        while parts:
            try:
                with folder(self._folder, parts) as descriptor:
                    return _changed(os.fstat(descriptor)) > moment
            except ObjectMissingError:
                parts = parts[:-1]
            except FileRootError:
                return True
        return True


def _version(status: os.stat_result) -> str:
    return f"{version_of(status)} {status.st_ino} {status.st_ctime_ns}"


def _changed(status: os.stat_result) -> datetime:
    """The later of the times of its bytes and of its inode: the first can be set back by anyone, the second by nobody."""
    return datetime.fromtimestamp(max(status.st_mtime_ns, status.st_ctime_ns) / 1e9, UTC)


def _all(descriptor: int, start: int, stop: int) -> bytes:
    """One `pread` gives less than asked for past 2 GiB and when interrupted."""
    pieces = []
    while start < stop:
        piece = os.pread(descriptor, stop - start, start)
        if not piece:
            break
        pieces.append(piece)
        start += len(piece)
    return b"".join(pieces)
