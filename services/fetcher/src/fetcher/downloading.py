"""One unit of a plan from the archive into the store: streamed, hashed on the way, written once.

A unit is a segment of at most 64 MiB: it is held in memory, never in a local file, and put under a create-only key that all
jobs share. What is there already is hashed again instead of being fetched again. Objects that are read in place are only hashed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np

from emporter_contracts import storage
from emporter_contracts.plans import SEGMENT_BYTES, FetchPlan, PlannedObject, Segments, Unit
from emporter_runtime.errors import ObjectMissingError
from emporter_runtime.logging import get_logger
from emporter_runtime.objects import Objects
from emporter_runtime.tasks import ended
from fetcher import checksums
from fetcher.errors import ArchiveMisbehavesError, RangesIgnoredError, SourceChangedError
from fetcher.sources.protocol import Source
from fetcher.stored import stored_pieces

UNITS_PER_CONNECTION = 2
"""Units under way for each connection: so many are looked up, stored and entered while others arrive."""
HASHED_AT_ONCE = 4 * 2**20
"""Bytes handed to the hashing thread: enough that the hand-over costs nothing."""
HASHED_IN_PASSING = 256 * 2**10
"""Bytes hashed on the loop: less than the hand-over to a thread costs, and over in a quarter of a millisecond."""
FORCE_HINT = "ingest it again with --force fetch"

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StoredUnit:
    """One unit, stored or read in place. `fetched` is how many bytes were asked of the archive for it."""

    unit: str
    bytes: int
    sha256: str
    etag: str | None
    fetched: int


async def store_unit(plan: FetchPlan, unit: Unit, source: Source, objects: Objects) -> StoredUnit:
    """Store one unit of `plan`. Harmless when repeated, and when another process does the same at the same time.

    Raises TransientError where archive or store are away, FetcherError where the bytes are not those that were planned.
    """
    planned = plan.objects[unit.obj]
    if isinstance(planned.location, Segments):
        sha256, fetched = await _copied(planned, planned.location.origin, unit.segment, source, objects)
    else:
        sha256, fetched = await _read_in_place(planned, unit.segment, source), 0
    if planned.segments == 1:
        checksums.check(planned, {"sha256": sha256})
    return StoredUnit(unit.id, plan.unit_bytes(unit), sha256, planned.etag, fetched)


async def store_units(
    plan: FetchPlan, units: Iterable[Unit], source: Source, objects: Objects, entered: Callable[[StoredUnit], Awaitable[None]]
) -> None:
    """Several units at once; `entered` is awaited with each as soon as it is stored.

    The first error, of a unit or of `entered`, gives up the units under way and is raised.
    """
    waiting = iter(units)

    async def one_after_another() -> None:
        for unit in waiting:
            await entered(await store_unit(plan, unit, source, objects))

    # Sources hold to their own limits of connections: while some units arrive, others are stored and entered.
    tasks = [asyncio.create_task(one_after_another()) for _ in range(UNITS_PER_CONNECTION * source.connections)]
    try:
        await asyncio.gather(*tasks)
    finally:
        await ended(*tasks)


async def _copied(planned: PlannedObject, origin: str, k: int, source: Source, objects: Objects) -> tuple[str, int]:
    """sha256 of segment `k`, and the bytes asked of the archive for it."""
    start, size = _place(planned, k)
    kept = await _kept(objects, storage.segment(origin, k), size)
    if kept is not None:
        return kept, 0
    try:
        async with source.gate.room(size), aclosing(source.fetch(planned, start, start + size)) as pieces:
            data, sha256 = await _Cutter(planned.path, pieces).next(size)
            await _put(planned, storage.segment(origin, k), data, sha256, objects)
            return sha256, size
    except RangesIgnoredError:
        return await _copied_in_one_pass(planned, origin, k, source, objects)


async def _copied_in_one_pass(
    planned: PlannedObject, origin: str, wanted: int, source: Source, objects: Objects
) -> tuple[str, int]:
    """From a server without ranges: whoever comes first reads the object from its beginning and stores every segment, the
    others wait and find theirs. Costs a whole download again only where the process dies in between.
    """
    async with source.gate.alone(origin):
        kept = await _kept(objects, storage.segment(origin, wanted), _place(planned, wanted)[1])
        if kept is not None:
            return kept, 0
        log.info("no_ranges", object=planned.path, segments=planned.segments)
        found: list[str] = []
        async with source.gate.room(SEGMENT_BYTES), aclosing(source.fetch(planned, 0, planned.bytes)) as pieces:
            cutter = _Cutter(planned.path, pieces)
            for k in range(planned.segments):
                data, sha256 = await cutter.next(_place(planned, k)[1])
                await _put(planned, storage.segment(origin, k), data, sha256, objects)
                found.append(sha256)
        return found[wanted], planned.bytes


async def _read_in_place(planned: PlannedObject, k: int, source: Source) -> str:
    start, size = _place(planned, k)
    digests, read = {"sha256": checksums.new_digest("sha256")}, 0
    async with aclosing(source.fetch(planned, start, start + size)) as pieces:
        async for piece in pieces:
            await checksums.updated(digests, piece)
            read += len(piece)
    if read != size:
        raise ArchiveMisbehavesError(f"{planned.path}: {read} bytes instead of {size}", hint="ingest it again")
    return digests["sha256"].hexdigest()


class _Cutter:
    """Cuts a stream of pieces into segments, hashed on the way: off the loop, a stretch behind what arrives."""

    def __init__(self, name: str, pieces: AsyncIterator[bytes]) -> None:
        self._name = name
        self._pieces = pieces
        self._rest = memoryview(b"")

    async def next(self, size: int) -> tuple[memoryview, str]:
        """The next `size` bytes and their sha256. Raises ArchiveMisbehavesError where the stream ends before."""
        # numpy asks for huge pages: touching a fresh bytearray of 64 MiB costs as much as receiving it.
        data, held, hashed = np.empty(size, np.uint8).data, 0, 0
        digest, hashing = checksums.new_digest("sha256"), asyncio.ensure_future(asyncio.sleep(0))
        while held < size:
            if not self._rest:
                self._rest = memoryview(await anext(self._pieces, b""))
            if not self._rest:
                raise ArchiveMisbehavesError(f"{self._name} ended {size - held} bytes early", hint="ingest it again")
            taken = self._rest[: size - held]
            data[held : held + len(taken)] = taken
            held += len(taken)
            self._rest = self._rest[len(taken) :]
            if held == size <= HASHED_IN_PASSING:
                digest.update(data)
            elif held - hashed >= HASHED_AT_ONCE or held == size:
                await hashing
                hashing = asyncio.ensure_future(asyncio.to_thread(digest.update, data[hashed:held]))
                hashed = held
        await hashing
        return data, digest.hexdigest()


async def _put(planned: PlannedObject, key: str, data: memoryview, sha256: str, objects: Objects) -> None:
    """Put a segment unless it is there; what is there must be the same bytes."""
    if await objects.create(storage.RAW, key, data):
        return
    if await _kept(objects, key, len(data)) != sha256:
        raise SourceChangedError(f"{planned.url} serves other bytes than before under one version", hint=FORCE_HINT)


async def _kept(objects: Objects, key: str, size: int) -> str | None:
    """The sha256 of a segment that is stored already, None where it is not there."""
    try:
        info = await objects.head(storage.RAW, key)
    except ObjectMissingError:
        return None
    if info.size != size:
        raise SourceChangedError(f"{storage.RAW}/{key} has {info.size} bytes, planned are {size}", hint=FORCE_HINT)
    digests = {"sha256": checksums.new_digest("sha256")}
    async with aclosing(stored_pieces(objects, storage.RAW, key, 0, size)) as pieces:
        async for piece in pieces:
            await checksums.updated(digests, piece)
    log.debug("segment_kept", key=key, bytes=size)
    return digests["sha256"].hexdigest()


def _place(planned: PlannedObject, k: int) -> tuple[int, int]:
    """Where segment `k` begins, and its bytes."""
    start = k * SEGMENT_BYTES
    return start, min(planned.bytes, start + SEGMENT_BYTES) - start
