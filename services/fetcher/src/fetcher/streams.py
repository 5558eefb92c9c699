"""Compressed streams that are read forward here and there: one that is at hand is taken on, instead of beginning anew."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

IDLE_STREAMS = 8
"""Kept over all archives: each holds a decompressor and a mebibyte or two."""


class Streams:
    """Positioned streams by the archive they are of. Used by several threads, each stream by one at a time."""

    def __init__(self) -> None:
        self._idle: OrderedDict[int, tuple[str, IO[bytes]]] = OrderedDict()
        self._lock = threading.Lock()
        self._count = 0

    @contextmanager
    def at(self, archive: str, position: int, opened: Callable[[], IO[bytes]]) -> Iterator[IO[bytes]]:
        """A stream of `archive` that stands at `position`: the idle one that is nearest before it, else one from `opened`.

        `archive` names one version of one archive. After an error the stream is not used again.
        """
        stream = self._taken(archive, position) or opened()
        done = False
        try:
            stream.seek(position)
            yield stream
            done = True
        except GeneratorExit:
            # Whoever read has enough; what was read is whole.
            done = True
            raise
        finally:
            self._let_go(archive, stream, usable=done)

    def _taken(self, archive: str, position: int) -> IO[bytes] | None:
        with self._lock:
            before = [(s.tell(), n) for n, (name, s) in self._idle.items() if name == archive and s.tell() <= position]
            return self._idle.pop(max(before)[1])[1] if before else None

    def _let_go(self, archive: str, stream: IO[bytes], *, usable: bool) -> None:
        if not usable:
            stream.close()
            return
        with self._lock:
            self._count += 1
            self._idle[self._count] = (archive, stream)
            spare = self._idle.popitem(last=False)[1][1] if len(self._idle) > IDLE_STREAMS else None
        if spare is not None:
            spare.close()

    def close(self) -> None:
        """Let go of all that are idle."""
        with self._lock:
            streams = [stream for _, stream in self._idle.values()]
            self._idle.clear()
        for stream in streams:
            stream.close()
