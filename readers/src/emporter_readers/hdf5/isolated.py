"""Ask a process of its own about the structure of an HDF5 file.

The library that reads it is written in C and does not survive every damaged file: a few flipped bits in a header end the process
or run in circles. So the structure is read by a child with bounded memory and time, that gets bytes and gives back where
the values lie; these are read here, by byte ranges, without the library.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass

from emporter_readers.errors import AmbiguousContentError, CorruptObjectError, ReaderError, UnsupportedContentError
from emporter_readers.hdf5.dataset import Dataset, heard
from emporter_readers.hdf5.frames import RANGE, BrokenConversationError, Frame, Kind, receive, send
from emporter_readers.protocol import ByteSource

PATIENCE_SECONDS = 60.0
"""Of silence: twice the processor time a child is given for one file."""
MAX_IDLE = 2
"""Children kept for the next file: starting one takes a third of a second."""
MAX_FILES = 200
"""One child reads, so that what the library leaks does not grow."""
MAX_READ_BYTES = 64 * 2**20
MAX_READ_TOTAL = 2**30
"""Of one file's structure. A child that asks for more reads voxels or runs in circles."""
ERRORS: dict[str, type[ReaderError]] = {
    kind.code: kind for kind in (CorruptObjectError, UnsupportedContentError, AmbiguousContentError)
}  # fmt: skip


def inspected(source: ByteSource, path: str | None) -> Dataset:
    """The dataset at `path` of `source`; where it is None the only one that could be a volume.

    Raises ReaderError, and what reading the source raises.
    """
    child = _taken()
    try:
        dataset = child.ask(source, path)
    except (UnsupportedContentError, AmbiguousContentError):
        _given_back(child)
        raise
    except BrokenConversationError as error:
        child.end()
        raise CorruptObjectError(
            f"{source.name}: its structure is damaged (reading it: {error})",
            hint="the file is truncated or damaged; fetch it again",
        ) from error
    except BaseException:
        child.end()
        raise
    _given_back(child)
    return dataset


def _started() -> subprocess.Popen[bytes]:
    # Plugins are code that the library would load by a name in a file.
    environment = os.environ | {"HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "emporter_readers.hdf5.child"]
    return subprocess.Popen(  # noqa: S603  # our own module by our own interpreter
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0, env=environment
    )


@dataclass(slots=True)
class _Child:
    process: subprocess.Popen[bytes]
    files: int = 0

    def ask(self, source: ByteSource, path: str | None) -> Dataset:
        self.files += 1
        query = {"name": source.name, "size": source.size, "path": path}
        send(self._incoming, Kind.QUERY, json.dumps(query).encode(), PATIENCE_SECONDS)
        read = 0
        while True:
            frame = receive(self._outgoing, PATIENCE_SECONDS)
            if frame.kind != Kind.READ:
                return self._result(frame)
            start, stop = self._range(frame.content, source)
            read += stop - start
            if read > MAX_READ_TOTAL:
                raise BrokenConversationError("it runs in circles")
            send(self._incoming, Kind.DATA, source.read(start, stop), PATIENCE_SECONDS)

    def _range(self, content: bytes, source: ByteSource) -> tuple[int, int]:
        if len(content) != RANGE.size:
            raise BrokenConversationError("it makes no sense")
        start, stop = RANGE.unpack(content)
        if not start <= stop <= source.size or stop - start > MAX_READ_BYTES:
            raise BrokenConversationError("it makes no sense")
        return start, stop

    def _result(self, frame: Frame) -> Dataset:
        try:
            if frame.kind == Kind.ERROR:
                said = json.loads(frame.content)
                raise ERRORS[said["code"]](str(said["message"]), hint=str(said["hint"]))
            numbers = receive(self._outgoing, PATIENCE_SECONDS)
            if (frame.kind, numbers.kind) != (Kind.ANSWER, Kind.NUMBERS):
                raise BrokenConversationError("it makes no sense")
            return heard(frame.content, numbers.content)
        except (ValueError, KeyError, TypeError) as error:
            raise BrokenConversationError("it makes no sense") from error

    @property
    def _incoming(self) -> int:
        assert self.process.stdin is not None
        return self.process.stdin.fileno()

    @property
    def _outgoing(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def end(self) -> None:
        self.process.kill()
        with self.process:  # closes its pipes and waits for it
            pass


_idle: list[_Child] = []
_lock = threading.Lock()


def _taken() -> _Child:
    with _lock:
        if _idle:
            return _idle.pop()
    return _Child(_started())


def _given_back(child: _Child) -> None:
    with _lock:
        if len(_idle) < MAX_IDLE and child.files < MAX_FILES:
            _idle.append(child)
            return
    child.end()


def _end_all() -> None:
    with _lock:
        while _idle:
            _idle.pop().end()


def _forget() -> None:
    """In a forked copy of this process: the children are the original's."""
    global _lock  # noqa: PLW0603  # the copy may have been made while it was held
    _lock = threading.Lock()
    for child in _idle:
        child.process.returncode = 0
    _idle.clear()


atexit.register(_end_all)
os.register_at_fork(after_in_child=_forget)
