from __future__ import annotations

import asyncio
import time

import httpx
import numpy as np
import pytest
import tensorstore as ts
import zarr
from ome_zarr_models.v05 import Image

from block_server.answers import PIECE
from block_server.testing import House, Made
from emporter_contracts import storage
from emporter_runtime.errors import StoreUnavailableError
from emporter_runtime.objects import Objects

SHARD = "0/c/0/0/0"


@pytest.fixture(scope="module")
def phantom(house: House) -> Made:
    rng = np.random.default_rng(1)
    return house.commit(Made(rng.integers(0, 60000, (50, 70, 90), dtype="u2"), name="zarr-phantom"))


def stored(house: House, made: Made, key: str) -> bytes:
    return house.objects.get_sync(storage.VOLUMES, storage.zarr_root(made.name, made.revision) + key)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_zarr_python_reads_every_voxel_over_http(house: House, phantom: Made, level: int):
    array = zarr.open_array(f"{house.url}/zarr/{phantom.ref}.ome.zarr/{level}", mode="r")
    assert np.array_equal(array[:], phantom.levels[level])
    assert np.array_equal(array[3:9, 5:30, 7:8], phantom.levels[level][3:9, 5:30, 7:8])


@pytest.mark.parametrize("level", [0, 1, 2])
def test_tensorstore_reads_every_voxel_over_http(house: House, phantom: Made, level: int):
    spec = {"driver": "zarr3", "kvstore": f"{house.url}/zarr/{phantom.ref}.ome.zarr/{level}/", "fill_missing_data_reads": False}
    array = ts.open(spec, open=True, read=True).result()
    assert np.array_equal(array.read().result(), phantom.levels[level])


def test_the_group_is_ome_zarr(house: House, phantom: Made):
    group = zarr.open_group(f"{house.url}/zarr/{phantom.ref}.ome.zarr", mode="r")
    image = Image.from_zarr(group)
    assert [d.path for d in image.ome_attributes.multiscales[0].datasets] == ["0", "1", "2"]


@pytest.mark.parametrize("key", ["zarr.json", "0/zarr.json", SHARD, "1/c/0/0/0"])
def test_bytes_are_those_in_the_store(house: House, web: httpx.Client, phantom: Made, key: str):
    answer = web.get(f"/zarr/{phantom.ref}.ome.zarr/{key}")
    assert answer.status_code == 200
    assert answer.content == stored(house, phantom, key)
    assert "content-encoding" not in answer.headers
    assert answer.headers["accept-ranges"] == "bytes"
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["content-type"] == ("application/json" if key.endswith("json") else "application/octet-stream")


def test_head_tells_the_length_and_the_etag(house: House, web: httpx.Client, phantom: Made):
    got = web.get(f"/zarr/{phantom.ref}.ome.zarr/{SHARD}")
    head = web.head(f"/zarr/{phantom.ref}.ome.zarr/{SHARD}")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(stored(house, phantom, SHARD)))
    for name in ("content-length", "etag", "accept-ranges", "cache-control", "content-type"):
        assert head.headers[name] == got.headers[name]
    assert "content-encoding" not in head.headers


@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-299", 100, 300),
        ("bytes=100-99999999", 100, None),
        ("bytes=1000-", 1000, None),
        ("bytes=0-", 0, None),
        ("bytes=-36", -36, None),
        ("bytes=-99999999", 0, None),
        ("Bytes=5-9", 5, 10),
    ],
)
def test_one_range_is_206_with_just_those_bytes(
    house: House, web: httpx.Client, phantom: Made, header: str, start: int, stop: int | None
):
    body = stored(house, phantom, SHARD)
    answer = web.get(f"/zarr/{phantom.ref}.ome.zarr/{SHARD}", headers={"range": header})
    assert answer.status_code == 206
    assert answer.content == body[start:stop]
    first, last, _ = slice(start, stop).indices(len(body))
    assert answer.headers["content-range"] == f"bytes {first}-{last - 1}/{len(body)}"
    assert answer.headers["content-length"] == str(last - first)


@pytest.mark.parametrize("header", ["bytes=9-5", "bytes=a-b", "bytes=0-1,5-6", "lines=0-1", "bytes=-"])
def test_a_range_that_is_malformed_or_of_several_parts_gets_the_whole(web: httpx.Client, phantom: Made, header: str):
    answer = web.get(f"/zarr/{phantom.ref}.ome.zarr/{SHARD}", headers={"range": header})
    assert (answer.status_code, answer.headers["content-length"]) == (200, str(len(answer.content)))
    assert "content-range" not in answer.headers


