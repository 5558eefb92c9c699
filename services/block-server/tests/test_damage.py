from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from block_server.testing import House, Made, bury, house_on
from emporter_contracts import storage
from emporter_runtime import testing as s3
from emporter_runtime.settings import StoreSettings
from emporter_runtime.testing import ACCESS_KEY, SECRET_KEY, s3_server

SHARD = "0/c/1/0/1"


def ones(name: str, **differing) -> Made:
    return Made(np.ones((64, 64, 64), "u1"), name=name, **differing)


def lose(house: House, key: str) -> None:
    asyncio.run(house.objects.delete(storage.VOLUMES, [key]))


def test_a_deleted_shard_is_502_and_named_never_zeros(house: House, web: httpx.Client):
    made = house.commit(ones("lost-shard"))
    lose(house, storage.zarr_root(made.name, 1) + SHARD)
    for _ in range(2):
        answer = web.get(f"/v1/volumes/{made.ref}/block?origin=30,0,30&shape=10,10,10")
        assert (answer.status_code, answer.json()["code"]) == (502, "data_missing")
        assert "lost-shard@r1 level 0: chunk [2, 0, 2], in shard 0/c/1/0/1, is missing" in answer.json()["title"]
    assert web.get(f"/v1/volumes/{made.ref}/slice/z/40").status_code == 502
    assert web.get(f"/v1/volumes/{made.ref}/block?origin=30,0,30&shape=10,10,10&outside=edge").status_code == 502
    whole = web.get(f"/v1/volumes/{made.ref}/block?shape=32,32,64")
    assert whole.content == b"\1" * 32 * 32 * 64


def test_a_shard_that_was_put_back_is_served_again(house: House, web: httpx.Client):
    made = house.commit(ones("restored"))
    key = storage.zarr_root(made.name, 1) + SHARD
    body = house.objects.get_sync(storage.VOLUMES, key)
    lose(house, key)
    block = f"/v1/volumes/{made.ref}/block?origin=32,0,32&shape=32,32,32"
    assert web.get(block).status_code == 502
    house.objects.put_sync(storage.VOLUMES, key, body)
    assert web.get(block).content == b"\1" * 32**3


def test_a_chunk_left_out_of_a_shard_is_502_never_zeros(house: House, web: httpx.Client):
    voxels = np.ones((64, 64, 64), "u1")
    voxels[:16, :16, :16] = 0
    made = house.commit(Made(voxels, name="left-out", zeros_stored=False, halvings=()))
    answer = web.get(f"/v1/volumes/{made.ref}/block?shape=16,16,16")
    assert (answer.status_code, answer.json()["code"]) == (502, "data_missing")
    assert "chunk [0, 0, 0]" in answer.json()["title"]
    stored = house.commit(Made(voxels, name="zeros-stored", halvings=()))
    assert web.get(f"/v1/volumes/{stored.ref}/block?shape=16,16,16").content == bytes(16**3)


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_a_truncated_shard_is_502(house: House, web: httpx.Client, keep: int):
    made = house.commit(
        Made(np.random.default_rng(0).integers(0, 256, (32, 32, 32), dtype="u1"), name=f"truncated-{keep}", halvings=())
    )
    key = storage.zarr_root(made.name, 1) + "0/c/0/0/0"
    house.objects.put_sync(storage.VOLUMES, key, house.objects.get_sync(storage.VOLUMES, key)[:keep])
    answer = web.get(f"/v1/volumes/{made.ref}/block")
    assert (answer.status_code, answer.json()["code"]) == (502, "data_missing")
    assert "level 0" in answer.json()["title"]


