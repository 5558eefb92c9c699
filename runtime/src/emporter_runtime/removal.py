"""Taking a revision away: the tombstone first, then the objects; whoever is interrupted begins again and ends the same."""

from __future__ import annotations

import json
from dataclasses import dataclass

from emporter_contracts import storage
from emporter_contracts.errors import RefusedError
from emporter_contracts.ids import VolumeRef
from emporter_contracts.plans import Tombstone
from emporter_runtime.commits import committed, removed
from emporter_runtime.jobstore import now
from emporter_runtime.logging import get_logger
from emporter_runtime.objects import Objects
from emporter_runtime.sharing import arrays_of, leavings

PAGE = 1000
"""Objects deleted at once."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Removed:
    """What was taken away."""

    volume: str
    revisions: tuple[int, ...]
    objects: int
    bytes: int


async def remove(objects: Objects, ref: VolumeRef) -> Removed:
    """Remove one revision, or all of a volume. The commit stays, so that its number is never given again.

    Raises RefusedError where there is no such committed volume or revision.
    """
    revisions = await committed(objects, ref.volume)
    if ref.revision is not None:
        revisions &= {ref.revision}
    if not revisions:
        raise RefusedError(f"there is no volume {ref}", code="unknown_volume", hint="emporter volumes lists them")
    # All of them first: one that stays keeps the arrays it shows.
    for revision in sorted(revisions):
        await _bury(objects, ref.volume, revision)
    owners = {await arrays_of(objects, ref.volume, revision) for revision in revisions} & await removed(objects, ref.volume)
    count = size = 0
    for revision in sorted(revisions | owners):
        n, b = await take_away(objects, ref.volume, revision)
        count, size = count + n, size + b
    log.info("removed", volume=ref.volume, revisions=sorted(revisions), objects=count, bytes=size)
    return Removed(ref.volume, tuple(sorted(revisions)), count, size)


async def _bury(objects: Objects, volume: str, revision: int) -> None:
    """The tombstone, with the record: the catalog goes on showing what was there, a catalog made again from the store too."""
    body = await objects.find(storage.VOLUMES, storage.record(volume, revision))
    try:
        record = None if body is None else json.loads(body)
        stone = Tombstone(volume=volume, revision=revision, removed_at=now(), record=record)
    except ValueError:
        stone = Tombstone(volume=volume, revision=revision, removed_at=now())
    await objects.put_json(storage.VOLUMES, storage.tombstone(volume, revision), stone)


async def take_away(objects: Objects, volume: str, revision: int) -> tuple[int, int]:
    """Delete what nobody needs of a revision that has its tombstone; how many objects, and how many bytes."""
    found = await leavings(objects, volume, revision)
    count = size = 0
    for prefix in found.prefixes:
        n, b = await delete_below(objects, storage.VOLUMES, prefix)
        count, size = count + n, size + b
    bodies = {key: body for key in found.keys if (body := await objects.find(storage.VOLUMES, key)) is not None}
    await objects.delete(storage.VOLUMES, list(bodies))
    return count + len(bodies), size + sum(map(len, bodies.values()))


async def delete_below(objects: Objects, bucket: str, prefix: str) -> tuple[int, int]:
    """Delete every object below a prefix; how many they were, and how many bytes."""
    page: list[str] = []
    count = size = 0
    async for info in objects.listing(bucket, prefix):
        page.append(info.key)
        count, size = count + 1, size + info.size
        if len(page) == PAGE:
            await objects.delete(bucket, page)
            page = []
    await objects.delete(bucket, page)
    return count, size
