"""Folders of this machine that messages may name, opened one step at a time so that no link leads out of them.

A path is walked from the operator's folder with `openat` and O_NOFOLLOW: what is checked is what is opened, also when
somebody changes the tree in between.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from emporter_runtime.errors import ObjectMissingError, PermanentError, TransientError


class FileRootError(PermanentError):
    """A path outside what the operator named, one that leads elsewhere, or no regular file."""

    code = "file_root_refused"


def version_of(status: os.stat_result) -> str:
    """What tells that a file changed: its size and time of change, in nanoseconds."""
    return f"{status.st_size} {status.st_mtime_ns}"


def parts_of(path: str) -> tuple[str, ...]:
    """The steps of a relative path. Raises FileRootError for anything that could lead out of a folder."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path:
        raise FileRootError(f"{path[:200]!r} is no path below a file root", hint="write <root>/<path>, without .. or a leading /")
    return parts


def root_folder(roots: dict[str, Path], name: str) -> Path:
    """The folder an operator gave a name. Raises FileRootError, which does not tell the folders of the others."""
    root = roots.get(name)
    if root is None:
        known = ", ".join(sorted(roots)) or "none is named here"
        raise FileRootError(
            f"there is no file root {name[:100]!r}", hint=f"known: {known}; an operator adds one with --file-root"
        )
    return root


@contextmanager
def opened(root: Path, path: str) -> Iterator[int]:
    """A descriptor of the regular file `path` below `root`, for reading. Raises FileRootError or ObjectMissingError."""
    *folders, name = parts_of(path)
    with folder(root, tuple(folders)) as parent:
        # O_NONBLOCK: a pipe that nobody writes would hold us for ever before we see what it is.
        descriptor = _step(parent, name, os.O_RDONLY | os.O_NONBLOCK, path)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise FileRootError(f"{path} is no regular file", hint="name files, or a pattern that matches files")
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def folder(root: Path, parts: tuple[str, ...]) -> Iterator[int]:
    """A descriptor of a folder below `root`."""
    try:
        current = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise TransientError(
            f"the file root {root.name} can't be opened: {error.strerror}", hint="is its disk mounted?"
        ) from error
    try:
        for n, part in enumerate(parts):
            following = _step(current, part, os.O_RDONLY | os.O_DIRECTORY, "/".join(parts[: n + 1]))
            os.close(current)
            current = following
        yield current
    finally:
        os.close(current)


def _step(parent: int, name: str, flags: int, shown: str) -> int:
    try:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except FileNotFoundError as error:
        raise ObjectMissingError(f"{shown} does not exist", hint="check the path below the file root") from error
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise FileRootError(
                f"{shown} is a link, or leads through one", hint="name the folder it leads to as a file root of its own"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise FileRootError(f"{shown} may not be read by this service", hint="check its permissions") from error
        raise TransientError(f"{shown} can't be read: {error.strerror}") from error
