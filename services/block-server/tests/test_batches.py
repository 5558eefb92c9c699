from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import httpx
import imagecodecs
import numpy as np
import pytest
import tensorstore as ts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from block_server.settings import MIB
from block_server.testing import House, Made, house_on
from emporter_runtime.testing import file_store

AROUND = 40


def noise(shape=(50, 70, 90), dtype="uint16", seed=0):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.normal(0, 100, shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)


@pytest.fixture(scope="module")
def phantom(house: House) -> Made:
    return house.commit(Made(noise(), name="batch-phantom", source_origin=(100, 200, 300)))


def array_of(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    shape = tuple(map(int, answer.headers["x-emporter-shape"].split(",")))
    return np.frombuffer(answer.content, np.dtype(answer.headers["x-emporter-dtype"]).newbyteorder("<")).reshape(shape)


def tensors_of(body: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a safetensors body by name, as its page on the format says to read it, and its metadata."""
    length = int.from_bytes(body[:8], "little")
    index: dict[str, Any] = json.loads(body[8 : 8 + length])
    about, data = index.pop("__metadata__"), body[8 + length :]
    kinds = {"U": "u", "I": "i", "F": "f"}
    found = {}
    for name, one in index.items():
        start, stop = one["data_offsets"]
        dtype = np.dtype(f"<{kinds[one['dtype'][0]]}{int(one['dtype'][1:]) // 8}")
        found[name] = np.frombuffer(data[start:stop], dtype).reshape(one["shape"])
    assert max(one["data_offsets"][1] for one in index.values()) == len(data)
    return found, about


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint64", "float32"])
def test_a_batch_is_its_boxes_one_after_the_other(house: House, web: httpx.Client, dtype: str):
    made = house.commit(Made(noise((40, 50, 60), dtype), name=f"batch-{dtype}"))
    origins = [[0, 0, 0], [3, 7, 11], [23, 29, 39], [3, 7, 11]]
    answer = web.post(f"/v1/volumes/{made.ref}/blocks", json={"shape": [17, 21, 21], "origins": origins})
    expected = np.stack([made.voxels[z : z + 17, y : y + 21, x : x + 21] for z, y, x in origins])
    assert answer.headers["x-emporter-shape"] == "4,17,21,21"
    assert answer.headers["content-length"] == str(expected.nbytes)
    assert np.array_equal(array_of(answer), expected)


def test_a_batch_comes_in_every_format(web: httpx.Client, phantom: Made):
    body = {"shape": [5, 6, 7], "origins": [[0, 0, 0], [9, 9, 9]], "level": 1}
    expected = np.stack([phantom.levels[1][:5, :6, :7], phantom.levels[1][9:14, 9:15, 9:16]])
    url = f"/v1/volumes/{phantom.ref}/blocks"
    npy = web.post(url, json=body, headers={"accept": "application/x-npy"})
    assert np.array_equal(np.load(io.BytesIO(npy.content)), expected)
    assert imagecodecs.zstd_decode(web.post(url, json=body | {"format": "zstd"}).content) == expected.tobytes()
    assert imagecodecs.blosc_decode(web.post(url, json=body | {"format": "blosc"}).content) == expected.tobytes()
    real = web.post(url, json=body | {"dtype": "float32"})
    assert np.array_equal(array_of(real), expected.astype("f4"))


coordinate = st.integers(-30, 110)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    level=st.integers(0, 2),
    shape=st.tuples(*[st.integers(1, 30)] * 3),
    origins=st.lists(st.tuples(coordinate, coordinate, coordinate), min_size=1, max_size=8),
    outside=st.sampled_from(["constant", "reflect", "edge"]),
)
def test_batches_of_any_boxes_are_slices_of_the_padded_volume(web: httpx.Client, phantom: Made, level, shape, origins, outside):
    around = 150
    padded = np.pad(phantom.levels[level], around, mode=outside)
    answer = web.post(
        f"/v1/volumes/{phantom.ref}/blocks", json={"level": level, "shape": shape, "origins": origins, "outside": outside}
    )
    expected = [padded[tuple(slice(o + around, o + around + n) for o, n in zip(at, shape, strict=True))] for at in origins]
    assert np.array_equal(array_of(answer), np.stack(expected))


def store_reads() -> int:
    """How many chunks and shard indexes TensorStore has read from stores since it was loaded."""
    metrics = ts.experimental_collect_matching_metrics("/tensorstore/cache/kvs_cache_read")
    return sum(value["value"] for metric in metrics for value in metric["values"])


def test_a_chunk_that_many_boxes_share_is_decoded_once(tmp_path: Path):
    voxels = noise((128, 128, 128), "uint8")
    with house_on(file_store(tmp_path), blocks_cache_bytes=0) as house, httpx.Client(base_url=house.url, timeout=60) as web:
        made = house.commit(Made(voxels, name="shared", chunk=(16, 16, 16), shard=(64, 64, 64), halvings=()))
        web.get(f"/v1/volumes/{made.ref}")
        origins = np.random.default_rng(0).integers(0, 65, (32, 3)).tolist()
        touched = {
            (z, y, x)
            for at in origins
            for z in range(at[0] // 16, -(-(at[0] + 64) // 16))
            for y in range(at[1] // 16, -(-(at[1] + 64) // 16))
            for x in range(at[2] // 16, -(-(at[2] + 64) // 16))
        }
        before = store_reads()
        answer = web.post(f"/v1/volumes/{made.ref}/blocks", json={"shape": [64, 64, 64], "origins": origins})
        read = store_reads() - before
        assert np.array_equal(array_of(answer), np.stack([voxels[z : z + 64, y : y + 64, x : x + 64] for z, y, x in origins]))
        assert read <= len(touched) + 8  # and the index of each of eight shards


def test_a_batch_larger_than_memory_allows_is_exact_and_sent_as_it_is_read(tmp_path: Path):
    voxels = noise((100, 120, 140), "uint8")
    with house_on(file_store(tmp_path), blocks_in_flight_bytes=8 * MIB) as house, httpx.Client(base_url=house.url) as web:
        made = house.commit(Made(voxels, name="many", chunk=(32, 32, 32), shard=(64, 64, 64), halvings=()))
        origins = np.random.default_rng(0).integers(0, 20, (60, 3)).tolist()
        answer = web.post(f"/v1/volumes/{made.ref}/blocks", json={"shape": [80, 90, 100], "origins": origins}, timeout=60)
        assert np.array_equal(array_of(answer), np.stack([voxels[z : z + 80, y : y + 90, x : x + 100] for z, y, x in origins]))
        compressed = {"shape": [80, 90, 100], "origins": origins, "format": "zstd"}
        refused = web.post(f"/v1/volumes/{made.ref}/blocks", json=compressed)
        assert (refused.status_code, refused.json()["code"]) == (413, "too_large")
        assert 'emporter_blocks_held_bytes{kind="voxels"} 0.0' in web.get("/metrics").text


def test_boxes_in_nanometres_and_in_the_archives_index(web: httpx.Client, phantom: Made):
    url = f"/v1/volumes/{phantom.ref}/blocks"
    world = web.post(url, json={"shape": [4, 5, 6], "origins_nm": [[4320, 1728, 2592], [4000, 1600, 2400]]})
    assert np.array_equal(array_of(world), np.stack([phantom.voxels[8:12, 16:21, 24:30], phantom.voxels[:4, :5, :6]]))
    source = web.post(url, json={"shape": [4, 5, 6], "origins": [[103, 205, 307]], "frame": "source"})
    assert np.array_equal(array_of(source)[0], phantom.voxels[3:7, 5:10, 7:13])
    fitting = web.post(url, json={"shape": [4, 5, 6], "origins": [[0, 0, 0]], "voxel_size_nm": [100, 20, 20]})
    assert fitting.headers["x-emporter-level"] == "1"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "invalid_request"),
        ([], 400, "invalid_request"),
        ({"shape": [1, 1, 1]}, 400, "invalid_request"),
        ({"shape": [1, 1, 1], "origins": []}, 400, "invalid_request"),
        ({"shape": [1, 1, 1], "origins": [[0, 0]]}, 400, "invalid_request"),
        ({"shape": [1, 1, 0], "origins": [[0, 0, 0]]}, 400, "invalid_request"),
        ({"shape": [1, 1, 1], "origins": [[0, 0, 0]], "origins_nm": [[0, 0, 0]]}, 400, "invalid_request"),
        ({"shape": [1, 1, 1], "origins": [[0, 0, 0]], "orign": 1}, 400, "invalid_request"),
        ({"shape": [1, 1, 1], "origins": [[0, 0, 0]], "level": 1, "voxel_size_nm": 8}, 400, "invalid_request"),
        ({"shape": [1, 1, 1], "origins": [[0, 0, 10**30]]}, 400, "invalid_request"),
        ({"shape": [1, 1, 1], "origins": [[0, 0, 90]]}, 416, "outside_volume"),
        ({"shape": [1, 1, 1], "origins": [[0, 0, 0]], "level": 9}, 404, "level_unknown"),
        ({"shape": [1, 1, 1], "origins": [[0, 0, 0]], "format": "tiff"}, 400, "invalid_request"),
        ({"shape": [10**6, 10**6, 10**6], "origins": [[0, 0, 0]], "outside": "edge"}, 413, "too_large"),
        ({"shape": [1, 1, 1], "origins": [[0, 0, 0]], "dtype": "uint8"}, 415, "unsuitable_view"),
    ],
)
def test_what_is_no_batch_is_a_problem_with_a_hint(web: httpx.Client, phantom: Made, body, status: int, code: str):
    answer = web.post(f"/v1/volumes/{phantom.ref}/blocks", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["hint"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"shape": [1,1,NaN]}', b"null"])
def test_a_body_that_is_no_json_is_400(web: httpx.Client, phantom: Made, content: bytes):
    answer = web.post(f"/v1/volumes/{phantom.ref}/blocks", content=content)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


def test_a_body_too_long_is_413(web: httpx.Client, phantom: Made):
    answer = web.post(f"/v1/volumes/{phantom.ref}/blocks", content=b" " * (9 * MIB))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


@pytest.fixture(scope="module")
def pair(house: House) -> tuple[Made, Made]:
    """An image of 40,8,8 nm, and labels of part of it at 40,16,16 nm that begin elsewhere."""
    image = house.commit(Made(noise((40, 60, 80), "uint8"), name="pair-image", halvings=((1, 2, 2),)))
    labels = noise((30, 25, 35), "uint64", seed=3)
    return image, house.commit(
        Made(labels, name="pair-labels", role="labels", labels_of="pair-image", voxel_size_nm=(40.0, 16.0, 16.0),
             source_origin=(5, 2, 1), halvings=((1, 2, 2),))
    )  # fmt: skip


def nearest(labels: Made, at: tuple[int, int, int], shape: tuple[int, int, int]) -> np.ndarray:
    """The label voxel nearest to the centre of each image voxel, one by one."""
    out = np.empty(shape, labels.voxels.dtype)
    for z, y, x in np.ndindex(*shape):
        nm = ((at[0] + z) * 40.0, (at[1] + y) * 8.0, (at[2] + x) * 8.0)
        origin, size = (5 * 40.0, 2 * 16.0, 1 * 16.0), (40.0, 16.0, 16.0)
        index = tuple(int(np.floor((p - o) / s + 0.5)) for p, o, s in zip(nm, origin, size, strict=True))
        inside = all(0 <= i < n for i, n in zip(index, labels.voxels.shape, strict=True))
        out[z, y, x] = labels.voxels[index] if inside else 0
    return out


def test_image_and_labels_of_one_place_come_in_one_answer(web: httpx.Client, pair: tuple[Made, Made]):
    image, labels = pair
    origins = [(6, 10, 20), (7, 11, 21)]
    answer = web.post(
        "/v1/blocks",
        json={
            "volumes": [{"volume": str(image.ref), "name": "image"}, {"volume": str(labels.ref)}],
            "shape": [5, 9, 12],
            "origins": origins,
        },
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-safetensors"
    tensors, about = tensors_of(answer.content)
    assert np.array_equal(tensors["image"], np.stack([image.voxels[z : z + 5, y : y + 9, x : x + 12] for z, y, x in origins]))
    assert np.array_equal(tensors[str(labels.ref)], np.stack([nearest(labels, at, (5, 9, 12)) for at in origins]))
    volumes = json.loads(about["volumes"])
    assert volumes[str(labels.ref)]["voxel_size_nm"] == [40.0, 16.0, 16.0]
    assert volumes[str(labels.ref)]["level"] == 0
    assert json.loads(about["origins"]) == [list(at) for at in origins]


def test_labels_outside_are_refused_or_filled_as_asked(web: httpx.Client, pair: tuple[Made, Made]):
    image, labels = pair
    body = {"volumes": [{"volume": str(image.ref)}, {"volume": str(labels.ref)}], "shape": [8, 20, 20], "origins": [[0, 0, 0]]}
    refused = web.post("/v1/blocks", json=body)
    assert (refused.status_code, refused.json()["code"]) == (416, "outside_volume")
    filled, _ = tensors_of(web.post("/v1/blocks", json=body | {"outside": "constant"}).content)
    assert np.array_equal(filled[str(labels.ref)][0], nearest(labels, (0, 0, 0), (8, 20, 20)))
    far = body | {"outside": "constant", "shape": [2, 2, 2]}
    assert not tensors_of(web.post("/v1/blocks", json=far).content)[0][str(labels.ref)].any()


def test_each_volume_is_read_at_the_level_that_fits_the_grid(web: httpx.Client, pair: tuple[Made, Made]):
    image, labels = pair
    body = {
        "volumes": [{"volume": str(image.ref), "level": 1}, {"volume": str(labels.ref)}],
        "shape": [2, 3, 4],
        "origins": [[10, 10, 10]],
    }
    _, about = tensors_of(web.post("/v1/blocks", json=body).content)
    volumes = json.loads(about["volumes"])
    assert volumes[str(image.ref)]["voxel_size_nm"] == [40.0, 16.0, 16.0]
    assert volumes[str(labels.ref)]["level"] == 0


def test_volumes_without_a_voxel_size_have_no_common_place(house: House, web: httpx.Client, pair: tuple[Made, Made]):
    made = house.commit(Made(noise((20, 20, 20)), name="placeless", voxel_size_nm=(None, 8.0, 8.0)))
    body = {"volumes": [{"volume": str(pair[0].ref)}, {"volume": str(made.ref)}], "shape": [2, 2, 2], "origins": [[0, 0, 0]]}
    answer = web.post("/v1/blocks", json=body)
    assert (answer.status_code, answer.json()["code"]) == (409, "voxel_size_unknown")
    assert answer.json()["hint"]
    alone = web.post("/v1/blocks", json=body | {"volumes": [{"volume": str(made.ref)}]})
    assert np.array_equal(tensors_of(alone.content)[0][str(made.ref)][0], made.voxels[:2, :2, :2])