def test_a_flipped_bit_is_502_never_other_voxels(house: House, web: httpx.Client):
    made = house.commit(Made(np.random.default_rng(0).integers(0, 256, (32, 32, 32), dtype="u1"), name="flipped", halvings=()))
    key = storage.zarr_root(made.name, 1) + "0/c/0/0/0"
    body = bytearray(house.objects.get_sync(storage.VOLUMES, key))
    body[len(body) // 3] ^= 1
    house.objects.put_sync(storage.VOLUMES, key, bytes(body))
    answer = web.get(f"/v1/volumes/{made.ref}/block")
    assert answer.status_code == 502
    assert "level 0" in answer.json()["title"]


@pytest.mark.parametrize("lost", ["record", "group", "array"])
def test_a_committed_volume_without_what_the_commit_promises_is_502(house: House, web: httpx.Client, lost: str):
    made = house.commit(ones(f"without-{lost}"))
    root = storage.zarr_root(made.name, 1)
    lose(house, {"record": storage.record(made.name, 1), "group": root + "zarr.json", "array": root + "1/zarr.json"}[lost])
    for route in (f"/v1/volumes/{made.ref}", f"/v1/volumes/{made.ref}/block?shape=1,1,1", f"/view/{made.ref}"):
        answer = web.get(route)
        assert (answer.status_code, answer.json()["code"]) == (502, "data_missing")
        assert made.name in answer.json()["title"]
    assert web.get("/v1/volumes?limit=1000").status_code == 200


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"attributes": {"ome": {"multiscales": [{"datasets": [{"path": "0"}]}]}}}'])
def test_a_group_that_is_no_ome_zarr_is_502(house: House, web: httpx.Client, body: bytes):
    made = house.commit(ones("no-ome-zarr-" + str(len(body))))
    house.objects.put_sync(storage.VOLUMES, storage.zarr_root(made.name, 1) + "zarr.json", body)
    answer = web.get(f"/v1/volumes/{made.ref}")
    assert (answer.status_code, answer.json()["code"]) == (502, "data_missing")


def test_problems_do_not_tell_where_this_machine_keeps_things(house: House, web: httpx.Client):
    made = house.commit(ones("discreet"))
    lose(house, storage.zarr_root(made.name, 1) + SHARD)
    for route in (f"/v1/volumes/{made.ref}/block?origin=32,0,32&shape=1,1,1", f"/zarr/{made.ref}.ome.zarr/{SHARD}"):
        text = web.get(route).text
        assert "/tmp" not in text
        assert "emporter-volumes" not in text


def test_a_revision_removed_while_it_is_read_is_410_not_502(house: House, web: httpx.Client):
    made = house.commit(ones("going"))
    block = f"/v1/volumes/{made.ref}/block?origin=32,0,32&shape=32,32,32"
    assert web.get(f"/v1/volumes/{made.ref}").status_code == 200  # open, and known to be committed
    bury(house.objects, made.ref)
    lose(house, storage.zarr_root(made.name, 1) + SHARD)
    assert web.get(block).status_code == 410


def test_a_store_that_went_away_is_503_and_makes_the_server_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    with ExitStack() as until_the_end, ExitStack() as while_the_store_lives:
        store = while_the_store_lives.enter_context(s3_server(tmp_path / "s3"))
        house = until_the_end.enter_context(house_on(store, blocks_fresh_seconds=3600))
        web = until_the_end.enter_context(httpx.Client(base_url=house.url, timeout=60))
        known, unknown = house.commit(ones("known")), house.commit(ones("unknown"))
        block = f"/v1/volumes/{known.ref}/block?shape=1,1,1"
        assert web.get(block).status_code == 200
        assert web.get("/readyz").status_code == 200
        while_the_store_lives.close()
        far = block + "&origin=40,40,40"
        for route in (far, f"/v1/volumes/{unknown.ref}", "/v1/volumes", f"/zarr/{known.ref}.ome.zarr/zarr.json"):
            answer = web.get(route)
            assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
            assert answer.headers["retry-after"]
            assert "127.0.0.1" not in answer.text
        assert web.get("/readyz").status_code == 503
        assert web.get("/healthz").status_code == 200
        assert web.get(block).status_code == 200  # what is in the cache needs no store


