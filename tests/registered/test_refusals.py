"""What is refused of a source: what no operator allowed, what is damaged, away or endless."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import numpy as np
import pytest

from block_server.testing import house_on
from emporter.registering import Wanted, look
from emporter_archives import arrays
from emporter_archives.faults import Status
from emporter_readers.errors import ReaderError
from emporter_runtime.addresses import NotPublicError
from emporter_runtime.registering import commit
from emporter_runtime.roots import RootRefusedError
from emporter_runtime.testing import file_store
from emporter_testing.places import Place, noise, without_cache


def test_an_endless_chunk_is_refused_not_held(place: Place) -> None:
    root = arrays.put(place.web, "/endless", arrays.zarr2(noise(), separator=".") | {"1.1.1": bytes(50_000_000)})
    answer = place.block(place.register(f"zarr://{root}"), (16, 16, 16), (8, 8, 8))
    assert (answer.status_code, answer.json()["code"]) == (502, "source_refused")
    assert "larger than" in answer.json()["title"]


@pytest.mark.parametrize("away", [("0.0.0",), ("0.0.0", ".zarray")], ids=["a chunk", "all of it"])
def test_a_source_that_is_away_is_503_and_serves_again_when_it_is_back(place: Place, away: tuple[str, ...]) -> None:
    voxels = noise()
    folder = f"/away-{len(away)}"
    root = arrays.put(place.web, folder, arrays.zarr2(voxels, separator="."))
    ref = place.register(f"zarr://{root}")
    for name in away:
        place.web.always(f"{folder}/{name}", Status(500))
    answer = place.block(ref, (0, 0, 0), (8, 8, 8))
    assert (answer.status_code, answer.json()["code"]) == (503, "source_unreachable")
    assert str(ref) in answer.json()["title"]
    assert answer.headers["retry-after"]
    for name in away:
        place.web.always(f"{folder}/{name}", None)
    np.testing.assert_array_equal(place.box(ref, (0, 0, 0), (8, 8, 8)), voxels[:8, :8, :8])


def test_a_damaged_or_forbidden_chunk_is_an_error_never_zeros(place: Place) -> None:
    objects = arrays.zarr2(noise(), separator=".", compressor={"id": "zstd", "level": 1})
    root = arrays.put(place.web, "/broken", objects | {"0.0.0": b"nothing of the kind"})
    ref = place.register(f"zarr://{root}")
    answer = place.block(ref, (0, 0, 0), (8, 8, 8))
    assert (answer.status_code, answer.json()["code"]) == (502, "data_missing")
    assert "0.0.0" in answer.json()["title"]
    place.web.always("/broken/1.0.0", Status(403))
    answer = place.block(ref, (16, 0, 0), (8, 8, 8))
    assert (answer.status_code, answer.json()["code"]) == (502, "source_refused")


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("https://elsewhere.test/data.zarr/", "not allowed"),
        ("https://me:secret@127.0.0.1/data.zarr/", "password"),
        ("https://127.0.0.1/data.zarr/?X-Amz-Signature=secret", "query"),
        ("file-root:other/data.zarr", "no file root"),
        ("file-root:scope/../etc", "no path below"),
        ("s3://no_bucket!/data", "no bucket"),
    ],
)
def test_what_no_operator_allowed_is_not_opened(place: Place, source: str, why: str) -> None:
    with pytest.raises(Exception, match=why) as refused:
        place.look(source)
    assert "secret" not in str(refused.value)


def test_private_addresses_are_refused_unless_allowed_also_by_the_block_server(place: Place, tmp_path: Path) -> None:
    root = f"zarr://{arrays.put(place.web, '/private', arrays.zarr2(noise()))}"
    strict = place.settings.model_copy(update={"url_allow_private": False})
    with pytest.raises(NotPublicError):
        asyncio.run(look(Wanted(root), strict))
    (found,) = place.look(root)
    with house_on(file_store(tmp_path), **(without_cache(place) | {"url_allow_private": False})) as house:
        ref = asyncio.run(commit(house.objects, found, 1))
        answer = httpx.get(f"{house.url}/v1/volumes/{ref}")
        assert (answer.status_code, answer.json()["code"]) == (502, "source_refused")


def test_a_redirect_to_a_host_nobody_allowed_is_not_followed(place: Place) -> None:
    root = arrays.put(place.web, "/moved", arrays.zarr2(noise()))
    place.web.always("/moved/.zarray", Status(302, {"Location": "http://localhost:1/moved/.zarray"}))
    with pytest.raises(RootRefusedError, match="localhost is not allowed"):
        place.look(f"zarr://{root}")


def test_links_out_of_a_file_root_are_not_followed(place: Place, tmp_path: Path) -> None:
    objects = arrays.zarr2(noise(), separator=".")
    for name, body in objects.items():
        (tmp_path / name).write_bytes(body)
    (place.files / "link").symlink_to(tmp_path)
    with pytest.raises(Exception, match="link"):
        place.look("file-root:scope/link")
    with pytest.raises(RootRefusedError, match="below no file root"):
        place.look(str(tmp_path))
    root = place.put_files("inner-link", objects)
    ref = place.register(str(place.files / "inner-link"))
    (place.files / "inner-link" / "0.0.0").unlink()
    (place.files / "inner-link" / "0.0.0").symlink_to(tmp_path / "0.0.0")
    assert place.block(ref, (0, 0, 0), (8, 8, 8)).status_code in (409, 502), root


def test_a_root_without_a_chunk_or_without_an_array_is_refused(place: Place) -> None:
    objects = {name: body for name, body in arrays.zarr2(noise()).items() if name == ".zarray"}
    with pytest.raises(ReaderError, match="none of its chunks"):
        place.look(place.put_files("hollow", objects))
    (place.files / "empty").mkdir()
    with pytest.raises(ReaderError, match="no Zarr, N5 or precomputed"):
        place.look("file-root:scope/empty")
