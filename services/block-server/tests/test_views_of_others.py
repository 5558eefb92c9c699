"""What the tools of others read through their own protocols: Zarr v2 and neuroglancer precomputed."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import httpx
import numpy as np
import pytest
import tensorstore as ts
import zarr
from ome_zarr_models.v04 import Image

from block_server.testing import House, Made
from emporter_contracts import storage

DTYPES = ["uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]
PRECOMPUTED = {"uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "float32"}


def noise(shape=(50, 70, 90), dtype="uint16", seed=0):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.normal(0, 100, shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)


@pytest.fixture(scope="module", params=["zstd", "blosc", "none"])
def phantom(request: pytest.FixtureRequest, house: House) -> Made:
    voxels = noise()
    voxels[:20, :20, :40] = 0  # a chunk of nothing
    return house.commit(Made(voxels, name=f"others-{request.param}", codec=request.param, source_origin=(8, 16, 32)))


def tensorstore_of(driver: str, url: str, **more):
    spec = {"driver": driver, "kvstore": url, **more}
    return ts.open(spec, open=True, read=True).result()


@pytest.mark.parametrize("level", [0, 1, 2])
def test_readers_of_zarr_2_see_every_voxel(house: House, phantom: Made, level: int):
    url = f"{house.url}/zarr2/{phantom.ref}.ome.zarr/{level}"
    array = zarr.open_array(url, mode="r", zarr_format=2)
    assert np.array_equal(array[:], phantom.levels[level])
    assert np.array_equal(array[3:9, 5:30, 7:8], phantom.levels[level][3:9, 5:30, 7:8])
    assert np.array_equal(tensorstore_of("zarr", url + "/").read().result(), phantom.levels[level])


@pytest.mark.parametrize("dtype", DTYPES)
def test_zarr_2_has_every_dtype(house: House, dtype: str):
    made = house.commit(Made(noise((20, 30, 40), dtype), name=f"zarr2-{dtype}", halvings=()))
    url = f"{house.url}/zarr2/{made.ref}.ome.zarr/0"
    for voxels in (zarr.open_array(url, mode="r", zarr_format=2)[:], tensorstore_of("zarr", url + "/").read().result()):
        assert voxels.dtype == np.dtype(dtype)
        assert np.array_equal(voxels, made.voxels)


def test_the_group_is_ome_zarr_0_4(house: House, web: httpx.Client, phantom: Made):
    root = f"{house.url}/zarr2/{phantom.ref}.ome.zarr"
    group = zarr.open_group(root, mode="r", zarr_format=2)
    image = Image.from_zarr(group)
    assert [d.path for d in image.attributes.multiscales[0].datasets] == ["0", "1", "2"]
    consolidated = zarr.open_consolidated(root, mode="r", zarr_format=2)
    assert np.array_equal(consolidated["1"][:], phantom.levels[1])
    stored = web.get(f"/zarr/{phantom.ref}.ome.zarr/zarr.json").json()["attributes"]["ome"]["multiscales"][0]
    seen = web.get(f"/zarr2/{phantom.ref}.ome.zarr/.zattrs").json()["multiscales"][0]
    assert seen["datasets"] == stored["datasets"]
    assert seen["axes"] == stored["axes"]


def test_a_chunk_is_a_byte_range_of_its_shard_without_its_checksum(house: House, web: httpx.Client, phantom: Made):
    answer = web.get(f"/zarr2/{phantom.ref}.ome.zarr/0/1/0/1")
    shard = house.objects.get_sync(storage.VOLUMES, storage.zarr_root(phantom.name, 1) + "0/c/0/0/0")
    assert answer.content in shard
    head = web.head(f"/zarr2/{phantom.ref}.ome.zarr/0/1/0/1")
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(answer.content)))
    assert head.headers["etag"] == answer.headers["etag"]
    assert "immutable" in answer.headers["cache-control"]
    part = web.get(f"/zarr2/{phantom.ref}.ome.zarr/0/1/0/1", headers={"range": "bytes=3-9"})
    assert (part.status_code, part.content) == (206, answer.content[3:10])
    assert part.headers["content-range"] == f"bytes 3-9/{len(answer.content)}"
    assert web.get(f"/zarr2/{phantom.ref}.ome.zarr/0/1/0/1", headers={"range": "bytes=9999999-"}).status_code == 416
    assert web.get(f"/zarr2/{phantom.ref}.ome.zarr/0/1/0/1", headers={"if-none-match": head.headers["etag"]}).status_code == 304


@pytest.mark.parametrize(
    "key",
    [
        "0/4/0/0",
        "0/0/0/6",
        "3/0/0/0",
        "0/0/0",
        "0/-1/0/0",
        "0/00/0/0",
        "zarr.json",
        "0/zarr.json",
        "../x",
        ".zgroup/",
        "",
        "0/\u0661/0/0",
    ],
)
def test_what_is_not_in_the_zarr_is_404(web: httpx.Client, phantom: Made, key: str):
    for method in ("GET", "HEAD"):
        url = httpx.URL(web.base_url).copy_with(raw_path=f"/zarr2/{phantom.ref}.ome.zarr/".encode() + quote(key).encode())
        answer = web.request(method, url)
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"


def test_many_requests_name_one_revision(web: httpx.Client, phantom: Made):
    for path in (
        f"zarr2/{phantom.name}.ome.zarr/.zattrs",
        f"precomputed/{phantom.name}/info",
        f"precomputed/{phantom.name}/0/0-1_0-1_0-1",
    ):
        answer = web.get(f"/{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_pinned")
        assert answer.json()["hint"].endswith(path.replace(phantom.name, str(phantom.ref)))


def test_what_can_not_be_read_is_502_never_404_nor_other_voxels(house: House, web: httpx.Client):
    made = house.commit(Made(noise((64, 64, 64)), name="others-damaged", halvings=()))
    key = storage.zarr_root(made.name, 1) + "0/c/{}"
    asyncio.run(house.objects.delete(storage.VOLUMES, [key.format("1/0/1")]))
    body = bytearray(house.objects.get_sync(storage.VOLUMES, key.format("0/0/0")))
    body[len(body) // 3] ^= 1
    house.objects.put_sync(storage.VOLUMES, key.format("0/0/0"), bytes(body))
    house.objects.put_sync(storage.VOLUMES, key.format("1/1/1"), bytes(body[:100]))
    statuses = {index: web.get(f"/zarr2/{made.ref}.ome.zarr/0/{index}").status_code for index in ("2/0/2", "2/2/2", "0/2/2")}
    assert statuses == {"2/0/2": 502, "2/2/2": 502, "0/2/2": 200}
    # one of the eight chunks of the first shard holds the flipped bit
    first = [web.get(f"/zarr2/{made.ref}.ome.zarr/0/{z}/{y}/{x}").status_code for z in (0, 1) for y in (0, 1) for x in (0, 1)]
    assert sorted(first) == [200] * 7 + [502]
    lost = web.get(f"/precomputed/{made.ref}/0/32-48_0-16_32-48")
    assert (lost.status_code, lost.json()["code"]) == (502, "data_missing")
    left_out = np.ones((16, 16, 16), "u1") * 0
    absent = house.commit(Made(left_out, name="others-absent", zeros_stored=False, halvings=()))
    assert web.get(f"/zarr2/{absent.ref}.ome.zarr/0/0/0/0").status_code == 502


@pytest.mark.parametrize("scale", [0, 1, 2])
def test_tensorstore_reads_every_voxel_as_precomputed(house: House, phantom: Made, scale: int):
    store = tensorstore_of("neuroglancer_precomputed", f"{house.url}/precomputed/{phantom.ref}/", scale_index=scale)
    voxels = store.read().result()[..., 0].transpose(2, 1, 0)
    assert np.array_equal(voxels, phantom.levels[scale])
    assert store.domain.origin[:3] == tuple(n // 2**scale for n in (32, 16, 8))  # x, y, z of the archive
    resolution = [unit.multiplier for unit in store.dimension_units[:3]]
    assert resolution == [8 * 2**scale, 8 * 2**scale, 40 * 2**scale]


@pytest.mark.parametrize("dtype", DTYPES)
def test_precomputed_has_its_dtypes_and_refuses_the_others(house: House, web: httpx.Client, dtype: str):
    made = house.commit(Made(noise((20, 30, 40), dtype), name=f"precomputed-{dtype}", halvings=()))
    if dtype in PRECOMPUTED:
        store = tensorstore_of("neuroglancer_precomputed", f"{house.url}/precomputed/{made.ref}/")
        assert np.array_equal(store.read().result()[..., 0].transpose(2, 1, 0), made.voxels)
        return
    for path in ("info", "0/0-16_0-16_0-16"):
        answer = web.get(f"/precomputed/{made.ref}/{path}")
        assert (answer.status_code, answer.json()["code"]) == (415, "unsuitable_view")
        assert answer.json()["hint"]


def test_labels_are_a_segmentation(house: House, web: httpx.Client):
    made = house.commit(Made(noise((20, 20, 20), "uint64"), name="precomputed-labels", role="labels"))
    assert web.get(f"/precomputed/{made.ref}/info").json()["type"] == "segmentation"


def test_levels_that_begin_between_two_voxels_are_left_out_rather_than_shifted(house: House, web: httpx.Client):
    made = house.commit(Made(noise((40, 40, 40), "uint8"), name="precomputed-odd", source_origin=(2, 6, 10)))
    scales = web.get(f"/precomputed/{made.ref}/info").json()["scales"]
    assert [(one["key"], one["voxel_offset"]) for one in scales] == [("0", [10, 6, 2]), ("1", [5, 3, 1])]
    assert web.get(f"/precomputed/{made.ref}/2/2-10_1-10_0-10").status_code == 404


def test_precomputed_without_a_voxel_size_is_409(house: House, web: httpx.Client):
    made = house.commit(Made(noise((20, 20, 20), "uint8"), name="precomputed-no-size", voxel_size_nm=(None, 8.0, 8.0)))
    answer = web.get(f"/precomputed/{made.ref}/info")
    assert (answer.status_code, answer.json()["code"]) == (409, "voxel_size_unknown")
    assert answer.json()["hint"]


@pytest.fixture(scope="module")
def gridded(house: House) -> Made:
    return house.commit(Made(noise((40, 40, 40), "uint8"), name="precomputed-grid", halvings=()))


@pytest.mark.parametrize(
    "key", ["0/0-16_0-16_0-17", "0/0-16_0-16", "0/1-17_0-16_0-16", "9/0-16_0-16_0-16", "0/90-106_0-16_0-16", "0/x"]
)
def test_a_chunk_off_the_grid_is_404(web: httpx.Client, gridded: Made, key: str):
    assert web.get(f"/precomputed/{gridded.ref}/{key}").status_code == 404
    assert web.get(f"/precomputed/{gridded.ref}/0/32-40_0-16_0-16").status_code == 200
