"""Volumes that are read where they lie: one virtual chunk is one chunk of the source, decoded by the readers of an ingest.

Chunks lie in the same cache as those of stored volumes, and are joined and bounded as they are. What was known of the source when
it was registered is compared with what it says now; once it differs, nothing of the revision is served any more (decisions/0013).
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray
from pydantic import ValidationError

from block_server import telemetry
from block_server.admission import Admission, Hold
from block_server.arrays import DECODERS, Level, OpenVolume
from block_server.caching import Kept
from block_server.errors import DamagedVolumeError, SourceAwayError, SourceClosedError
from block_server.settings import BlockServerSettings
from block_server.sources import Source
from block_server.waiting import AbandonedError, Wanted
from emporter_contracts import storage
from emporter_contracts.geometry import Box
from emporter_contracts.ids import VolumeRef
from emporter_contracts.plans import Commit
from emporter_contracts.records import MetadataRecord
from emporter_contracts.registrations import RegisteredLevel, Registration
from emporter_readers.chunked.attaching import attached
from emporter_readers.chunked.pyramids import PlacedLevel, Pyramid, pyramids
from emporter_readers.errors import ReaderError
from emporter_readers.protocol import Hints
from emporter_runtime.errors import PermanentError, TransientError
from emporter_runtime.objects import Objects
from emporter_runtime.roots import Root, open_root

COPIES = 2
"""Times a chunk of the source that decoding takes beside what it gives: as it is stored, and as the decoder has it (measured)."""
FOR_EVER = ts.KvStore.TimestampedStorageGeneration(b"registered", float("inf"))
"""A revision never changes: a chunk that is in the cache is never asked for again."""
WATCHED = 4096
"""Sources whose objects are remembered, so that one which was closed and opened again is not trusted more than before."""


class Registered:
    """Opens registered revisions. What was seen of a source outlives the volume that was opened over it."""

    def __init__(self, settings: BlockServerSettings, context: ts.Context) -> None:
        self._settings = settings
        self._context = context
        self._pool = ThreadPoolExecutor(DECODERS, thread_name_prefix="sources")
        self._turns = asyncio.Semaphore(DECODERS)
        self._decoding = Admission(settings.blocks_in_flight_bytes, settings.blocks_wait_seconds)
        self._roots: list[Root] = []
        self._sources: Kept[_Key, Source] = Kept(self._source, most=WATCHED)

    async def open(self, objects: Objects, ref: VolumeRef, document: bytes) -> OpenVolume:
        """The revision whose `registration.json` is `document`. Raises SourceChangedError, SourceAwayError, SourceClosedError,
        DamagedVolumeError.
        """
        assert ref.revision is not None
        commit, record = await asyncio.gather(
            objects.get(storage.VOLUMES, storage.commit(ref.volume, ref.revision)),
            objects.get(storage.VOLUMES, storage.record(ref.volume, ref.revision)),
        )
        digest = hashlib.sha256(document).hexdigest()
        try:
            registration = Registration.model_validate_json(document)
            described = MetadataRecord.model_validate_json(record)
            said = Commit.model_validate_json(commit).digest
        except ValidationError as error:
            raise DamagedVolumeError(f"{ref}: its registration or record is not what it should be: {error}") from error
        if digest != said:
            raise DamagedVolumeError(f"{ref}: its registration is not the one that was committed", hint="register it again")
        source = await self._sources.get(_Key(ref, digest, registration))
        with source_faults(ref):
            pyramid = _described(ref, registration, await source.documents())
        levels = tuple(
            self._level(source, number, placed, said)
            for number, (placed, said) in enumerate(zip(pyramid.levels, registration.levels, strict=True))
        )
        return OpenVolume(ref, digest, described, levels, source)

    async def close(self) -> None:
        """Let go of connections and threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for root in self._roots:
            await root.close()

    async def _source(self, key: _Key) -> Source:
        with source_faults(key.ref):
            root = open_root(key.registration.root, self._settings)
        self._roots.append(root)
        return Source(key.ref, root, key.registration, self._settings.blocks_source_seconds)

    async def _decoded(self, work: Callable[[], None], takes: int, is_wanted: Callable[[], bool]) -> None:
        """`work` in a thread, if it is still wanted when its turn has come. A thread that has begun goes on though its readers
        have gone, and what it `takes` is held until it ends. Raises BusyError, AbandonedError.
        """
        async with self._turns:
            if not is_wanted():
                raise AbandonedError("nobody waits for it any more")
            hold = await self._decoding.hold(takes)
            loop, began = asyncio.get_running_loop(), self._pool.submit(work)
            began.add_done_callback(lambda _: _given_back(loop, hold))
            await asyncio.wrap_future(began)

    def _level(self, source: Source, number: int, placed: PlacedLevel, said: RegisteredLevel) -> Level:
        reader = attached(placed.reader, source)
        loop = asyncio.get_running_loop()
        # With all its channels, and whole where the volume ends within it.
        beside = COPIES * math.prod(reader.array.chunk) * reader.dtype.itemsize
        wanted = Wanted()
        takes = beside + math.prod(said.chunk) * reader.dtype.itemsize

        def fill(box: Box, out: NDArray[Any]) -> None:
            out[...] = reader.read(box)

        async def read(domain: Any, out: NDArray[Any], _: Any) -> Any:
            with source_faults(source.ref):
                source.check_unchanged()
                box = Box(tuple(domain.origin), tuple(domain.exclusive_max))
                await self._decoded(lambda: fill(box, out), takes, lambda: wanted.wants(box))
            telemetry.SOURCE_DECODED.inc(out.nbytes)
            return FOR_EVER

        store = ts.virtual_chunked(
            read,
            loop=loop,
            dtype=reader.dtype,
            shape=said.shape,
            chunk_layout=ts.ChunkLayout(chunk_shape=said.chunk),
            context=self._context,
        )
        return Level(
            number=number,
            path=str(number),
            shape=said.shape,
            chunk=said.chunk,
            shard=said.chunk,
            dtype=np.dtype(reader.dtype).newbyteorder("<"),
            scale=said.scale,
            translation=said.translation,
            factor=said.factor,
            store=store,
            beside=beside,
            wanted=wanted,
        )