def test_s3_stopped_is_503_with_a_reason_and_s3_back_is_every_voxel_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    folder = tmp_path / "s3"
    folder.mkdir()
    server, ports = s3._started(folder)
    store = StoreSettings(
        store_url="s3://",
        s3_endpoint=f"http://127.0.0.1:{ports['s3']}",
        s3_access_key=ACCESS_KEY,
        s3_secret_key=SecretStr(SECRET_KEY),
    )
    try:
        with (
            house_on(store, blocks_fresh_seconds=3600, blocks_cache_bytes=0, blocks_in_flight_bytes=8 * 2**20) as house,
            httpx.Client(base_url=house.url, timeout=60) as web,
        ):
            voxels = np.random.default_rng(0).integers(1, 256, (64, 64, 64), dtype="u1")
            made = house.commit(Made(voxels, name="back", halvings=()))
            # More than sockets hold, and read in pieces: it is under way when the store goes.
            monkeypatch.setattr("block_server.arrays.VOXELS", 2**20)
            noise = np.random.default_rng(1).integers(0, 256, (96, 512, 512), dtype="u1")
            large = house.commit(Made(noise, name="large", halvings=(), chunk=(32, 64, 64), shard=(32, 512, 512), codec="none"))
            boxes = {"shape": [40, 40, 40], "origins": [[0, 0, 0], [20, 20, 20]]}
            asked = {
                "block": lambda: web.get(f"/v1/volumes/{made.ref}/block"),
                "edges": lambda: web.get(f"/v1/volumes/{made.ref}/block?origin=-8,0,0&shape=64,64,64&outside=constant"),
                "blocks": lambda: web.post(f"/v1/volumes/{made.ref}/blocks", json=boxes),
                "places": lambda: web.post("/v1/blocks", json=boxes | {"volumes": [{"volume": str(made.ref)}]}),
                "sample": lambda: web.post(f"/v1/volumes/{made.ref}/sample", json={"n": 3, "shape": [20, 20, 20]}),
                "foreground": lambda: web.post(
                    f"/v1/volumes/{made.ref}/sample", json={"n": 3, "shape": [20, 20, 20], "min_foreground": 0.5}
                ),
                "slice": lambda: web.get(f"/v1/volumes/{made.ref}/slice/z/3"),
                "zarr": lambda: web.get(f"/zarr/{made.ref}.ome.zarr/{SHARD}"),
                "zarr2": lambda: web.get(f"/zarr2/{made.ref}.ome.zarr/0/0/0/0"),
                "precomputed": lambda: web.get(f"/precomputed/{made.ref}/0/0-16_0-16_0-16"),
            }
            before = {name: ask() for name, ask in asked.items()}
            assert {answer.status_code for answer in before.values()} == {200}
            assert before["block"].content == voxels.tobytes()
            with capture_logs() as said, web.stream("GET", f"/v1/volumes/{large.ref}/block?shape=96,512,512") as cut:
                body = cut.iter_raw(65536)
                got = [next(body)]
                s3._end(server, ports)
                with pytest.raises(httpx.RemoteProtocolError):
                    got.extend(body)
            assert large.voxels.tobytes().startswith(b"".join(got))
            told = [(line["event"], line["code"]) for line in said if line["log_level"] != "info"]
            assert told == [("cut_short", "store_unavailable")]
            for name, ask in asked.items():
                answer = ask()
                assert (name, answer.status_code, answer.json()["code"]) == (name, 503, "store_unavailable")
                assert answer.json()["title"]
                assert answer.headers["retry-after"]
            server = s3._spawn(folder, ports, folder / "again.log")
            assert s3._answers(server, ports["s3"])
            until = time.monotonic() + 60
            while web.get(f"/v1/volumes/{made.ref}/block").status_code != 200:
                assert time.monotonic() < until
            assert {name: ask().content for name, ask in asked.items()} == {
                name: answer.content for name, answer in before.items()
            }
    finally:
        s3._end(server, ports)