@pytest.mark.parametrize("header", ["bytes=99999999-", "bytes=99999999-100000000", "bytes=-0"])
def test_a_range_past_the_end_is_416_and_says_the_length(house: House, web: httpx.Client, phantom: Made, header: str):
    answer = web.get(f"/zarr/{phantom.ref}.ome.zarr/{SHARD}", headers={"range": header})
    assert (answer.status_code, answer.json()["code"]) == (416, "range_unsatisfiable")
    assert answer.headers["content-range"] == f"bytes */{len(stored(house, phantom, SHARD))}"


def test_if_range_and_if_none_match_look_at_the_etag(web: httpx.Client, phantom: Made):
    url = f"/zarr/{phantom.ref}.ome.zarr/{SHARD}"
    tag = web.head(url).headers["etag"]
    assert web.get(url, headers={"range": "bytes=0-9", "if-range": tag}).status_code == 206
    assert web.get(url, headers={"range": "bytes=0-9", "if-range": '"older"'}).status_code == 200
    assert web.get(url, headers={"range": "bytes=0-9", "if-range": "Sat, 01 Jan 2022 00:00:00 GMT"}).status_code == 200
    assert web.get(url, headers={"if-none-match": tag}).status_code == 304
    assert web.head(url, headers={"if-none-match": f"W/{tag}"}).status_code == 304
    assert web.get(url, headers={"if-none-match": '"older"'}).status_code == 200
    assert web.head(f"/zarr/{phantom.ref}.ome.zarr/1/c/0/0/0").headers["etag"] != tag


def test_an_object_of_many_pieces_comes_whole(house: House, web: httpx.Client):
    rng = np.random.default_rng(3)
    shape = (256, 256, 192)
    made = house.commit(
        Made(rng.integers(0, 256, shape, dtype="u1"), name="many-pieces", chunk=(64, 64, 64), shard=shape, halvings=())
    )
    body = stored(house, made, SHARD)
    assert len(body) > 2 * PIECE
    url = f"/zarr/{made.ref}.ome.zarr/{SHARD}"
    assert web.get(url).content == body
    assert web.get(url, headers={"range": f"bytes=7-{2 * PIECE + 9}"}).content == body[7 : 2 * PIECE + 10]
    assert web.get(url, headers={"range": f"bytes=-{PIECE + 11}"}).content == body[-PIECE - 11 :]


def test_an_empty_object_is_served(house: House, web: httpx.Client, phantom: Made):
    house.objects.put_sync(storage.VOLUMES, storage.zarr_root(phantom.name, 1) + "empty", b"")
    answer = web.get(f"/zarr/{phantom.ref}.ome.zarr/empty")
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "0")
    assert web.get(f"/zarr/{phantom.ref}.ome.zarr/empty", headers={"range": "bytes=0-"}).status_code == 416


def test_a_plain_name_is_404_with_the_pinned_url(house: House, web: httpx.Client, phantom: Made):
    for method in ("GET", "HEAD"):
        answer = web.request(method, f"/zarr/{phantom.name}.ome.zarr/0/zarr.json")
        assert answer.status_code == 404
        pinned = answer.headers["link"].split(">")[0].strip("<")
        assert web.request(method, pinned).status_code == 200
    assert pinned in web.get(f"/zarr/{phantom.name}.ome.zarr/0/zarr.json").json()["hint"]
    assert pinned == f"{house.url}/zarr/{phantom.ref}.ome.zarr/0/zarr.json"


