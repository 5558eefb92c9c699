"""One source of one registered revision: its objects, and whether they are still those that were registered."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TypeVar

from block_server.errors import SourceAwayError, SourceChangedError, SourceClosedError
from emporter_contracts.ids import VolumeRef
from emporter_contracts.registrations import Registration
from emporter_readers.chunked.tree import MOST_JSON_BYTES
from emporter_readers.errors import CorruptObjectError
from emporter_runtime.errors import PermanentError, TransientError
from emporter_runtime.logging import get_logger
from emporter_runtime.roots import Got, Root

REMEMBERED = 100_000
"""Objects of one source whose version is remembered, some 200 bytes each."""

T = TypeVar("T")

log = get_logger(__name__)


class Source:
    """Belongs to the event loop it is made in; its objects (NamedObjects) are read from worker threads.

    Reading raises SourceChangedError, CorruptObjectError, and what the root raises.
    """

    def __init__(self, ref: VolumeRef, root: Root, registration: Registration, seconds: float) -> None:
        self.ref = ref
        self._root = root
        self._registration = registration
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._seen: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()
        self._changed = ""
        self._looked = float("-inf")
        self._looking: asyncio.Task[dict[str, bytes]] | None = None

    async def check(self) -> None:
        """Look whether the metadata is still what was registered, where the last look is too old.

        Raises SourceChangedError, SourceAwayError, SourceClosedError.
        """
        self.check_unchanged()
        if time.monotonic() - self._looked < self._seconds:
            return
        if self._looking is None:
            self._looking = asyncio.create_task(self.documents())
            self._looking.add_done_callback(self._looked_at)
        try:
            await asyncio.shield(self._looking)
        except TransientError as error:
            raise SourceAwayError(f"the source of {self.ref} is away: {error.message}", hint="ask again in a moment") from error
        except PermanentError as error:
            raise SourceClosedError(f"the source of {self.ref} can't be read: {error.message}", hint=error.hint) from error

    def check_unchanged(self) -> None:
        """Raises SourceChangedError where a change was seen, ever."""
        if self._changed:
            raise self._is_changed(self._changed)

    async def documents(self) -> dict[str, bytes]:
        """The metadata as it was registered, by name. Raises SourceChangedError, and what the root raises."""
        began = time.monotonic()
        wanted = self._registration.documents
        found = await asyncio.gather(*(self._root.whole(document.name, MOST_JSON_BYTES) for document in wanted))
        for document, got in zip(wanted, found, strict=True):
            if got is None:
                raise self._is_changed(f"{document.name} is gone")
            if hashlib.sha256(got.data).hexdigest() != document.sha256:
                raise self._is_changed(f"{document.name} has other bytes")
        self._looked = began
        return {document.name: got.data for document, got in zip(wanted, found, strict=True) if got is not None}

    def whole(self, name: str, most: int) -> bytes | None:
        got = self._read(name, lambda: self._root.whole(name, most))
        return None if got is None else got.data

    def size(self, name: str) -> int | None:
        got = self._read(name, lambda: self._root.part(name, 0, 1))
        return None if got is None else got.size

    def part(self, name: str, start: int, stop: int) -> bytes:
        got = self._read(name, lambda: self._root.part(name, start, stop))
        if got is None or len(got.data) != stop - start:
            raise CorruptObjectError(f"{name}: ends before byte {stop}")
        return got.data

    def _read(self, name: str, ask: Callable[[], Awaitable[Got | None]]) -> Got | None:
        """From a worker thread: an object, looked at before it is believed."""
        self.check_unchanged()
        got = asyncio.run_coroutine_threadsafe(_awaited(ask()), self._loop).result()
        if got is None:
            self._absent(name)
        else:
            self._present(name, got)
        return got

    def _present(self, name: str, got: Got) -> None:
        if got.modified is not None and got.modified > self._registration.as_of:
            raise self._is_changed(f"{name} was changed at {got.modified.isoformat()}")
        with self._lock:
            before = self._seen.get(name)
            self._seen[name] = got.version
            self._seen.move_to_end(name)
            while len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)
        if before is not None and before != got.version:
            raise self._is_changed(f"{name} is another version than was read before")

    def _absent(self, name: str) -> None:
        """A chunk that is not there is fill value: unless it was there."""
        with self._lock:
            before = self._seen.get(name)
        if before is not None:
            raise self._is_changed(f"{name} is gone")
        as_of = self._registration.as_of
        touched = asyncio.run_coroutine_threadsafe(_awaited(self._root.touched_since(name, as_of)), self._loop).result()
        if touched:
            raise self._is_changed(f"{name} is not there, and its folder was changed since then")

    def _is_changed(self, what: str) -> SourceChangedError:
        """From now on nothing of this revision is served."""
        if not self._changed:
            log.warning("source_changed", volume=str(self.ref), root=self._registration.root, what=what)
            self._changed = what
        return SourceChangedError(
            f"{self.ref} is read where it lies, and its source is not what was registered: {what}",
            hint="register it again with --force: what is there now becomes a new revision",
        )

    def _looked_at(self, task: asyncio.Task[dict[str, bytes]]) -> None:
        self._looking = None
        if not task.cancelled():
            task.exception()  # told to whoever waits


async def _awaited(work: Awaitable[T]) -> T:
    return await work
