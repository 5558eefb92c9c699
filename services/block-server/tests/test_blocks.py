from __future__ import annotations

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from block_server.testing import House, Made
from emporter_contracts import storage
from emporter_contracts.plans import Caveat

DTYPES = ["uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]


def noise(shape=(50, 70, 90), dtype="uint16", seed=0):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.normal(0, 100, shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)


def array_of(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    shape = tuple(map(int, answer.headers["x-emporter-shape"].split(",")))
    return np.frombuffer(answer.content, np.dtype(answer.headers["x-emporter-dtype"]).newbyteorder("<")).reshape(shape)


@pytest.fixture(scope="module")
def phantom(house: House) -> Made:
    return house.commit(Made(noise(), name="blocks-phantom", source_origin=(100, 200, 300)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_block_is_voxel_for_voxel_what_is_stored_in_every_dtype(house: House, web: httpx.Client, dtype: str):
    made = house.commit(Made(noise((20, 40, 40), dtype), name=f"dtype-{dtype}"))
    for suffix in ("", "&format=npy"):
        answer = web.get(f"/v1/volumes/{made.ref}/block?origin=1,3,5&shape=17,30,33{suffix}")
        got = np.load(io.BytesIO(answer.content)) if suffix else array_of(answer)
        assert got.dtype == np.dtype(dtype)
        assert np.array_equal(got, made.voxels[1:18, 3:33, 5:38])


def test_raw_is_little_endian_in_c_order(house: House, web: httpx.Client):
    made = house.commit(Made(np.arange(2 * 3 * 4, dtype="u4").reshape(2, 3, 4), name="order"))
    answer = web.get(f"/v1/volumes/{made.ref}/block?origin=1,1,1&shape=1,2,2")
    assert answer.content == b"".join(int(v).to_bytes(4, "little") for v in (17, 18, 21, 22))


@pytest.mark.parametrize("level", [0, 1, 2])
def test_boxes_at_any_offset_of_any_level_are_exact(web: httpx.Client, phantom: Made, level: int):
    voxels = phantom.levels[level]
    rng = np.random.default_rng(level)
    for _ in range(20):
        a, b = np.sort([rng.integers(0, n, 2) for n in voxels.shape], axis=1).T
        shape = b - a + 1
        answer = web.get(
            f"/v1/volumes/{phantom.ref}/block",
            params={"level": level, "origin": ",".join(map(str, a)), "shape": ",".join(map(str, shape))},
        )
        assert np.array_equal(array_of(answer), voxels[tuple(slice(s, s + n) for s, n in zip(a, shape, strict=True))])


def test_what_a_block_is_stands_in_its_headers(house: House, web: httpx.Client):
    caveats = (Caveat(code="lossy", evidence="jpeg"), Caveat(code="axes_assumed", evidence="unnamed"))
    made = house.commit(Made(noise((40, 40, 40)), name="headers", voxel_size_nm=(40.0, None, 8.5), caveats=caveats))
    answer = web.get(f"/v1/volumes/{made.ref}/block?level=1&origin=1,2,3&shape=4,5,6")
    said = {
        name: answer.headers[f"x-emporter-{name}"]
        for name in ("revision", "shape", "dtype", "origin", "voxel-size-nm", "caveats")
    }
    assert said == {
        "revision": "1", "shape": "4,5,6", "dtype": "uint16", "origin": "1,2,3", "voxel-size-nm": "80,null,17", "caveats": "lossy,axes_assumed",
    }  # fmt: skip
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-length"] == str(4 * 5 * 6 * 2)
    assert "content-encoding" not in answer.headers


def test_a_shape_not_asked_for_is_128_cubed_or_what_the_level_holds(house: House, web: httpx.Client, phantom: Made):
    large = house.commit(Made(noise((130, 140, 150), "uint8"), name="large", halvings=()))
    assert np.array_equal(array_of(web.get(f"/v1/volumes/{large.ref}/block?origin=1,2,3")), large.voxels[1:129, 2:130, 3:131])
    assert np.array_equal(array_of(web.get(f"/v1/volumes/{phantom.ref}/block")), phantom.voxels)


def test_accept_chooses_npy_and_format_overrides_it(web: httpx.Client, phantom: Made):
    block = f"/v1/volumes/{phantom.ref}/block?shape=3,3,3"
    npy = {"accept": "application/x-npy"}
    assert web.get(block, headers=npy).headers["content-type"] == "application/x-npy"
    assert web.get(block, headers=npy).headers["vary"] == "accept"
    assert web.get(block + "&format=raw", headers=npy).headers["content-type"] == "application/octet-stream"
    assert web.get(block, headers={"accept": "*/*"}).headers["content-type"] == "application/octet-stream"


def test_nanometres_are_of_the_world_frame_and_name_the_same_place_at_every_level(web: httpx.Client, phantom: Made):
    # Voxel size 40,8,8 nm, cut from the archive at 100,200,300: voxel 8,16,24 has its centre at (108*40, 216*8, 324*8).
    at = "origin_nm=4320,1728,2592&shape_nm=320,128,128"
    finest = web.get(f"/v1/volumes/{phantom.ref}/block?{at}")
    assert finest.headers["x-emporter-origin"] == "8,16,24"
    assert np.array_equal(array_of(finest), phantom.voxels[8:16, 16:32, 24:40])
    for level, factor in ((1, 2), (2, 4)):
        coarse = web.get(f"/v1/volumes/{phantom.ref}/block?{at}&level={level}")
        assert coarse.headers["x-emporter-origin"] == f"{8 // factor},{16 // factor},{24 // factor}"
        assert coarse.headers["x-emporter-shape"] == f"{8 // factor},{16 // factor},{16 // factor}"


def test_nanometres_of_a_volume_without_voxel_size_are_409(house: House, web: httpx.Client):
    made = house.commit(Made(noise((20, 20, 20)), name="no-size", voxel_size_nm=(None, 8.0, 8.0)))
    for query in ("origin_nm=0,0,0&shape=2,2,2", "shape_nm=8,8,8"):
        answer = web.get(f"/v1/volumes/{made.ref}/block?{query}")
        assert (answer.status_code, answer.json()["code"]) == (409, "voxel_size_unknown")
        assert answer.json()["hint"]
    assert web.get(f"/v1/volumes/{made.ref}/block?level=1&shape=2,2,2").headers["x-emporter-voxel-size-nm"] == "null,16,16"


def test_the_source_frame_is_the_archives_own_index(web: httpx.Client, phantom: Made):
    asked = f"/v1/volumes/{phantom.ref}/block?frame=source&origin=103,205,307&shape=4,5,6"
    assert np.array_equal(array_of(web.get(asked)), phantom.voxels[3:7, 5:10, 7:13])
    coarse = web.get(asked + "&level=1")
    assert coarse.headers["x-emporter-origin"] == "1,2,3"  # the voxels of level 1 that cover source voxels 3..7, 5..10, 7..13
    assert np.array_equal(array_of(coarse), phantom.levels[1][1:4, 2:5, 3:7])
    outside = web.get(f"/v1/volumes/{phantom.ref}/block?frame=source&origin=0,0,0&shape=4,5,6")
    assert outside.status_code == 416


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("origin=0,0,0&shape=51,1,1", 416, "outside_volume"),
        ("origin=-1,0,0&shape=1,1,1", 416, "outside_volume"),
        ("origin=50,0,0&shape=1,1,1", 416, "outside_volume"),
        ("origin=0,0", 400, "invalid_request"),
        ("origin=0,0,x", 400, "invalid_request"),
        ("origin=0,0,\u00b2", 400, "invalid_request"),
        ("origin=0,0,99999999999999999999999999", 400, "invalid_request"),
        ("shape=0,1,1", 400, "invalid_request"),
        ("shape=1,1,-1", 400, "invalid_request"),
        ("origin=0,0,0&origin_nm=0,0,0", 400, "invalid_request"),
        ("shape=1,1,1&shape_nm=8,8,8", 400, "invalid_request"),
        ("origin_nm=nan,0,0", 400, "invalid_request"),
        ("shape_nm=inf,1,1", 400, "invalid_request"),
        ("shape_nm=0,1,1", 400, "invalid_request"),
        ("frame=source&origin_nm=0,0,0", 400, "invalid_request"),
        ("frame=elsewhere", 400, "invalid_request"),
        ("format=tiff", 400, "invalid_request"),
        ("outside=zeros", 400, "invalid_request"),
        ("orign=1,1,1", 400, "invalid_request"),
        ("level=-1", 400, "invalid_request"),
        ("level=3", 404, "level_unknown"),
        ("outside=constant&shape=100000,100000,1000", 413, "too_large"),
        ("outside=edge&shape=1,1,1000000000", 413, "too_large"),
        ("outside=edge&origin=0,0,1099511627776&shape=1099511627776,1099511627776,1099511627776", 413, "too_large"),
    ],
)
def test_what_can_not_be_served_is_a_problem_with_a_hint(web: httpx.Client, phantom: Made, query: str, status: int, code: str):
    answer = web.get(f"/v1/volumes/{phantom.ref}/block?{query}")
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json()["hint"]
    assert answer.json()["status"] == status


def test_a_view_of_another_kind_is_asked_for_by_get_only(web: httpx.Client, phantom: Made):
    answer = web.post(f"/v1/volumes/{phantom.ref}/block")
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")


@pytest.mark.parametrize(("outside", "mode"), [("constant", "constant"), ("reflect", "reflect"), ("edge", "edge")])
def test_voxels_outside_are_what_numpy_pad_makes_of_them(web: httpx.Client, phantom: Made, outside: str, mode: str):
    around = 100
    padded = np.pad(phantom.voxels, around, mode=mode)
    for origin, shape in [
        ((-5, -7, -9), (20, 20, 20)),
        ((45, 60, 80), (30, 30, 30)),
        ((-90, 3, 100), (150, 10, 40)),
        ((60, 80, 95), (5, 5, 5)),
    ]:
        answer = web.get(
            f"/v1/volumes/{phantom.ref}/block",
            params={"origin": ",".join(map(str, origin)), "shape": ",".join(map(str, shape)), "outside": outside},
        )
        expected = padded[tuple(slice(o + around, o + around + n) for o, n in zip(origin, shape, strict=True))]
        assert np.array_equal(array_of(answer), expected)
        assert answer.headers["x-emporter-origin"] == ",".join(map(str, origin))


def test_an_etag_is_known_before_anything_is_read_and_saves_the_reading(house: House, web: httpx.Client):
    made = house.commit(Made(noise((20, 20, 20)), name="etags"))
    block = f"/v1/volumes/{made.ref}/block?shape=9,9,9"
    first = web.get(block)
    asyncio.run(house.objects.delete(storage.VOLUMES, [storage.zarr_root(made.name, 1) + storage.shard_key(0, (0, 0, 0))]))
    again = web.get(block, headers={"if-none-match": f'"other", {first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    others = [
        web.get(f"/v1/volumes/{made.ref}/block?{query}", headers={"if-none-match": "*"}).headers["etag"]
        for query in (
            "shape=9,9,9&format=npy",
            "shape=9,9,8",
            "shape=9,9,9&level=1",
            "shape=9,9,9&origin=0,0,1",
            "shape=9,9,9&outside=edge",
        )
    ]
    assert len({first.headers["etag"], *others}) == 6


def test_a_pinned_block_may_be_kept_for_ever_and_a_plain_one_is_asked_for_again(web: httpx.Client, phantom: Made):
    assert "immutable" in web.get(f"/v1/volumes/{phantom.ref}/block?shape=1,1,1").headers["cache-control"]
    plain = web.get(f"/v1/volumes/{phantom.name}/block?shape=1,1,1")
    assert plain.headers["cache-control"] == "no-cache"
    assert plain.headers["x-emporter-revision"] == "1"


def test_many_readers_at_once_each_get_their_own_box(web: httpx.Client, phantom: Made):
    rng = np.random.default_rng(5)
    origins = [tuple(int(rng.integers(0, n - 16)) for n in phantom.voxels.shape) for _ in range(200)]

    def right(origin: tuple[int, ...]) -> bool:
        got = array_of(web.get(f"/v1/volumes/{phantom.ref}/block?origin={','.join(map(str, origin))}&shape=16,16,16"))
        return np.array_equal(got, phantom.voxels[tuple(slice(o, o + 16) for o in origin)])

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(right, origins))


def test_a_box_larger_than_what_is_decoded_at_once_is_exact(house: House, web: httpx.Client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("block_server.arrays.VOXELS", 3 * 16**3 * 2)
    made = house.commit(Made(noise((60, 90, 70)), name="pieces", halvings=()))
    assert np.array_equal(
        array_of(web.get(f"/v1/volumes/{made.ref}/block?origin=3,5,7&shape=55,80,60")), made.voxels[3:58, 5:85, 7:67]
    )
    around = np.pad(made.voxels, 4, mode="constant")
    assert np.array_equal(
        array_of(web.get(f"/v1/volumes/{made.ref}/block?origin=-4,-4,-4&shape=68,98,78&outside=constant")), around
    )
