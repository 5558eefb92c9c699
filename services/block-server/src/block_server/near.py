"""Copies of shards on a disk that is near, for a store that is far: bounded, whole or not there, never of another revision.

A copy is known by volume, revision, the commit's digest, level and shard, so it can't stand for other bytes. It is written beside
its place, with its CRC-32C, and moved there when it is whole; copies found after a start are compared with their checksum before
they are used, and every chunk in them has a checksum of its own. Whatever is wrong with a copy, the store is asked instead.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import IO, Any, Self

import google_crc32c
import tensorstore as ts

from block_server import telemetry
from emporter_contracts import storage
from emporter_contracts.geometry import Box, Shape3
from emporter_runtime.errors import RuntimeFaultError
from emporter_runtime.logging import get_logger
from emporter_runtime.objects import Objects

TOUCHES = 2
"""Reads of a shard after which it is worth a copy: a whole shard is many times what one box needs of it."""
AT_ONCE = 2
"""Shards copied at once: the store and the disk are the readers' first."""
QUEUED = 256
"""Shards waiting to be copied; past it the next read asks again."""
REMEMBERED = 65_536
"""Shards whose reads are counted, some 100 bytes each."""
PAUSE_SECONDS = 60.0
"""After the disk took no more: long enough not to fill the log, short enough that somebody who made room sees it used."""
FRESH_SECONDS = 60.0
"""How old the time of last use on the disk may be, by which copies are ordered after a start."""
OWN = "emporter-shards-1"
"""The folder inside the one that is named: what is not whole in it is removed at a start, and nothing else may be. Another number
for another layout."""
PART = ".part"
CHECKSUM = ".crc32c"

log = get_logger(__name__)


@dataclass(slots=True)
class _Copy:
    size: int
    checked: bool
    used: float = 0.0


