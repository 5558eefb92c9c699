"""Every route's voxels are those that zarr-python reads from the stored files."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import imagecodecs
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from block_server.testing import House, Made, house_on
from emporter_contracts import storage
from emporter_runtime.testing import file_store

DTYPES = {"uint8": "zstd", "int16": "blosc", "uint64": "none", "float32": "blosc"}
SHAPE = (37, 70, 90)
AROUND = 150


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with house_on(file_store(tmp_path_factory.mktemp("routes"))) as house:
        yield house


@pytest.fixture(scope="module")
def stored(house: House) -> dict[str, tuple[Made, list[np.ndarray]]]:
    """Volumes by dtype, and their levels as zarr-python reads them from the files."""
    found = {}
    rng = np.random.default_rng(0)
    for dtype, codec in DTYPES.items():
        real = np.dtype(dtype).kind == "f"
        low, high = (0, 0) if real else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        voxels = rng.normal(0, 1e6, SHAPE).astype(dtype) if real else rng.integers(low, high, SHAPE, dtype=dtype, endpoint=True)
        made = house.commit(Made(voxels, name=f"routes-{dtype}", codec=codec, source_origin=(4, 8, 12)))
        root = house.objects.local_path(storage.VOLUMES, storage.zarr_root(made.name, 1))
        assert isinstance(root, Path)
        found[dtype] = made, [zarr.open_array(root / str(level), mode="r")[:] for level in range(3)]
    return found


boxes = st.tuples(*[st.tuples(st.integers(-40, 100), st.integers(1, 50))] * 3)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    dtype=st.sampled_from(list(DTYPES)),
    level=st.integers(0, 2),
    box=boxes,
    outside=st.sampled_from(["error", "constant", "reflect", "edge"]),
    form=st.sampled_from(["raw", "npy", "zstd", "blosc"]),
    frame=st.sampled_from(["voxel", "nm"]),
)
def test_a_block_of_any_box_level_edge_and_dtype(web: httpx.Client, stored, dtype, level, box, outside, form, frame):
    made, levels = stored[dtype]
    voxels = levels[level]
    origin, shape = [a for a, _ in box], [n for _, n in box]
    inside = all(a >= 0 and a + n <= extent for a, n, extent in zip(origin, shape, voxels.shape, strict=True))
    query = {"level": level, "shape": ",".join(map(str, shape)), "outside": outside, "format": form}
    if frame == "voxel":
        query["origin"] = ",".join(map(str, origin))
    else:
        scale = [nm * 2**level for nm in (40.0, 8.0, 8.0)]
        first = [(at + (2**level - 1) / 2) * nm for at, nm in zip((4, 8, 12), (40.0, 8.0, 8.0), strict=True)]
        query["origin_nm"] = ",".join(str(t + a * s) for t, a, s in zip(first, origin, scale, strict=True))
    answer = web.get(f"/v1/volumes/{made.ref}/block", params=query)
    if outside == "error" and not inside:
        assert answer.status_code == 416
        return
    assert answer.status_code == 200, answer.text
    mode = "constant" if outside == "error" else outside
    around = AROUND
    expected = np.pad(voxels, around, mode=mode)[
        tuple(slice(a + around, a + around + n) for a, n in zip(origin, shape, strict=True))
    ]
    match form:
        case "npy":
            body = np.load(io.BytesIO(answer.content)).tobytes()
        case "zstd":
            body = imagecodecs.zstd_decode(answer.content)
        case "blosc":
            body = imagecodecs.blosc_decode(answer.content)
        case _:
            body = answer.content
    assert body == np.ascontiguousarray(expected).tobytes()
    assert answer.headers["x-emporter-origin"] == ",".join(map(str, origin))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(dtype=st.sampled_from(list(DTYPES)), level=st.integers(0, 2), data=st.data())
def test_the_other_routes_give_the_same_voxels(web: httpx.Client, stored, dtype, level, data):
    made, levels = stored[dtype]
    voxels = levels[level]
    start = [data.draw(st.integers(0, n - 1)) for n in voxels.shape]
    shape = [data.draw(st.integers(1, n - a)) for a, n in zip(start, voxels.shape, strict=True)]
    expected = np.ascontiguousarray(voxels[tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))])
    batch = {"level": level, "shape": shape, "origins": [start, start]}
    assert web.post(f"/v1/volumes/{made.ref}/blocks", json=batch).content == 2 * expected.tobytes()
    places = {"volumes": [{"volume": str(made.ref), "level": level}], "shape": shape, "origins": [start]}
    body = web.post("/v1/blocks", json=places).content
    index = 8 + int.from_bytes(body[:8], "little")
    assert json.loads(body[8:index])[str(made.ref)]["shape"] == [1, *shape]
    assert body[index:] == expected.tobytes()
    (z, y, x), (sz, sy, sx) = start, shape
    cutout = web.get(
        f"/v1/cutout/c/e/{made.ref}/{level}/{x}:{x + sx}/{y}:{y + sy}/{z}:{z + sz}",
        headers={"accept": "application/octet-stream"},
    )
    assert cutout.content == expected.tobytes()
    if level == 0:
        assert web.get(f"/api/node/n/{made.ref}/raw/0_1_2/{sx}_{sy}_{sz}/{x}_{y}_{z}").content == expected.tobytes()


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_pictures_in_every_format_show_the_plane(web: httpx.Client, stored, form: str):
    made, levels = stored["uint8"]
    smooth = levels[0][5]
    answer = web.get(f"/v1/volumes/{made.ref}/slice/z/5", params={"format": form})
    assert answer.headers["content-type"] == f"image/{form}"
    shown = np.asarray(Image.open(io.BytesIO(answer.content)).convert("L")).astype(int)
    assert shown.shape == smooth.shape
    if form == "png":
        assert np.array_equal(shown, smooth)
    else:
        assert np.corrcoef(shown.ravel(), smooth.ravel())[0, 1] > 0.8
    accepted = web.get(f"/v1/volumes/{made.ref}/slice/z/5", headers={"accept": f"image/{form}"})
    assert accepted.content == answer.content
    assert accepted.headers["vary"] == "accept"


def test_sixteen_bits_deep_pictures(house: House, web: httpx.Client, stored):
    voxels = np.random.default_rng(0).integers(0, 2**16, (5, 20, 30), dtype="u2")
    made = house.commit(Made(voxels, name="deep", halvings=()))
    answer = web.get(f"/v1/volumes/{made.ref}/slice/z/3?depth=16")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), voxels[3])
    windowed = web.get(f"/v1/volumes/{made.ref}/slice/z/3?depth=16&window=1000,2000")
    expected = np.rint(np.clip((voxels[3] - 1000.0) / 1000, 0, 1) * 65535)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(windowed.content))), expected)
    refused = web.get(f"/v1/volumes/{made.ref}/slice/z/3?depth=16&format=jpeg")
    assert (refused.status_code, refused.json()["code"]) == (415, "unsuitable_view")


def test_other_dtypes_and_contrast_come_on_request_only(web: httpx.Client, stored):
    made, levels = stored["int16"]
    url = f"/v1/volumes/{made.ref}/block?shape=9,9,9"
    voxels = levels[0][:9, :9, :9]
    for dtype in ("int32", "int64", "float32", "float64"):
        answer = web.get(f"{url}&dtype={dtype}")
        assert answer.headers["x-emporter-dtype"] == dtype
        assert answer.content == voxels.astype(dtype).tobytes()
    for dtype in ("uint8", "uint16", "int8", "uint64"):
        refused = web.get(f"{url}&dtype={dtype}")
        assert (refused.status_code, refused.json()["code"]) == (415, "unsuitable_view")
    grey = web.get(f"{url}&dtype=uint8&window=-1000,1000")
    assert grey.content == np.rint(np.clip((voxels + 1000.0) / 2000, 0, 1) * 255).astype("u1").tobytes()
    assert web.get(url).headers["etag"] != grey.headers["etag"] != web.get(f"{url}&dtype=float32").headers["etag"]


def test_labels_are_never_changed_by_a_conversion(house: House, web: httpx.Client):
    labels = np.random.default_rng(0).integers(0, 2**63, (9, 9, 9), dtype="u8")
    made = house.commit(Made(labels, name="exact-labels", role="labels", halvings=()))
    for query in ("dtype=float32", "dtype=uint32", "dtype=float64", "window=0,5"):
        answer = web.get(f"/v1/volumes/{made.ref}/block?{query}")
        assert (answer.status_code, answer.json()["code"]) == (415, "unsuitable_view")
        assert answer.json()["hint"]


def test_accept_is_negotiated_and_nothing_acceptable_is_406(web: httpx.Client, stored):
    made, _ = stored["uint8"]
    url = f"/v1/volumes/{made.ref}/block?shape=5,5,5"
    expected = {
        "application/zstd": "application/zstd",
        "application/x-blosc;q=0.5, application/x-npy;q=0.9": "application/x-npy",
        "text/html, */*;q=0.1": "application/octet-stream",
        "application/octet-stream;q=0, application/*;q=0.5": "application/x-npy",
    }
    for accept, given_type in expected.items():
        assert web.get(url, headers={"accept": accept}).headers["content-type"] == given_type
    for accept in ("image/png", "application/octet-stream;q=0"):
        refused = web.get(url, headers={"accept": accept})
        assert (refused.status_code, refused.json()["code"]) == (406, "not_acceptable")
        assert refused.json()["hint"]


def test_the_level_that_fits_a_voxel_size(house: House, web: httpx.Client, stored):
    made, _ = stored["uint8"]  # 40,8,8, then 80,16,16, then 160,32,32
    for size, level in (("1", 0), ("40,8,8", 0), ("80,16,16", 1), ("80,16,15", 0), ("200", 2), ("159,100,100", 1)):
        answer = web.get(f"/v1/volumes/{made.ref}/block?shape=2,2,2&voxel_size_nm={size}")
        assert answer.headers["x-emporter-level"] == str(level), size
    assert web.get(f"/v1/volumes/{made.ref}/block?voxel_size_nm=8&level=1").status_code == 400
    unknown = house.commit(Made(np.ones((9, 9, 9), "u1"), name="no-size-to-fit", voxel_size_nm=(None, 8.0, 8.0)))
    refused = web.get(f"/v1/volumes/{unknown.ref}/block?voxel_size_nm=8")
    assert (refused.status_code, refused.json()["code"]) == (409, "voxel_size_unknown")


def test_what_an_answer_took_is_told_by_stage_and_in_metrics(web: httpx.Client, stored):
    made, _ = stored["uint8"]
    answer = web.get(f"/v1/volumes/{made.ref}/block?shape=9,9,9")
    assert [stage.split(";")[0] for stage in answer.headers["server-timing"].split(", ")] == ["find", "wait", "read"]
    text = web.get("/metrics").text
    for name in (
        "emporter_blocks_voxel_bytes_total",
        "emporter_blocks_chunk_bytes_total",
        "emporter_blocks_stage_duration_seconds_count",
    ):
        assert name in text
