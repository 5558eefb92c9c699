"""Revisions that show the arrays of another one: whatever is removed, and wherever that is killed, none of them loses a shard."""

from __future__ import annotations

from datetime import timedelta
from typing import cast

import pytest

from emporter_contracts import storage
from emporter_contracts.commands import IngestRequest
from emporter_contracts.ids import VolumeRef
from emporter_contracts.plans import Commit, StoredRequest
from emporter_contracts.revisions import Changes, Revising
from emporter_runtime.commits import removed
from emporter_runtime.garbage import Collector, GarbageSettings
from emporter_runtime.jobstore import now
from emporter_runtime.ledger import Ledger
from emporter_runtime.objects import Objects
from emporter_runtime.removal import remove
from emporter_runtime.sharing import leavings

VOLUME = "url-brain"
ROOT = storage.zarr_root(VOLUME, 1)
SHARDS = {f"{ROOT}0/c/0/0/{n}" for n in range(4)}
BESIDE = {f"{ROOT}0/zarr.json", storage.digests(VOLUME, 1), storage.occupancy(VOLUME, 1) + "c/0/0/0"}


class KilledError(Exception):
    """Stands for kill -9."""


class Killed(Objects):
    """Objects of a process that is killed before its n-th change of the store."""

    changes_left = 10**9

    async def create(self, bucket, key, data):
        self._change()
        return await super().create(bucket, key, data)

    async def delete(self, bucket, keys):
        for key in keys:
            self._change()
            await super().delete(bucket, [key])

    def _change(self) -> None:
        if self.changes_left == 0:
            raise KilledError
        self.changes_left -= 1


async def corrected(*revisions: int) -> Killed:
    """r1 with its arrays, and `revisions` that show them."""
    objects = Killed.in_memory()
    assert isinstance(objects, Killed)
    for key in SHARDS | BESIDE:
        await objects.put(storage.VOLUMES, key, b"1")
    for revision in (1, *revisions):
        for key in own(revision):
            await objects.put(storage.VOLUMES, key, b"{}")
        arrays = None if revision == 1 else 1
        commit = Commit(volume=VOLUME, revision=revision, digest="d", job=VOLUME, committed_at=now(), arrays=arrays)
        await objects.put_json(storage.VOLUMES, storage.commit(VOLUME, revision), commit)
    return objects


def own(revision: int) -> set[str]:
    root = storage.zarr_root(VOLUME, revision) + "zarr.json"
    return {root, storage.record(VOLUME, revision), storage.provenance(VOLUME, revision)}


async def names(objects: Objects) -> set[str]:
    return {info.key async for info in objects.listing(storage.VOLUMES, "") if "/commits/" not in info.key}


async def claim(objects: Objects, revision: int, age: timedelta) -> None:
    """Somebody began to correct the volume and has not committed it."""
    change = Revising(volume=VOLUME, revises=1, arrays=1, changes=Changes(name="x"), by="ada", at=now())
    request = IngestRequest(source="url", source_id="https://archive.example/brain.tif")
    claimed = StoredRequest(request=request, event_id="1", received_at=now() - age, revising=change)
    await objects.put_json(storage.RAW, storage.request(VOLUME, revision), claimed)


async def test_the_owner_goes_but_for_what_others_show() -> None:
    objects = await corrected(2, 3)
    await remove(objects, VolumeRef(VOLUME, 1))
    assert {n for n in await names(objects) if "/removed/" not in n} == SHARDS | BESIDE | own(2) | own(3)


async def test_the_last_that_shows_them_takes_the_arrays_along() -> None:
    objects = await corrected(2, 3)
    for revision in (1, 3):
        await remove(objects, VolumeRef(VOLUME, revision))
        assert await names(objects) >= SHARDS | BESIDE
    await remove(objects, VolumeRef(VOLUME, 2))
    assert {n for n in await names(objects) if "/removed/" not in n} == set()


async def test_a_correction_that_goes_first_leaves_the_owner_whole() -> None:
    objects = await corrected(2)
    await remove(objects, VolumeRef(VOLUME, 2))
    assert {n for n in await names(objects) if "/removed/" not in n} == SHARDS | BESIDE | own(1)


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 1, 3), (None,)])
async def test_a_removal_killed_at_any_point_harms_nothing_that_stands_and_done_again_leaves_nothing(order) -> None:
    killed_once, n = True, 0
    while killed_once:
        killed_once = False
        objects = await corrected(2, 3)
        objects.changes_left = n
        for revision in order:
            try:
                await remove(objects, VolumeRef(VOLUME, revision))
            except KilledError:
                killed_once = True
                standing = {1, 2, 3} - await removed(objects, VOLUME)
                found = await names(objects)
                for one in standing:
                    assert found >= own(one) | SHARDS | BESIDE, (n, one)
                objects.changes_left = 10**9
                await remove(objects, VolumeRef(VOLUME, revision))
        assert {name for name in await names(objects) if "/removed/" not in name} == set(), n
        n += 1
    assert n > 15


async def test_a_correction_that_is_about_to_be_committed_keeps_the_arrays_and_an_abandoned_one_does_not() -> None:
    objects = await corrected()
    await claim(objects, 2, timedelta(minutes=1))
    await remove(objects, VolumeRef(VOLUME, 1))
    assert await names(objects) >= SHARDS | BESIDE
    assert (await leavings(objects, VOLUME, 1)).prefixes == ()
    await claim(objects, 3, timedelta(hours=25))
    await objects.delete(storage.RAW, [storage.request(VOLUME, 2)])
    await remove(objects, VolumeRef(VOLUME, 1))
    assert {n for n in await names(objects) if "/removed/" not in n} == set()


async def collected(objects: Objects) -> None:
    """`emporter gc` where no run has a plan: no ledger is looked at."""
    await Collector(objects, cast("Ledger", None), GarbageSettings(), dry=False).run()


async def test_the_collector_takes_what_an_abandoned_correction_left_after_a_day_and_no_shard_that_is_shown() -> None:
    objects = await corrected(2)
    left = own(3) | {storage.hold(VOLUME, 4)} | own(4)
    for key in left:
        await objects.put(storage.VOLUMES, key, b"{}")
    await claim(objects, 3, timedelta(hours=1))
    await claim(objects, 4, timedelta(hours=25))
    await remove(objects, VolumeRef(VOLUME, 1))
    await collected(objects)
    found = {n for n in await names(objects) if "/removed/" not in n}
    assert found == SHARDS | BESIDE | own(2) | own(3)
    await collected(objects)
    assert {n for n in await names(objects) if "/removed/" not in n} == found
