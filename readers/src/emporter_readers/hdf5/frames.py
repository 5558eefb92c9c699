"""What two processes say to each other over pipes: frames of a kind, a length, and that many bytes."""

from __future__ import annotations

import os
import select
import struct
from enum import IntEnum
from typing import NamedTuple

HEAD = struct.Struct(">BQ")
RANGE = struct.Struct(">QQ")
MAX_FRAME_BYTES = 128 * 2**20
"""Where each of 4 million chunks lies, and some. A broken process may claim more."""


class Kind(IntEnum):
    """A query; bytes it needs, asked for by READ and given by DATA; its answer in two frames, or an error."""

    QUERY = 1
    READ = 2
    DATA = 3
    ANSWER = 4
    NUMBERS = 5
    ERROR = 6


class BrokenConversationError(Exception):
    """The other process has ended, is silent for too long, or makes no sense. Never seen by a user."""


class Frame(NamedTuple):
    kind: int
    content: bytes


def send(fd: int, kind: Kind, content: bytes, patience: float | None) -> None:
    """`patience` in seconds that nobody takes it, or None to wait. Raises BrokenConversationError."""
    view = memoryview(HEAD.pack(kind, len(content)) + content)
    waiting = select.poll()
    waiting.register(fd, select.POLLOUT)
    while view:
        _wait(waiting, patience)
        try:
            # A pipe that is ready takes this much at least, so the write can't block.
            view = view[os.write(fd, view[: select.PIPE_BUF]) :]
        except OSError as error:
            raise BrokenConversationError("it has ended") from error


def receive(fd: int, patience: float | None) -> Frame:
    """The next frame; `patience` in seconds of silence, or None to wait. Raises BrokenConversationError."""
    kind, length = HEAD.unpack(_exactly(fd, HEAD.size, patience))
    if length > MAX_FRAME_BYTES:
        raise BrokenConversationError("it makes no sense")
    return Frame(kind, _exactly(fd, length, patience))


def _exactly(fd: int, length: int, patience: float | None) -> bytes:
    parts: list[bytes] = []
    waiting = select.poll()
    waiting.register(fd, select.POLLIN)
    while length:
        _wait(waiting, patience)
        part = os.read(fd, min(length, 2**20))
        if not part:
            raise BrokenConversationError("it has ended")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _wait(waiting: select.poll, patience: float | None) -> None:
    if not waiting.poll(None if patience is None else patience * 1000):
        raise BrokenConversationError("it takes too long")
