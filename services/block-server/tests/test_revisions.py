from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from block_server.testing import House, Made, bury, house_on
from emporter_contracts import storage
from emporter_contracts.ids import VolumeRef
from emporter_runtime.commits import release
from emporter_runtime.testing import file_store


def filled(revision: int, name: str = "renewed") -> Made:
    """Every voxel of a revision is its number."""
    return Made(np.full((48, 48, 48), revision, "u1"), name=name, revision=revision)


@pytest.fixture
def own(tmp_path: Path):
    with house_on(file_store(tmp_path), blocks_fresh_seconds=0) as house, httpx.Client(base_url=house.url) as web:
        yield house, web


def test_a_plain_name_is_the_highest_commit_without_tombstone(own):
    house, web = own
    for revision in (1, 2, 11):
        house.commit(filled(revision))
    assert web.get("/v1/volumes/renewed").json()["ref"] == "renewed@r11"
    bury(house.objects, VolumeRef("renewed", 11))
    assert web.get("/v1/volumes/renewed").json()["ref"] == "renewed@r2"
    assert web.get("/v1/volumes/renewed/block?shape=1,1,1").content == b"\2"


def test_a_held_revision_is_read_by_its_number_and_current_only_once_released(own):
    house, web = own
    house.commit(filled(1))
    house.commit(filled(2))
    house.objects.put_sync(storage.VOLUMES, storage.hold("renewed", 2), b"{}")
    assert web.get("/v1/volumes/renewed").json()["ref"] == "renewed@r1"
    assert web.get("/v1/volumes/renewed@r2/block?shape=1,1,1").content == b"\2"
    bury(house.objects, VolumeRef("renewed", 1))
    answer = web.get("/v1/volumes/renewed")
    assert (answer.status_code, "quality gate" in answer.text) == (404, True)
    asyncio.run(release(house.objects, "renewed", 2))
    assert web.get("/v1/volumes/renewed").json()["ref"] == "renewed@r2"


def test_a_pinned_revision_stays_while_newer_ones_come(own):
    house, web = own
    house.commit(filled(1))
    before = web.get("/v1/volumes/renewed@r1/block")
    house.commit(filled(2))
    after = web.get("/v1/volumes/renewed@r1/block")
    assert after.content == before.content == b"\1" * 48**3
    assert after.headers["etag"] == before.headers["etag"]
    assert after.headers["x-emporter-revision"] == "1"
    assert web.get("/v1/volumes/renewed/block").headers["x-emporter-revision"] == "2"


def test_a_removed_revision_is_410_on_every_route(own):
    house, web = own
    house.commit(filled(1))
    assert web.get("/v1/volumes/renewed@r1/block").status_code == 200
    bury(house.objects, VolumeRef("renewed", 1))
    for route in (
        "/v1/volumes/renewed@r1",
        "/v1/volumes/renewed",
        "/v1/volumes/renewed@r1/block",
        "/v1/volumes/renewed@r1/slice/z/0",
        "/zarr/renewed@r1.ome.zarr/zarr.json",
        "/view/renewed@r1",
    ):
        answer = web.get(route, headers={"if-none-match": "*"})
        assert (answer.status_code, answer.json()["code"]) == (410, "volume_removed")
        assert answer.headers["cache-control"] == "no-store"
    house.commit(filled(2))
    assert "renewed@r2" in web.get("/v1/volumes/renewed@r1").json()["hint"]
    assert web.get("/v1/volumes/renewed@r3").status_code == 404


def test_a_commit_is_seen_at_once_by_who_asks_for_it_pinned(tmp_path: Path):
    with house_on(file_store(tmp_path), blocks_fresh_seconds=3600) as house, httpx.Client(base_url=house.url) as web:
        assert web.get("/v1/volumes/renewed").status_code == 404
        house.commit(filled(1))
        assert web.get("/v1/volumes/renewed").json()["ref"] == "renewed@r1"
        house.commit(filled(2))
        assert web.get("/v1/volumes/renewed@r2").status_code == 200


def test_a_tombstone_and_a_newer_commit_are_noticed_in_time(tmp_path: Path):
    with house_on(file_store(tmp_path), blocks_fresh_seconds=0.3) as house, httpx.Client(base_url=house.url) as web:
        house.commit(filled(1))
        assert web.get("/v1/volumes/renewed/block?shape=1,1,1").content == b"\1"
        house.commit(filled(2))
        bury(house.objects, VolumeRef("renewed", 1))
        deadline = time.monotonic() + 10
        while web.get("/v1/volumes/renewed@r1/block?shape=1,1,1").status_code != 410:
            assert time.monotonic() < deadline
        assert web.get("/v1/volumes/renewed/block?shape=1,1,1").content == b"\2"


def test_every_answer_is_wholly_of_the_revision_it_names_while_new_ones_are_committed(own):
    house, _ = own
    house.commit(filled(1))
    done = threading.Event()

    def read(_: int) -> set[int]:
        seen = set()
        with httpx.Client(base_url=house.url) as web:
            while not done.is_set():
                answer = web.get("/v1/volumes/renewed/block")
                assert answer.status_code == 200, answer.text
                assert set(answer.content) == {int(answer.headers["x-emporter-revision"])}
                seen.add(answer.content[0])
                picture = web.get("/v1/volumes/renewed/slice/z/7", headers={"if-none-match": answer.headers["etag"]})
                assert picture.status_code == 200
        return seen

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read, k) for k in range(4)]
        for revision in range(2, 12):
            house.commit(filled(revision))
        done.set()
        seen = set.union(*(reader.result() for reader in readers))
    assert len(seen) > 1


def test_an_uncommitted_revision_is_not_visible(own):
    house, web = own
    house.commit(filled(1))
    house.commit(filled(2))
    house.objects.put_sync(storage.VOLUMES, "renewed/commits/notes.txt", b"")
    asyncio.run(house.objects.delete(storage.VOLUMES, [storage.commit("renewed", 2)]))
    assert web.get("/v1/volumes/renewed").json()["ref"] == "renewed@r1"
    assert web.get("/v1/volumes/renewed@r2").status_code == 404
    assert web.get("/zarr/renewed@r2.ome.zarr/zarr.json").status_code == 404


def test_another_volume_under_the_same_name_has_other_etags(own, tmp_path: Path):
    house, web = own
    made = house.commit(filled(1))
    tag = web.get(f"/v1/volumes/{made.ref}/block?shape=1,1,1").headers["etag"]
    with house_on(file_store(tmp_path / "other")) as other:
        other.commit(Made(np.zeros((48, 48, 48), "u1"), name="renewed", digest="1" * 64))
        assert httpx.get(f"{other.url}/v1/volumes/{made.ref}/block?shape=1,1,1").headers["etag"] != tag


def test_a_known_volume_costs_no_call_to_the_store(own: tuple[House, httpx.Client], tmp_path: Path):
    with house_on(file_store(tmp_path), blocks_fresh_seconds=3600) as house, httpx.Client(base_url=house.url) as web:
        house.commit(filled(1))
        block = "/v1/volumes/renewed@r1/block"
        before = web.get(block).content
        for part in ("commits", "r1", "r1.ome.zarr"):
            (tmp_path / storage.VOLUMES / "renewed" / part).rename(tmp_path / f"gone-{part}")
        assert web.get(block).content == before
