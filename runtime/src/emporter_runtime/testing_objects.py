"""One behaviour of objects, whatever they lie in. A test module inherits the suite and says which store; needs pytest."""

from __future__ import annotations

import asyncio

import pytest

from emporter_contracts.errors import RefusedError
from emporter_contracts.ids import VolumeRef
from emporter_contracts.plans import Commit
from emporter_contracts.storage import RAW, VOLUMES, commit, record, tombstone, zarr_root
from emporter_runtime import commits
from emporter_runtime.errors import ConflictError, ObjectMissingError
from emporter_runtime.jobstore import now
from emporter_runtime.objects import Objects
from emporter_runtime.removal import remove


class ObjectsSuite:
    """What every store does; inherited by each."""

    @pytest.fixture
    def objects(self) -> Objects:
        raise NotImplementedError

    async def test_what_is_put_is_got(self, objects: Objects) -> None:
        await objects.put(RAW, "a/b", b"voxels")
        assert await objects.get(RAW, "a/b") == b"voxels"
        assert objects.get_sync(RAW, "a/b") == b"voxels"
        assert (await objects.head(RAW, "a/b")).size == 6

    async def test_an_empty_object_is_an_object(self, objects: Objects) -> None:
        assert await objects.create(RAW, "empty", b"")
        assert await objects.get(RAW, "empty") == b""

    async def test_of_many_creators_exactly_one_is_told_so(self, objects: Objects) -> None:
        told = await asyncio.gather(*(objects.create(RAW, "claims/1", f"{n}".encode()) for n in range(16)))
        assert sum(told) == 1
        assert await objects.get(RAW, "claims/1") == str(told.index(True)).encode()

    async def test_creating_the_same_again_is_fine_and_other_bytes_are_a_conflict(self, objects: Objects) -> None:
        await objects.create_same(RAW, "same", b"x")
        await objects.create_same(RAW, "same", b"x")
        with pytest.raises(ConflictError):
            await objects.create_same(RAW, "same", b"y")

    async def test_a_range_is_exactly_its_bytes(self, objects: Objects) -> None:
        await objects.put(RAW, "range", bytes(range(100)))
        assert await objects.get_range(RAW, "range", 10, 20) == bytes(range(10, 20))
        assert objects.get_range_sync(RAW, "range", 99, 100) == b"c"
        assert await objects.get_range(RAW, "range", 5, 5) == b""

    async def test_what_is_not_there_is_missing_not_empty(self, objects: Objects) -> None:
        with pytest.raises(ObjectMissingError):
            await objects.get(RAW, "nothing")
        with pytest.raises(ObjectMissingError):
            objects.get_range_sync(RAW, "nothing", 0, 1)
        with pytest.raises(ObjectMissingError):
            await objects.head(RAW, "nothing")
        assert await objects.find(RAW, "nothing") is None
        assert not await objects.exists(RAW, "nothing")

    async def test_a_listing_has_every_object_below_its_prefix_and_no_other(self, objects: Objects) -> None:
        keys = {f"list/x/{n}" for n in range(30)} | {"list/y/0", "listing/0"}
        for key in keys:
            await objects.put(VOLUMES, key, b"1")
        assert {i.key async for i in objects.listing(VOLUMES, "list/x/")} == {f"list/x/{n}" for n in range(30)}
        assert await objects.folders(VOLUMES, "list/") == ["x", "y"]
        assert await objects.names(VOLUMES, "list/y/") == ["0"]
        assert await objects.names(VOLUMES, "no/such/") == []

    async def test_a_stream_is_the_object_in_pieces(self, objects: Objects) -> None:
        data = bytes(range(256)) * 40_000
        await objects.put(RAW, "stream", data)
        assert b"".join([piece async for piece in objects.stream(RAW, "stream", chunk=2**20)]) == data

    async def test_deleting_what_is_gone_is_no_error(self, objects: Objects) -> None:
        await objects.put(RAW, "gone/1", b"1")
        await objects.delete(RAW, ["gone/1", "gone/2"])
        await objects.delete(RAW, ["gone/1"])
        assert not await objects.exists(RAW, "gone/1")

    async def test_current_is_the_highest_commit_without_a_tombstone(self, objects: Objects) -> None:
        for revision in (1, 2, 10):
            made = Commit(volume="v", revision=revision, digest=f"d{revision}", job="v", committed_at=now())
            await objects.put_json(VOLUMES, commit("v", revision), made)
        assert await commits.current(objects, "v") == 10
        await objects.put(VOLUMES, tombstone("v", 10), b"{}")
        assert await commits.current(objects, "v") == 2
        found = await commits.read_commit(objects, "v", 2)
        assert found is not None
        assert found.digest == "d2"
        assert await commits.current(objects, "nobody") is None

    async def test_removing_a_revision_leaves_a_tombstone_and_the_other_revisions(self, objects: Objects) -> None:
        for revision in (1, 2):
            made = Commit(volume="w", revision=revision, digest="d", job="w", committed_at=now())
            await objects.put_json(VOLUMES, commit("w", revision), made)
            await objects.put(VOLUMES, zarr_root("w", revision) + "0/c/0/0/0", b"shard")
            await objects.put(VOLUMES, record("w", revision), b"{}")
        gone = await remove(objects, VolumeRef("w", 2))
        assert (gone.revisions, gone.objects) == ((2,), 2)
        assert await remove(objects, VolumeRef("w", 2)) == gone.__class__("w", (2,), 0, 0)
        assert await commits.current(objects, "w") == 1
        assert {i.key async for i in objects.listing(VOLUMES, "w/r1.ome.zarr/")} == {"w/r1.ome.zarr/0/c/0/0/0"}
        with pytest.raises(RefusedError):
            await remove(objects, VolumeRef("nobody"))

    async def test_it_is_ready(self, objects: Objects) -> None:
        assert await objects.ready()
