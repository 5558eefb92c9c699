"""Which volumes there are, which revision a name means now, and the revisions that are open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import ValidationError

from block_server.arrays import OpenVolume, cache_context, open_volume
from block_server.caching import Kept
from block_server.errors import DamagedVolumeError, RemovedVolumeError, UnknownVolumeError
from block_server.near import NearShards
from block_server.registered import Registered
from block_server.settings import BlockServerSettings
from emporter_contracts import storage
from emporter_contracts.ids import VolumeRef, is_volume_id
from emporter_contracts.records import MetadataRecord
from emporter_runtime.commits import committed, held, removed
from emporter_runtime.errors import ObjectMissingError
from emporter_runtime.logging import get_logger
from emporter_runtime.objects import Objects

T = TypeVar("T")

AT_ONCE = 16
"""Volumes looked up at once for a listing: enough to hide the store's latency, few enough to leave it to the blocks."""
KNOWN = 16_384
"""Volumes whose revisions and records are kept in mind, a few kB each."""
LABELS_SECONDS = 30.0
"""How old the list of an image's labels may be: finding it looks at every volume."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """The revisions of one volume that were committed, and those of them that were removed."""

    committed: frozenset[int]
    removed: frozenset[int]
    held: frozenset[int] = frozenset()
    """Kept from becoming current by a quality gate; read by their number only."""

    @property
    def current(self) -> int | None:
        """The highest that is committed and neither removed nor held."""
        return max(self.committed - self.removed - self.held, default=None)


@dataclass(frozen=True, slots=True)
class Page:
    """Some volumes, each at its current revision, in order of name; `cursor` where the next page begins, None at the end."""

    refs: tuple[VolumeRef, ...]
    cursor: str | None


class Volumes:
    """The committed volumes of a store. Pinned revisions are opened once; which are current is asked every few seconds."""

    def __init__(self, objects: Objects, settings: BlockServerSettings) -> None:
        self._objects = objects
        self._context = cache_context(settings.blocks_cache_bytes)
        self._registered = Registered(settings, self._context)
        self._near = _near(objects, settings)
        fresh = settings.blocks_fresh_seconds
        self._standing: Kept[str, Standing] = Kept(self._look_up, most=KNOWN, seconds=fresh)
        self._names: Kept[None, list[str]] = Kept(self._list_names, most=1, seconds=fresh)
        self._records: Kept[VolumeRef, MetadataRecord] = Kept(self._read_record, most=KNOWN)
        self._labels: Kept[None, dict[str, list[str]]] = Kept(self._list_labels, most=1, seconds=LABELS_SECONDS)
        self._open: Kept[VolumeRef, OpenVolume] = Kept(self._open_revision, most=settings.blocks_open_volumes)

    async def pinned(self, ref: VolumeRef) -> VolumeRef:
        """The revision that `ref` means now. Raises UnknownVolumeError, RemovedVolumeError."""
        try:
            return _pinned(ref, await self._standing.get(ref.volume))
        except UnknownVolumeError:
            # It may have been committed this moment, and whoever asks may have been told so.
            return _pinned(ref, await self._standing.fresh(ref.volume))

    async def opened(self, pinned: VolumeRef) -> OpenVolume:
        """A revision that `pinned` gave, ready to be read.

        Raises DamagedVolumeError, StoreUnavailableError; of one that is read where it lies also SourceChangedError and its like.
        """
        try:
            volume = await self._open.get(pinned)
        except DamagedVolumeError:
            await self.look_again(pinned)
            raise
        if volume.watch is not None:
            await volume.watch.check()
        return volume

    async def look_again(self, pinned: VolumeRef) -> None:
        """After something of a revision was found missing: forget it. Raises RemovedVolumeError where it was just removed."""
        self._open.forget(pinned)
        _pinned(pinned, await self._standing.fresh(pinned.volume))

    async def close(self) -> None:
        """Let go of the sources of volumes that are read where they lie, and of the near disk."""
        await self._registered.close()
        if self._near is not None:
            await self._near.close()

    async def page(self, limit: int, after: str = "", seen: Callable[[str], bool] = lambda _: True) -> Page:
        """At most `limit` volumes whose names come after `after`, of those that are `seen`."""
        names = [name for name in await self._names.get(None) if name > after and seen(name)]
        found: list[VolumeRef] = []
        async for ref in self._current(names):
            found.append(ref)
            if len(found) > limit:
                return Page(tuple(found[:limit]), found[limit - 1].volume)
        return Page(tuple(found), None)

    async def waiting(self, after: str, until: str | None, seen: Callable[[str], bool] = lambda _: True) -> list[VolumeRef]:
        """Revisions newer than the current one that a quality gate holds, of volumes from `after` (not it) to `until`."""
        names = [n for n in await self._names.get(None) if n > after and (until is None or n <= until) and seen(n)]
        found = []
        for batch in _batches(names):
            for name, standing in zip(batch, await asyncio.gather(*map(self._standing.get, batch)), strict=True):
                newer = standing.committed & standing.held - standing.removed
                found += [VolumeRef(name, n) for n in sorted(newer) if n > (standing.current or 0)]
        return found

    async def is_held(self, pinned: VolumeRef) -> bool:
        """Whether a quality gate keeps this revision from becoming current."""
        return pinned.revision in (await self._standing.get(pinned.volume)).held

    async def records(self, refs: Sequence[VolumeRef]) -> list[MetadataRecord | None]:
        """The records of committed revisions; None where one can't be read, which opening that volume explains."""
        return [record for batch in _batches(refs) for record in await asyncio.gather(*map(self._record, batch))]

    async def labels_of(self, volume: str) -> list[str]:
        """The volumes that hold labels of this one, sorted."""
        return (await self._labels.get(None)).get(volume, [])

    async def _look_up(self, volume: str) -> Standing:
        commits, tombstones, holds = await asyncio.gather(
            committed(self._objects, volume), removed(self._objects, volume), held(self._objects, volume)
        )
        return Standing(frozenset(commits), frozenset(tombstones), frozenset(holds))

    async def _list_names(self, _: None) -> list[str]:
        return [name for name in await self._objects.folders(storage.VOLUMES) if is_volume_id(name)]

    async def _current(self, names: Sequence[str]) -> AsyncIterator[VolumeRef]:
        for batch in _batches(names):
            standings = await asyncio.gather(*map(self._standing.get, batch))
            for name, standing in zip(batch, standings, strict=True):
                if standing.current is not None:
                    yield VolumeRef(name, standing.current)

    async def _read_record(self, ref: VolumeRef) -> MetadataRecord:
        assert ref.revision is not None
        body = await self._objects.get(storage.VOLUMES, storage.record(ref.volume, ref.revision))
        return MetadataRecord.model_validate_json(body)

    async def _record(self, ref: VolumeRef) -> MetadataRecord | None:
        try:
            return await self._records.get(ref)
        except (ObjectMissingError, ValidationError) as error:
            log.warning("record_unreadable", volume=str(ref), error=str(error))
            return None

    async def _list_labels(self, _: None) -> dict[str, list[str]]:
        refs = [ref async for ref in self._current(await self._names.get(None))]
        labels: dict[str, list[str]] = {}
        for ref, record in zip(refs, await self.records(refs), strict=True):
            if record is not None and record.metadata.core.labels_of:
                labels.setdefault(record.metadata.core.labels_of.partition("@")[0], []).append(ref.volume)
        return labels

    async def _open_revision(self, ref: VolumeRef) -> OpenVolume:
        assert ref.revision is not None
        document = await self._objects.find(storage.VOLUMES, storage.registration(ref.volume, ref.revision))
        if document is None:
            opened = await open_volume(self._objects, self._context, ref, self._near)
        else:
            opened = await self._registered.open(self._objects, ref, document)
        log.info("opened", volume=str(ref), levels=len(opened.levels))
        return opened