@pytest.mark.parametrize(
    "key",
    [
        ".zgroup", "0/.zarray", "0", "0/c/0/0", "0/c/9/0/0", "0/c/0/0/00", "0/c/0/0/0/0", "9/c/0/0/0", "zarr.json/", "", "0//zarr.json",
        "../r1/record.json", "%2e%2e/r1/record.json", "0/%2e%2e/zarr.json", "x" * 2000, "a%00b", "zarr.json/x",
    ],
)  # fmt: skip
def test_a_key_that_is_no_shard_of_a_grid_is_404(web: httpx.Client, phantom: Made, key: str):
    for method in ("GET", "HEAD"):
        # httpx would resolve `..` itself
        url = httpx.URL(web.base_url).copy_with(raw_path=f"/zarr/{phantom.ref}.ome.zarr/{key}".encode())
        answer = web.request(method, url)
        assert answer.status_code == 404, (key, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_missing_shard_is_502_because_readers_take_404_for_zeros(house: House, web: httpx.Client):
    made = house.commit(Made(np.ones((64, 64, 64), "u1"), name="holed"))
    asyncio.run(house.objects.delete(storage.VOLUMES, [storage.zarr_root(made.name, 1) + "0/c/1/0/1"]))
    url = f"/zarr/{made.ref}.ome.zarr/0/c/1/0/1"
    answer = web.get(url)
    assert (answer.status_code, answer.json()["code"]) == (502, "data_missing")
    assert "holed@r1 level 0: shard [1, 0, 1]" in answer.json()["title"]
    assert web.get(url, headers={"range": "bytes=-36"}).status_code == 502
    assert web.get(url, headers={"range": f"bytes=-{PIECE + 1}"}).status_code == 502
    assert web.head(url).status_code == 502
    array = zarr.open_array(f"{house.url}/zarr/{made.ref}.ome.zarr/0", mode="r")
    with pytest.raises(Exception, match="502"):
        array[32:, :32, 32:]


def test_a_key_can_not_forge_headers(web: httpx.Client, phantom: Made):
    answer = web.get(f"/zarr/{phantom.name}.ome.zarr/%0dx-forged:%201/\u00fc")
    assert answer.status_code == 404
    assert "x-forged" not in answer.headers
    assert "%0D" in answer.headers["link"]


def broken_after(pieces: int, patch: pytest.MonkeyPatch) -> list[int]:
    """The store gives so many pieces and then no more; returns where pieces were asked for."""
    asked: list[int] = []
    whole = Objects.get_part

    async def part(self: Objects, bucket: str, key: str, start: int, stop: int):
        asked.append(start)
        if len(asked) > pieces:
            raise StoreUnavailableError("gone")
        return await whole(self, bucket, key, start, stop)

    patch.setattr(Objects, "get_part", part)
    return asked


@pytest.fixture(scope="module")
def long(house: House) -> Made:
    """A volume of one shard of 24 pieces, which is more than sockets hold."""
    shape = (512, 512, 384)
    rng = np.random.default_rng(3)
    return house.commit(
        Made(rng.integers(0, 256, shape, dtype="u1"), name="long", chunk=(128, 128, 128), shard=shape, halvings=())
    )


def test_an_answer_that_breaks_off_does_not_look_whole(web: httpx.Client, long: Made, monkeypatch: pytest.MonkeyPatch):
    broken_after(2, monkeypatch)
    with pytest.raises(httpx.RemoteProtocolError):
        web.get(f"/zarr/{long.ref}.ome.zarr/{SHARD}")


def test_what_a_client_no_longer_wants_is_not_fetched(house: House, long: Made, monkeypatch: pytest.MonkeyPatch):
    asked = broken_after(1000, monkeypatch)
    with httpx.stream("GET", f"{house.url}/zarr/{long.ref}.ome.zarr/{SHARD}") as answer:
        next(answer.iter_raw(1000))
    deadline = time.monotonic() + 30
    while 'emporter_blocks_held_bytes{kind="stored"} 0.0' not in httpx.get(f"{house.url}/metrics").text:
        assert time.monotonic() < deadline
    assert len(asked) < 24


def test_a_browser_may_read_from_anywhere(web: httpx.Client, phantom: Made):
    url = f"/zarr/{phantom.ref}.ome.zarr/{SHARD}"
    for answer in (web.get(url), web.head(url), web.get("/nowhere"), web.get(url, headers={"range": "bytes=99999999-"})):
        assert answer.headers["access-control-allow-origin"] == "*"
        exposed = {name.strip().lower() for name in answer.headers["access-control-expose-headers"].split(",")}
        assert exposed >= {"content-range", "content-length", "etag", "accept-ranges", "x-emporter-revision", "x-emporter-shape"}
    preflight = web.options(
        url,
        headers={"origin": "http://a.test", "access-control-request-method": "GET", "access-control-request-headers": "range"},
    )
    assert preflight.status_code == 204
    assert "range" in preflight.headers["access-control-allow-headers"].lower()
    assert "GET" in preflight.headers["access-control-allow-methods"]
