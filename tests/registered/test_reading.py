"""Volumes that are read where they lie: every box equals what was written, and voxel size and place are the source's."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest

from block_server import sampling_occupancy
from emporter_archives import arrays
from emporter_archives.kinds import KINDS
from emporter_contracts.commands import Select
from emporter_contracts.ids import VolumeRef
from emporter_readers.protocol import Hints
from emporter_testing.places import SHAPE, Place, noise, served

BOXES = [((0, 0, 0), SHAPE), ((3, 17, 31), (20, 16, 29)), ((39, 49, 59), (1, 1, 1)), ((15, 15, 15), (2, 2, 2))]


@pytest.mark.parametrize("where", ["https", "s3", "files"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_box_equals_what_was_written(place: Place, kind: str, where: str) -> None:
    voxels = noise()
    assert voxels.min() < 0
    ref = place.register(served(place, where, kind, voxels))
    info = place.info(ref)
    assert (info["managed"], info["shape"], info["dtype"], info["axes"]) == (False, list(SHAPE), "int16", "zyx")
    for origin, shape in BOXES:
        z, y, x = (slice(a, a + n) for a, n in zip(origin, shape, strict=True))
        np.testing.assert_array_equal(place.box(ref, origin, shape), voxels[z, y, x])


@pytest.mark.parametrize("kind", ["ome-zarr 0.4", "ome-zarr 0.5", "n5"])
def test_voxel_size_and_place_of_every_level_are_the_sources(place: Place, kind: str) -> None:
    voxels = noise()
    ref = place.register(served(place, "files", kind, voxels))
    first, second = place.info(ref)["levels"]
    assert first["voxel_size_nm"] == pytest.approx([2.96, 4.0, 5.0])
    assert second["voxel_size_nm"] == pytest.approx([5.92, 8.0, 10.0])
    moved = (0, 0, 0) if kind == "n5" else (10, 20, 30)
    assert first["translation_nm"] == pytest.approx(moved)
    assert second["translation_nm"] == pytest.approx([moved[0] + 1.48, moved[1] + 2.0, moved[2] + 2.5])
    assert second["factor"] == [2, 2, 2]
    np.testing.assert_array_equal(place.box(ref, (3, 4, 5), (10, 11, 12), level=1), voxels[::2, ::2, ::2][3:13, 4:15, 5:17])


def test_offsets_of_precomputed_are_where_the_archive_has_them(place: Place) -> None:
    voxels = noise()
    ref = place.register(served(place, "https", "precomputed", voxels))
    info = place.info(ref)
    assert info["source_origin"] == [10, 20, 30]
    assert info["levels"][0]["voxel_size_nm"] == pytest.approx([2.96, 4.0, 5.0])
    assert info["levels"][0]["translation_nm"] == pytest.approx([29.6, 80.0, 150.0])
    answer = place.get(f"/v1/volumes/{ref}/block", frame="source", origin="12,25,37", shape="3,4,5")
    np.testing.assert_array_equal(np.frombuffer(answer.content, "<i2").reshape(3, 4, 5), voxels[2:5, 5:9, 7:12])


def test_labels_are_exact_to_64_bits_and_known_for_labels(place: Place) -> None:
    voxels = np.repeat(noise((40, 50, 6), "uint64"), 10, axis=2)
    assert voxels.max() > 2**63
    root = arrays.put(place.web, "/labels", arrays.precomputed(voxels, encoding="compressed_segmentation", kind="segmentation"))
    ref = place.register(f"precomputed://{root}")
    assert place.info(ref)["role"] == "labels"
    np.testing.assert_array_equal(place.box(ref, (0, 0, 0), SHAPE), voxels)
    guessed = place.register(arrays.put(place.web, "/guessed", arrays.zarr2(voxels)) + "/")
    assert place.info(guessed)["role"] == "labels"
    assert "role_guessed" in {caveat["code"] for caveat in place.info(guessed)["caveats"]}


def test_channels_are_volumes_of_their_own(place: Place) -> None:
    voxels = noise((2, *SHAPE))
    objects = {
        ".zgroup": b'{"zarr_format": 2}',
        ".zattrs": arrays.ome_zattrs([("0", (1, 2.96, 4, 5), (0, 0, 0, 0))], axes="czyx"),
        **arrays.zarr2(voxels, (1, 16, 16, 16), path="0"),
    }
    root = place.put_files("channels", objects)
    first, second = place.register_all(root)
    assert (first.volume.rpartition("--")[2], second.volume.rpartition("--")[2]) == ("s0-c0-t0", "s0-c1-t0")
    np.testing.assert_array_equal(place.box(first, (0, 0, 0), SHAPE), voxels[0])
    np.testing.assert_array_equal(place.box(second, (0, 0, 0), SHAPE), voxels[1])
    alone = place.register(root, hints=Hints(select=Select(channel=1)))
    np.testing.assert_array_equal(place.box(alone, (3, 4, 5), (7, 8, 9)), voxels[1, 3:10, 4:12, 5:14])


def test_an_unknown_voxel_size_stays_unknown_unless_the_user_says_it(place: Place) -> None:
    root = served(place, "files", "zarr v2", noise())
    assert place.info(place.register(root))["voxel_size_nm"] == [None, None, None]
    told = place.info(place.register(root, voxel_size_nm=(50.0, 8.0, None)))
    assert told["voxel_size_nm"] == [50.0, 8.0, None]
    assert {"voxel_size_by_user", "voxel_size_unknown", "read_in_place"} <= {caveat["code"] for caveat in told["caveats"]}


def test_batches_samples_slices_precomputed_and_pages_come_from_it_too(place: Place) -> None:
    voxels = np.random.default_rng(1).integers(0, 255, SHAPE, "uint8")
    ref = place.register(served(place, "https", "ome-zarr 0.5", voxels))
    base = place.house.url
    batch = httpx.post(f"{base}/v1/volumes/{ref}/blocks", json={"shape": [4, 5, 6], "origins": [[0, 0, 0], [30, 40, 50]]})
    expected = np.stack([voxels[:4, :5, :6], voxels[30:34, 40:45, 50:56]])
    np.testing.assert_array_equal(np.frombuffer(batch.content, "u1").reshape(2, 4, 5, 6), expected)
    asked = {"n": 3, "shape": [8, 8, 8], "seed": 1, "min_foreground": 0.1, "format": "places"}
    places = httpx.post(f"{base}/v1/volumes/{ref}/sample", json=asked, timeout=60)
    assert len(places.json()["origins"]) == 3, places.text
    assert place.get(f"/v1/volumes/{ref}/slice/z/7", format="png").status_code == 200
    scale = place.get(f"/precomputed/{ref}/info").json()["scales"][0]
    assert scale["resolution"] == pytest.approx([5, 4, 2.96])
    x, y, z = scale["chunk_sizes"][0]
    chunk = place.get(f"/precomputed/{ref}/0/0-{x}_0-{y}_0-{z}")
    np.testing.assert_array_equal(np.frombuffer(chunk.content, "u1").reshape(z, y, x), voxels[:z, :y, :x])
    page = place.get(f"/view/{ref}")
    assert page.status_code == 200
    assert "precomputed://" in page.text
    assert place.get("/v1/volumes", limit=1000).json()["volumes"]


def test_the_stored_bytes_are_not_ours_to_give_and_the_answer_says_what_to_do(place: Place) -> None:
    ref = place.register(served(place, "https", "n5", noise()))
    for path in (f"/zarr/{ref}.ome.zarr/zarr.json", f"/zarr/{ref}.ome.zarr/0/c/0/0/0", f"/zarr2/{ref}.ome.zarr/.zattrs"):
        answer = place.get(path)
        assert (answer.status_code, answer.json()["code"]) == (415, "not_stored_here"), path
        assert "emporter ingest" in answer.json()["hint"]
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_chunk_is_fetched_once_however_often_it_is_asked_for(place: Place) -> None:
    voxels = noise()
    ref = place.register(served(place, "https", "zarr v2", voxels))
    place.box(ref, (0, 0, 0), SHAPE)
    before = len([request for request in place.web.requests if request.path.endswith("/1.1.1")])
    for _ in range(3):
        np.testing.assert_array_equal(place.box(ref, (17, 17, 17), (9, 9, 9)), voxels[17:26, 17:26, 17:26])
    assert len([request for request in place.web.requests if request.path.endswith("/1.1.1")]) == before


def test_a_chunk_never_written_is_fill_value(place: Place) -> None:
    objects = arrays.zarr2(noise(), separator=".", fill=7)
    del objects["0.0.0"]
    ref = place.register(place.put_files("sparse", objects))
    assert (place.box(ref, (0, 0, 0), (16, 16, 16)) == 7).all()


def test_foreground_of_a_registered_image_is_what_its_source_is_not_filled_with(place: Place) -> None:
    voxels = np.full(SHAPE, 255, "uint8")
    voxels[10:30, 10:30, 10:30] = noise((20, 20, 20), "uint8")
    objects = arrays.zarr2(voxels, separator=".", fill=255)
    assert "2.3.3" not in objects
    ref = place.register(place.put_files("filled", objects), hints=Hints(role="image"))
    for origin in _sampled(place, ref, min_foreground=0.5):
        box = voxels[tuple(slice(a, a + 8) for a in origin)]
        assert (box != 255).mean() >= 0.5


def test_large_registered_labels_are_sampled_and_too_few_are_told_to_be_copied(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling_occupancy, "COUNTED_NOW", 1000)
    voxels = np.zeros(SHAPE, "uint32")
    voxels[10:30, 10:30, 10:30] = 7
    ref = place.register(place.put_files("large", arrays.zarr2(voxels, separator=".")), hints=Hints(role="labels"))
    for origin in _sampled(place, ref, min_foreground=0.5):
        assert (voxels[tuple(slice(a, a + 8) for a in origin)] != 0).mean() >= 0.5
    answer = _sample(place, ref, shape=[30, 30, 30], min_foreground=0.9)
    assert (answer.status_code, answer.json()["code"]) == (422, "sample_unsatisfiable")
    assert f"emporter ingest {ref.volume}" in answer.json()["hint"]


def _sampled(place: Place, ref: VolumeRef, **wanted: Any) -> list[list[int]]:
    answer = _sample(place, ref, **wanted)
    assert answer.status_code == 200, answer.text
    origins: list[list[int]] = answer.json()["origins"]
    return origins


def _sample(place: Place, ref: VolumeRef, **wanted: Any) -> httpx.Response:
    asked = {"n": 20, "shape": [8, 8, 8], "seed": 1, "format": "places", **wanted}
    return httpx.post(f"{place.house.url}/v1/volumes/{ref}/sample", json=asked, timeout=60)