class NearShards:
    """At most `limit` bytes of shards below `folder`, the longest unused given up first. All of it runs in one event loop."""

    def __init__(self, objects: Objects, folder: Path, limit: int, lock: IO[bytes]) -> None:
        self.folder = folder
        self._objects = objects
        self._limit = limit
        self._lock = lock
        self._copies: OrderedDict[str, _Copy] = _found(folder)
        self._used = sum(copy.size for copy in self._copies.values())
        self._reads: OrderedDict[str, int] = OrderedDict()
        self._making: dict[str, asyncio.Task[None]] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._paused_until = 0.0
        self._shrink(0)
        telemetry.NEAR_BYTES.set_function(lambda: self._used)

    @classmethod
    def open(cls, objects: Objects, folder: Path, limit: int) -> Self | None:
        """The copies in a folder; None, and a line in the log, where another process has it or it can't be written."""
        folder = folder / OWN
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / ".lock").open("wb")
        except OSError as error:
            log.warning("disk_cache_off", folder=str(folder), reason=str(error))
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            log.warning("disk_cache_off", folder=str(folder), reason=str(error))
            return None
        return cls(objects, folder, limit, lock)

    @property
    def used(self) -> int:
        """Bytes of copies, and of those being made."""
        return self._used

    def have(self, places: list[tuple[str, str]]) -> bool:
        """Whether there is a copy of every shard, each given as its place below `folder` and its key in the store. Those that are
        not there are copied in the background once they were asked for often enough.
        """
        lacking = [(place, key) for place, key in places if not self._touch(place)]
        telemetry.NEAR_HITS.inc(len(places) - len(lacking))
        telemetry.NEAR_MISSES.inc(len(lacking))
        for place, key in lacking:
            self._ask(place, key)
        return not lacking

    def forget(self, places: list[tuple[str, str]]) -> None:
        """Copies that could not be read."""
        for place, _ in places:
            if place in self._copies:
                log.warning("disk_cache_damaged", shard=place)
                telemetry.NEAR_FAILURES.inc()
                self._drop(place)

    async def idle(self) -> None:
        """When nothing is being copied."""
        while self._making:
            await asyncio.gather(*self._making.values(), return_exceptions=True)

    async def close(self) -> None:
        """Stop copying, and let another process have the folder."""
        for task in self._making.values():
            task.cancel()
        await self.idle()
        self._lock.close()

    def _touch(self, place: str) -> bool:
        copy = self._copies.get(place)
        if copy is None or not copy.checked:
            return False
        self._copies.move_to_end(place)
        now = time.monotonic()
        if now - copy.used > FRESH_SECONDS:
            copy.used = now
            with suppress(OSError):
                os.utime(self.folder / place)
        return True

    def _ask(self, place: str, key: str) -> None:
        found = place in self._copies  # of an earlier process
        reads = self._reads[place] = self._reads.pop(place, 0) + 1
        if len(self._reads) > REMEMBERED:
            self._reads.popitem(last=False)
        busy = place in self._making or len(self._making) >= QUEUED or time.monotonic() < self._paused_until
        if busy or not (found or reads >= TOUCHES):
            return
        task = asyncio.create_task(self._check(place) if found else self._make(place, key))
        self._making[place] = task
        task.add_done_callback(lambda _: self._making.pop(place, None))

    async def _check(self, place: str) -> None:
        """Whether a copy that was there at the start is what was written."""
        async with self._turns:
            copy = self._copies.get(place)
            if copy is None:
                return
            if await asyncio.to_thread(_intact, self.folder / place, copy.size):
                copy.checked = True
            else:
                self.forget([(place, "")])

    async def _make(self, place: str, key: str) -> None:
        async with self._turns:
            try:
                size = (await self._objects.head(storage.VOLUMES, key)).size
                if size > self._limit:
                    return
                self._shrink(size)
                self._used += size
                try:
                    await self._write(place, key, size)
                except BaseException:
                    self._used -= size
                    raise
                self._copies[place] = _Copy(size, checked=True)
                self._reads.pop(place, None)
            except RuntimeFaultError:
                return  # the reader was told, or will be
            except OSError as error:
                telemetry.NEAR_FAILURES.inc()
                self._paused_until = time.monotonic() + PAUSE_SECONDS
                log.warning("disk_cache_full", shard=place, reason=str(error), pause_seconds=PAUSE_SECONDS)

    async def _write(self, place: str, key: str, size: int) -> None:
        path = self.folder / place
        part = path.with_name(path.name + PART)
        checksum, written = google_crc32c.Checksum(), 0
        try:
            await asyncio.to_thread(part.parent.mkdir, parents=True, exist_ok=True)
            with part.open("wb", buffering=0) as file:
                async for piece in self._objects.stream(storage.VOLUMES, key):
                    checksum.update(piece)
                    written += len(piece)
                    await asyncio.to_thread(_write_all, file, piece)
                if written != size:
                    raise OSError(f"{written} bytes came of {size}")
                await asyncio.to_thread(os.fsync, file.fileno())
            _checksum_of(path).write_text(checksum.hexdigest().decode())
            part.rename(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def _shrink(self, wanted: int) -> None:
        """Give up copies until there is room for so many bytes more."""
        while self._copies and self._used + wanted > self._limit:
            self._drop(next(iter(self._copies)))
            telemetry.NEAR_EVICTIONS.inc()

    def _drop(self, place: str) -> None:
        self._used -= self._copies.pop(place).size
        path = self.folder / place
        with suppress(OSError):
            path.unlink(missing_ok=True)
            _checksum_of(path).unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class NearLevel:
    """One level of a revision, as far as there are copies of its shards. `store` reads them, and raises for what is not there."""

    shards: NearShards
    store: Any
    place: str
    key: str
    shard: Shape3

    @classmethod
    async def open(cls, shards: NearShards, store: Any, context: ts.Context, level: str, known_as: str, key: str) -> Self:
        """`store` is the level in the store, `level` its path in the Zarr, `known_as` the revision with its digest, `key` where
        the level lies in the bucket.
        """
        place = f"{known_as}/{level}/"
        spec = store.spec().to_json() | {"kvstore": {"driver": "file", "path": f"{shards.folder}/{place}"}}
        near = await ts.open(spec, open=True, read=True, assume_metadata=True, context=context)
        z, y, x = store.chunk_layout.write_chunk.shape
        return cls(shards, near, place, key, (z, y, x))

    def have(self, box: Box) -> bool:
        """Whether there is a copy of every shard that holds some of `box`."""
        return self.shards.have(self._places(box))

    def forget(self, box: Box) -> None:
        """The copies that hold some of `box`: one of them could not be read."""
        self.shards.forget(self._places(box))

    def _places(self, box: Box) -> list[tuple[str, str]]:
        ranges = (range(a // s, -(-b // s)) for a, b, s in zip(box.start, box.stop, self.shard, strict=True))
        names = ("c/" + "/".join(map(str, index)) for index in product(*ranges))
        return [(self.place + name, self.key + name) for name in names]


def _checksum_of(path: Path) -> Path:
    return path.with_name(path.name + CHECKSUM)


def _write_all(file: IO[bytes], piece: bytes) -> None:
    rest = memoryview(piece)
    while rest:
        rest = rest[file.write(rest) :]


def _intact(path: Path, size: int) -> bool:
    checksum, read = google_crc32c.Checksum(), 0
    try:
        said = _checksum_of(path).read_text()
        with path.open("rb") as file:
            while piece := file.read(2**20):
                checksum.update(piece)
                read += len(piece)
    except OSError:
        return False
    return read == size and checksum.hexdigest().decode() == said


def _found(folder: Path) -> OrderedDict[str, _Copy]:
    """Copies of an earlier process, the longest unused first. What it did not finish is removed."""
    found: list[tuple[float, str, int]] = []
    for path in folder.rglob("*"):
        if path.is_dir() or path.name == ".lock" or path.name.endswith(CHECKSUM):
            continue
        if path.name.endswith(PART) or not _checksum_of(path).exists():
            path.unlink(missing_ok=True)
            continue
        said = path.stat()
        found.append((said.st_mtime, path.relative_to(folder).as_posix(), said.st_size))
    return OrderedDict((place, _Copy(size, checked=False)) for _, place, size in sorted(found))
