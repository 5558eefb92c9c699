"""POST sample: what is promised of the boxes holds for the voxels, on any replica, and what can't be had is said."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import httpx
import numpy as np
import pytest
import tensorstore as ts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from block_server import sampling_drawing, sampling_occupancy
from block_server.sampling_occupancy import pooled
from block_server.testing import House, Made, house_on
from emporter_contracts import storage
from emporter_contracts.geometry import Box
from emporter_readers.filling import background, foreground

SHAPE = (64, 100, 120)


def blobs(shape: tuple[int, int, int] = SHAPE, seed: int = 3) -> np.ndarray:
    """Labels: a few balls in the upper half, most of the volume 0."""
    rng = np.random.default_rng(seed)
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    labels = np.zeros(shape, np.uint32)
    for number in range(1, 9):
        cz, cy, cx = (rng.integers(0, n) for n in (shape[0], shape[1] // 2, shape[2]))
        labels[(z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 < 14**2] = number
    return labels


def indexed(house: House, made: Made) -> Made:
    """Write the index that conversion makes."""
    counts = pooled(foreground(made.voxels, background(made.fill_value, made.role)), made.chunk)
    # Those of volumes that were converted before fill values were known say 0 too.
    attributes = {"fill_value": background(made.fill_value, made.role)}
    spec = {
        "driver": "zarr3",
        "kvstore": house.objects.kvstore(storage.VOLUMES, storage.occupancy(made.name, made.revision)),
        "metadata": {"shape": counts.shape, "data_type": "uint32", "attributes": attributes},
        "store_data_equal_to_fill_value": True,
    }
    ts.open(spec, create=True).result().write(counts).result()
    return made


@pytest.fixture(scope="module")
def image(house: House) -> Made:
    voxels = np.random.default_rng(0).integers(1, 2**16, SHAPE, dtype=np.uint16)
    return house.commit(Made(voxels, name="sampled-image", source_origin=(10, 20, 30)))


@pytest.fixture(scope="module")
def labels(house: House) -> Made:
    """Of a part of the image: 4, 0, 10 voxels in."""
    made = Made(blobs()[4:, :, 10:], name="sampled-labels", role="labels", labels_of="sampled-image", source_origin=(14, 20, 40))
    return indexed(house, house.commit(made))


def ask(web: httpx.Client, made: Made, **wanted: Any) -> httpx.Response:
    return web.post(f"/v1/volumes/{made.ref}/sample", json={"n": 12, "shape": [16, 20, 24], "seed": 1, **wanted})


def places(web: httpx.Client, made: Made, **wanted: Any) -> np.ndarray:
    answer = ask(web, made, **wanted, format="places")
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["origins"])


def test_the_voxels_come_with_where_they_lie(web: httpx.Client, image: Made) -> None:
    answer = ask(web, image)
    assert answer.headers["x-emporter-shape"] == "12,16,20,24"
    origins = np.frombuffer(answer.content[: 12 * 24], "<i8").reshape(12, 3)
    voxels = np.frombuffer(answer.content[12 * 24 :], "<u2").reshape(12, 16, 20, 24)
    for origin, box in zip(origins.tolist(), voxels, strict=True):
        assert np.array_equal(box, image.voxels[Box.at(tuple(origin), (16, 20, 24)).slices()])
    assert np.array_equal(places(web, image), origins)
    assert len({tuple(origin) for origin in origins.tolist()}) == 12


@pytest.mark.parametrize(("dtype", "level"), [("uint8", 1), ("int16", 2), ("uint64", 0), ("float32", 1)])
def test_the_voxels_of_any_dtype_and_level_are_those_of_their_places(
    house: House, web: httpx.Client, dtype: str, level: int
) -> None:
    random = np.random.default_rng(5)
    info = np.iinfo(dtype) if dtype != "float32" else None
    voxels = random.normal(size=SHAPE).astype(dtype) if info is None else random.integers(info.min, info.max, SHAPE, dtype)
    made = house.commit(Made(voxels, name=f"sampled-{dtype}"))
    answer = ask(web, made, shape=[5, 6, 7], level=level)
    assert answer.headers["x-emporter-dtype"] == dtype
    origins = np.frombuffer(answer.content[: 12 * 24], "<i8").reshape(12, 3)
    boxes = np.frombuffer(answer.content[12 * 24 :], np.dtype(dtype).newbyteorder("<")).reshape(12, 5, 6, 7)
    for origin, box in zip(origins.tolist(), boxes, strict=True):
        assert np.array_equal(box, made.levels[level][Box.at(tuple(origin), (5, 6, 7)).slices()])


def test_another_replica_gives_the_same_boxes_and_another_seed_others(
    house: House, web: httpx.Client, image: Made, labels: Made
) -> None:
    wanted = {"labels": str(labels.ref), "min_foreground": 0.2, "n": 30}
    first = places(web, image, **wanted)
    with house_on(house.settings) as other, httpx.Client(base_url=other.url, timeout=60) as there:
        assert np.array_equal(places(there, image, **wanted), first)
    assert not np.array_equal(places(web, image, **wanted, seed=2), first)


def test_more_boxes_of_a_seed_begin_with_the_same_ones(web: httpx.Client, image: Made) -> None:
    few, many = places(web, image, n=10, order="drawn"), places(web, image, n=40, order="drawn")
    assert np.array_equal(many[:10], few)
    by_shard = places(web, image, n=40)
    assert sorted(by_shard.tolist()) == sorted(many.tolist())
    shards = [tuple(at) for at in (by_shard // 32).tolist()]
    assert len(set(shards)) - 1 == sum(a != b for a, b in pairwise(shards))


@pytest.mark.parametrize("share", [0.001, 0.3, 0.75])
@pytest.mark.parametrize("level", [0, 1])
def test_every_box_holds_the_foreground_that_was_asked_for(
    web: httpx.Client, image: Made, labels: Made, share: float, level: int
) -> None:
    shape = (16, 20, 24) if level == 0 else (6, 8, 9)
    wanted = {"labels": labels.name, "min_foreground": share, "level": level, "shape": shape, "n": 20}
    answer = ask(web, image, **wanted, format="places").json()
    assert answer["labels"] == {
        "ref": "sampled-labels@r1",
        "digest": "0" * 64,
        "level": level,
        "offset": [-4 >> level, 0, -10 >> level],
    }
    for origin in answer["origins"]:
        at = tuple(a + o for a, o in zip(origin, answer["labels"]["offset"], strict=True))
        box = labels.levels[level][Box.at(at, shape).slices()]  # type: ignore[arg-type]
        assert box.shape == shape
        assert np.count_nonzero(box) / box.size >= share


def test_foreground_without_labels_is_what_is_not_fill(house: House, web: httpx.Client) -> None:
    voxels = np.zeros((40, 60, 80), np.float32)
    voxels[:, 30:50, 20:70] = -1.5
    made = house.commit(Made(voxels, name="half-empty"))
    found = places(web, made, shape=[8, 8, 8], min_foreground=1.0, n=50)
    assert all((voxels[Box.at(tuple(at), (8, 8, 8)).slices()] != 0).all() for at in found.tolist())  # type: ignore[arg-type]


@pytest.mark.parametrize("known", [False, True], ids=["counted now", "indexed"])
@pytest.mark.parametrize(("dtype", "fill"), [("uint8", 255), ("int16", -1), ("float32", "NaN")])
def test_foreground_of_a_source_that_is_filled_with_something_is_what_is_not_that(
    house: House, web: httpx.Client, dtype: str, fill: Any, known: bool
) -> None:
    voxels = np.full((40, 60, 80), float(fill), dtype) if dtype == "float32" else np.full((40, 60, 80), fill, dtype)
    voxels[:, 30:50, 20:70] = 0
    made = house.commit(Made(voxels, name=f"filled-{dtype}-{known}".lower(), fill_value=fill))
    if known:
        indexed(house, made)
    found = places(web, made, shape=[8, 8, 8], min_foreground=0.9, n=50)
    for at in found.tolist():
        assert (voxels[Box.at(tuple(at), (8, 8, 8)).slices()] == 0).mean() >= 0.9  # type: ignore[arg-type]


def test_labels_are_foreground_where_they_are_not_0_whatever_they_are_filled_with(
    house: House, web: httpx.Client, image: Made
) -> None:
    labels = blobs().astype(np.uint8)
    labels[-8:] = 255
    made = Made(labels, name="filled-labels", role="labels", fill_value=255, source_origin=(10, 20, 30))
    indexed(house, house.commit(made))
    plain = house.commit(Made(labels, name="plain-labels", role="labels", source_origin=(10, 20, 30)))
    # An index of what is not 255 says nothing of them.
    wrong = Made(labels, name="called-an-image", fill_value=255, source_origin=(10, 20, 30))
    indexed(house, house.commit(wrong))
    expected = places(web, image, labels=plain.name, min_foreground=0.4)
    for named in (made, wrong):
        assert np.array_equal(places(web, image, labels=named.name, min_foreground=0.4), expected)
    assert np.array_equal(places(web, made, min_foreground=0.4), places(web, plain, min_foreground=0.4))


def test_the_index_of_conversion_and_counting_now_give_the_same_boxes(house: House, web: httpx.Client) -> None:
    plain = house.commit(Made(blobs(), name="counted-now", role="labels"))
    known = indexed(house, house.commit(Made(blobs(), name="counted-before", role="labels")))
    wanted = {"min_foreground": 0.4, "n": 25}
    assert np.array_equal(places(web, plain, **wanted), places(web, known, **wanted))


def test_of_a_large_volume_without_an_index_the_boxes_that_are_drawn_are_counted(
    house: House, web: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling_occupancy, "COUNTED_NOW", 1000)
    made = house.commit(Made(blobs(), name="never-counted", role="labels"))
    found = places(web, made, min_foreground=0.3, n=20)
    for at in found.tolist():
        assert np.count_nonzero(made.voxels[Box.at(tuple(at), (16, 20, 24)).slices()]) / (16 * 20 * 24) >= 0.3  # type: ignore[arg-type]
    assert np.array_equal(places(web, made, min_foreground=0.3, n=20), found)
    with house_on(house.settings) as other, httpx.Client(base_url=other.url, timeout=60) as there:
        assert np.array_equal(places(there, made, min_foreground=0.3, n=20), found)


def test_too_few_boxes_of_a_large_volume_without_an_index_are_sought_within_bounds_and_it_says_what_would_help(
    house: House, web: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling_occupancy, "COUNTED_NOW", 1000)
    monkeypatch.setattr(sampling_drawing, "most_checked", lambda n, voxels: n + 16)
    made = house.commit(Made(blobs(), name="hardly-anything", role="labels"))
    answer = ask(web, made, min_foreground=1.0, n=2)
    assert (answer.status_code, answer.json()["code"]) == (422, "sample_unsatisfiable")
    assert "among 18 of" in answer.json()["title"]
    assert "convert hardly-anything again" in answer.json()["hint"]


def test_an_index_of_many_chunks_is_kept_small_and_stays_true(
    house: House, web: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling_occupancy, "MAX_COUNTS", 20)
    monkeypatch.setattr(sampling_occupancy, "READ_AT_ONCE", 100)
    made = indexed(house, house.commit(Made(blobs(), name="coarsely-counted", role="labels")))
    for at in places(web, made, min_foreground=0.5, n=20).tolist():
        box = made.voxels[Box.at(tuple(at), (16, 20, 24)).slices()]  # type: ignore[arg-type]
        assert np.count_nonzero(box) / box.size >= 0.5


def test_an_index_that_is_damaged_is_502_and_never_another_answer(house: House, web: httpx.Client) -> None:
    made = indexed(house, house.commit(Made(blobs(), name="badly-counted", role="labels")))
    key = storage.occupancy(made.name, 1) + "c/0/0/0"
    house.objects.put_sync(storage.VOLUMES, key, b"short")
    answer = ask(web, made, min_foreground=0.1)
    assert (answer.status_code, answer.json()["code"]) == (502, "data_missing")
    assert "index of foreground" in answer.json()["title"]


def test_left_out_regions_and_the_region_asked_for_are_kept_to(web: httpx.Client, image: Made) -> None:
    exclude = [{"origin": [0, 0, 0], "shape": [64, 40, 120]}, {"origin": [20, 40, 0], "shape": [10, 60, 60]}]
    within = {"origin": [2, 30, 0], "shape": [60, 70, 100]}
    for at in places(web, image, exclude=exclude, within=within, n=60).tolist():
        box = Box.at(tuple(at), (16, 20, 24))  # type: ignore[arg-type]
        assert box.within(Box.at((2, 30, 0), (60, 70, 100)))
        assert not any(box.overlap(Box.at(tuple(e["origin"]), tuple(e["shape"]))) for e in exclude)  # type: ignore[arg-type]


def test_train_and_validation_never_come_closer_than_the_margin_whatever_the_seed(web: httpx.Client, image: Made) -> None:
    def part(name: str, seed: int) -> np.ndarray:
        split = {"part": name, "validation": 0.4, "margin": [0, 0, 8]}
        return places(web, image, split=split, seed=seed, n=40)

    # The longest axis is x: 120 voxels, the last 48 held out, 8 before them in neither part.
    assert min(part("validation", seed)[:, 2].min() for seed in range(4)) >= 72
    assert max(part("train", seed)[:, 2].max() for seed in range(4)) + 24 <= 64


@pytest.mark.parametrize(
    ("wanted", "status", "code"),
    [
        ({"shape": [65, 20, 24]}, 422, "sample_unsatisfiable"),
        ({"shape": [64, 100, 119], "n": 3}, 422, "sample_unsatisfiable"),
        ({"exclude": [{"origin": [0, 0, 0], "shape": [64, 100, 120]}]}, 422, "sample_unsatisfiable"),
        ({"within": {"origin": [64, 0, 0], "shape": [1, 1, 1]}}, 422, "sample_unsatisfiable"),
        ({"min_foreground": 1.0, "labels": "sampled-labels", "shape": [40, 40, 40]}, 422, "sample_unsatisfiable"),
        ({"split": {"part": "validation", "validation": 0.1, "axis": "x"}}, 422, "sample_unsatisfiable"),
        ({"shape": [2**31 - 1] * 3, "min_foreground": 0.3, "n": 4096}, 413, "too_large"),
        ({"shape": [2**31 - 1] * 3, "format": "places"}, 422, "sample_unsatisfiable"),
        ({"labels": "nothing"}, 404, "volume_unknown"),
        ({"labels": "sampled-labels", "level": 9}, 404, "level_unknown"),
        ({"n": 0}, 400, "invalid_request"),
        ({"n": 10**6}, 400, "invalid_request"),
        ({"min_foregound": 0.5}, 400, "invalid_request"),
        ({"split": {"part": "test"}}, 400, "invalid_request"),
        ({"exclude": [{"origin": [-1, 0, 0], "shape": [1, 1, 1]}]}, 400, "invalid_request"),
        ({"labels": "../x"}, 400, "invalid_request"),
        ({"shape": [2**31, 1, 1]}, 400, "invalid_request"),
        ({"seed": 2**63}, 400, "invalid_request"),
    ],
    ids=str,
)
def test_what_cannot_be_had_is_one_clear_problem(
    web: httpx.Client, image: Made, labels: Made, wanted: dict[str, Any], status: int, code: str
) -> None:
    answer = ask(web, image, **wanted)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["hint"]


def test_a_few_places_are_all_found_before_it_is_said_that_there_are_too_few(house: House, web: httpx.Client) -> None:
    voxels = np.zeros((32, 32, 32), np.uint8)
    voxels[5:15, 6:16, 7:17] = 1
    made = house.commit(Made(voxels, name="one-cube", role="labels"))
    assert places(web, made, shape=[10, 10, 10], min_foreground=1.0, n=1).tolist() == [[5, 6, 7]]
    answer = ask(web, made, shape=[10, 10, 10], min_foreground=1.0, n=2)
    assert "only 1 found" in answer.json()["title"]


@pytest.mark.parametrize(
    "change", [{"voxel_size_nm": (40.0, 8.0, 4.0)}, {"voxel_size_nm": (40.0, None, 8.0)}, {"source_origin": (500, 0, 0)}]
)
def test_labels_on_another_grid_are_refused_not_resampled(
    house: House, web: httpx.Client, image: Made, change: dict[str, Any]
) -> None:
    name = f"other-grid-{abs(hash(str(change)))}"
    made = house.commit(Made(blobs((16, 16, 16)), name=name, role="labels", **change))
    answer = ask(web, image, labels=made.name)
    assert answer.json()["code"] in {"labels_not_aligned", "sample_unsatisfiable"}
    assert answer.status_code in {409, 422}


def test_provenance_is_what_conversion_wrote(house: House, web: httpx.Client, image: Made) -> None:
    assert web.get(f"/v1/volumes/{image.ref}/provenance").status_code == 404
    house.objects.put_sync(storage.VOLUMES, storage.provenance(image.name, 1), b'{"request": {"source": "idr"}}')
    answer = web.get(f"/v1/volumes/{image.ref}/provenance")
    assert answer.json() == {"request": {"source": "idr"}}
    assert "immutable" in answer.headers["cache-control"]


numbers = st.integers(0, 130) | st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**63, -1])
threes = st.lists(numbers, min_size=3, max_size=3)
small = st.lists(st.integers(1, 40), min_size=3, max_size=3)
regions = st.fixed_dictionaries({"origin": threes, "shape": threes})
splits = st.fixed_dictionaries(
    {"part": st.sampled_from(["train", "validation"])},
    optional={
        "validation": st.floats(0, 1) | st.lists(regions, max_size=3),
        "margin": threes,
        "axis": st.sampled_from([*"zyxt", None]),
    },
)
wishes = st.fixed_dictionaries(
    {"n": st.integers(1, 60) | numbers, "shape": small | threes},
    optional={
        "seed": numbers, "level": st.integers(0, 3), "min_foreground": st.floats(0, 1), "labels": st.sampled_from(["sampled-labels", "x", "", None]),
        "exclude": st.lists(regions, max_size=4), "within": regions | st.none(), "split": splits | st.none(), "format": st.just("places"),
        "order": st.sampled_from(["shard", "drawn"]),
    },
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wanted=wishes)
def test_whatever_is_wished_is_answered_or_refused_in_words(
    web: httpx.Client, image: Made, labels: Made, wanted: dict[str, Any]
) -> None:
    answer = web.post(f"/v1/volumes/{image.ref}/sample", json=wanted)
    assert answer.status_code < 500, answer.text
    if answer.status_code != 200:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["hint"]
    elif wanted.get("format") == "places":
        assert len({tuple(origin) for origin in answer.json()["origins"]}) == wanted["n"]
