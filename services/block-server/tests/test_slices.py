from __future__ import annotations

import io

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from block_server.encoding import Window, grey
from block_server.testing import House, Made

AXES = {"z": 0, "y": 1, "x": 2}


def picture(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    image = Image.open(io.BytesIO(answer.content))
    assert image.mode == "L"
    return np.asarray(image)


def windowed(plane: np.ndarray, low: float, high: float) -> np.ndarray:
    low, high = float(low), float(high)
    shown = np.clip((plane.astype(float) - low) * 255 / (high - low), 0, 255)
    return np.rint(np.nan_to_num(shown))


def noise(dtype: str, name: str, **differing) -> Made:
    rng = np.random.default_rng(2)
    shape = (20, 30, 40)
    if np.dtype(dtype).kind == "f":
        return Made(rng.normal(0, 5, shape).astype(dtype), name=name, **differing)
    info = np.iinfo(dtype)
    return Made(rng.integers(info.min, info.max, shape, dtype=dtype), name=name, **differing)


@pytest.fixture(scope="module")
def bytes8(house: House) -> Made:
    return house.commit(noise("uint8", "slices-uint8"))


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("axis", ["z", "y", "x"])
def test_a_slice_of_bytes_is_the_plane_itself(web: httpx.Client, bytes8: Made, axis: str, level: int):
    for index in (0, bytes8.levels[level].shape[AXES[axis]] - 1):
        answer = web.get(f"/v1/volumes/{bytes8.ref}/slice/{axis}/{index}?level={level}")
        assert np.array_equal(picture(answer), np.take(bytes8.levels[level], index, AXES[axis]))
        assert answer.headers["x-emporter-revision"] == "1"
        assert answer.headers["x-emporter-window"] == "as stored"


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "int8", "int16", "int32", "float16", "float32", "float64"])
def test_other_types_are_shown_through_the_volumes_window(house: House, web: httpx.Client, dtype: str):
    made = house.commit(noise(dtype, f"slices-{dtype}"))
    plane = made.voxels[3]
    low, high = np.percentile(made.voxels, [0.1, 99.9])
    auto = web.get(f"/v1/volumes/{made.ref}/slice/z/3")
    assert np.abs(picture(auto) - windowed(plane, low, high)).max() <= 1
    full = web.get(f"/v1/volumes/{made.ref}/slice/z/3?window=full")
    assert np.abs(picture(full) - windowed(plane, made.voxels.min(), made.voxels.max())).max() <= 1
    own = web.get(f"/v1/volumes/{made.ref}/slice/z/3?window=-3,7.5")
    assert np.array_equal(picture(own), windowed(plane, -3, 7.5))
    assert own.headers["x-emporter-window"] == "-3,7.5"
    assert auto.headers["etag"] != own.headers["etag"] != full.headers["etag"]


@pytest.mark.parametrize("dtype", ["uint64", "int64"])
@pytest.mark.parametrize("window", ["auto", "full"])
def test_names_of_64_bits_have_no_grey_value_unless_one_is_given(house: House, web: httpx.Client, dtype: str, window: str):
    made = house.commit(noise(dtype, f"names-{dtype}-{window}", role="labels"))
    answer = web.get(f"/v1/volumes/{made.ref}/slice/z/0?window={window}")
    assert (answer.status_code, answer.json()["code"]) == (415, "unsuitable_view")
    assert "window=low,high" in answer.json()["hint"]
    given_one = web.get(f"/v1/volumes/{made.ref}/slice/z/0?window=0,1e18")
    assert np.array_equal(picture(given_one), windowed(made.voxels[0], 0, 1e18))


def test_labels_have_no_automatic_window_but_bytes_are_shown_as_they_are(house: House, web: httpx.Client):
    wide = house.commit(noise("uint16", "labels-wide", role="labels"))
    assert web.get(f"/v1/volumes/{wide.ref}/slice/z/0").status_code == 415
    assert web.get(f"/v1/volumes/{wide.ref}/slice/z/0?window=full").status_code == 200
    narrow = house.commit(noise("uint8", "labels-narrow", role="labels"))
    assert np.array_equal(picture(web.get(f"/v1/volumes/{narrow.ref}/slice/z/0")), narrow.voxels[0])


def test_a_volume_of_one_value_is_black(house: House, web: httpx.Client):
    made = house.commit(Made(np.full((4, 5, 6), 7, "u2"), name="flat"))
    assert picture(web.get(f"/v1/volumes/{made.ref}/slice/y/2")).max() == 0


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        ("z/20", 416, "outside_volume"),
        ("x/40", 416, "outside_volume"),
        ("z/10?level=1", 416, "outside_volume"),
        ("z/-1", 400, "invalid_request"),
        ("t/0", 400, "invalid_request"),
        ("z/0?window=5,5", 400, "invalid_request"),
        ("z/0?window=9,1", 400, "invalid_request"),
        ("z/0?window=nan,1", 400, "invalid_request"),
        ("z/0?window=0,1,2", 400, "invalid_request"),
        ("z/0?window=best", 400, "invalid_request"),
        ("z/0?format=bmp", 400, "invalid_request"),
        ("z/0?level=7", 404, "level_unknown"),
    ],
)
def test_what_is_no_slice_is_a_problem(web: httpx.Client, bytes8: Made, asked: str, status: int, code: str):
    answer = web.get(f"/v1/volumes/{bytes8.ref}/slice/{asked}")
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["hint"]


def test_a_slice_the_client_has_is_304(web: httpx.Client, bytes8: Made):
    url = f"/v1/volumes/{bytes8.ref}/slice/z/4"
    answer = web.get(url)
    assert "immutable" in answer.headers["cache-control"]
    assert web.get(url, headers={"if-none-match": answer.headers["etag"]}).status_code == 304


@given(st.integers(1, 40), st.integers(1, 40), st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_grey_is_monotonic_and_within_a_byte(rows, columns, low, width):
    values = np.linspace(low - width, low + 2 * width, rows * columns).reshape(rows, columns)
    shown = grey(values, Window(low, low + width))
    assert (np.diff(shown.ravel().astype(int)) >= 0).all()
    assert shown[values <= low].max(initial=0) == 0
    assert shown[values >= low + width].min(initial=255) == 255


def test_nan_is_black_and_infinities_are_the_ends():
    plane = np.array([[np.nan, -np.inf, np.inf, 0.5]], "f4")
    assert grey(plane, Window(0, 1)).tolist() == [[0, 0, 255, 128]]