def _given_back(loop: asyncio.AbstractEventLoop, hold: Hold) -> None:
    """From a thread of the pool."""
    with suppress(RuntimeError):  # the server has stopped, and nobody counts any more
        loop.call_soon_threadsafe(hold.shrink, 0)


class _Key:
    """A registered revision, equal by name and digest: a number that was given again after a lost store is another."""

    __slots__ = ("_digest", "ref", "registration")

    def __init__(self, ref: VolumeRef, digest: str, registration: Registration) -> None:
        self.ref = ref
        self.registration = registration
        self._digest = digest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and (self.ref, self._digest) == (other.ref, other._digest)

    def __hash__(self) -> int:
        return hash((self.ref, self._digest))


def _described(ref: VolumeRef, registration: Registration, documents: dict[str, bytes]) -> Pyramid:
    """What the documents, which are those that were registered, speak of. Raises DamagedVolumeError where our readers now see
    something else in them.
    """
    hints = Hints(select=registration.select, axes=registration.axes, role=registration.role)
    found = pyramids(documents, hints)
    if len(found) != 1:
        raise DamagedVolumeError(
            f"{ref}: its source holds {len(found)} volumes where one was registered", hint="register it again"
        )
    shapes = [(k.reader.shape, k.reader.native.cell) for k in found[0].levels]
    if shapes != [(k.shape, k.chunk) for k in registration.levels] or found[0].levels[0].reader.dtype.name != registration.dtype:
        raise DamagedVolumeError(f"{ref}: this version reads its source in another way", hint="register it again")
    return found[0]


@contextmanager
def source_faults(ref: VolumeRef) -> Iterator[None]:
    """What goes wrong with a source, as a reader of `ref` should hear it."""
    try:
        yield
    except TransientError as error:
        raise SourceAwayError(
            f"{ref} is read where it lies, and its source is away: {error.message}", hint="ask again in a moment"
        ) from error
    except PermanentError as error:
        raise SourceClosedError(
            f"{ref} is read where it lies, and its source can't be read: {error.message}", hint=error.hint
        ) from error
    except ReaderError as error:
        raise DamagedVolumeError(
            f"{ref} is read where it lies: {error.message}", hint="repair the source and register it again"
        ) from error