def _near(objects: Objects, settings: BlockServerSettings) -> NearShards | None:
    """Where copies of shards are kept; None where nobody wants any, or the store is a near disk itself."""
    folder, limit = settings.blocks_disk_cache, settings.blocks_disk_cache_bytes
    if folder is None or limit == 0 or objects.local_path(storage.VOLUMES, "") is not None:
        return None
    return NearShards.open(objects, folder, limit)


def _pinned(ref: VolumeRef, standing: Standing) -> VolumeRef:
    if not standing.committed and not standing.removed:
        raise UnknownVolumeError(f"there is no volume {ref.volume}", hint="GET /v1/volumes lists what there is")
    revision = standing.current if ref.revision is None else ref.revision
    if revision is None and (waiting := standing.committed - standing.removed):
        raise UnknownVolumeError(
            f"{ref.volume} has no current revision: a quality gate holds r{max(waiting)}",
            hint=f"emporter show {ref.volume} says why; ask for {ref.volume}@r{max(waiting)}, or emporter release it",
        )
    if revision is None or revision in standing.removed:
        now = "" if standing.current is None else f"; its current revision is {ref.volume}@r{standing.current}"
        raise RemovedVolumeError(f"{ref} was removed", hint=f"ingest it again{now}")
    if revision not in standing.committed:
        raise UnknownVolumeError(
            f"{ref} is not committed", hint=f"its revisions are {', '.join(map(str, sorted(standing.committed)))}"
        )
    return VolumeRef(ref.volume, revision)


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), AT_ONCE):
        yield items[start : start + AT_ONCE]
