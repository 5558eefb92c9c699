"""Volumes that are read where they lie: every box equals an independent read, and a source that changed is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from block_server.testing import House, house_on
from emporter.registering import Wanted, look
from emporter_archives import arrays
from emporter_archives.faults import Status
from emporter_archives.s3 import S3Server
from emporter_archives.server import FileServer
from emporter_contracts.commands import Select
from emporter_contracts.ids import VolumeRef
from emporter_readers.errors import ReaderError
from emporter_readers.protocol import Hints
from emporter_runtime.addresses import NotPublicError
from emporter_runtime.registering import Registering, commit
from emporter_runtime.roots import RootRefusedError, RootSettings
from emporter_runtime.testing import file_store

GZIP = {"type": "gzip", "level": 1, "useZlib": False}
SHAPE = (40, 50, 60)


@dataclass
class Place:
    """A block-server, archives that it may open, and a file root."""

    house: House
    web: FileServer
    bucket: S3Server
    files: Path
    settings: RootSettings
    count: list[int] = field(default_factory=list)

    def register(self, source: str, **said: Any) -> VolumeRef:
        """The one volume below `source`, under a name of its own."""
        (ref,) = self.register_all(source, **said)
        return ref

    def register_all(self, source: str, **said: Any) -> list[VolumeRef]:
        self.count.append(1)
        found = self.look(source, name=f"v{len(self.count)}", **said)
        return [asyncio.run(commit(self.house.objects, one, 1)) for one in found]

    def look(self, source: str, **said: Any) -> list[Registering]:
        return asyncio.run(look(Wanted(source=source, **said), self.settings))

    def again(self, source: str, ref: VolumeRef) -> VolumeRef:
        """The next revision of a volume."""
        assert ref.revision is not None
        (one,) = self.look(source, name=ref.volume.removeprefix("registered-"))
        return asyncio.run(commit(self.house.objects, one, ref.revision + 1))

    def get(self, path: str, **asked: Any) -> httpx.Response:
        return httpx.get(f"{self.house.url}{path}", params=asked, timeout=60)

    def info(self, ref: VolumeRef) -> Any:
        answer = self.get(f"/v1/volumes/{ref}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def box(self, ref: VolumeRef, origin: tuple[int, ...], shape: tuple[int, ...], level: int = 0) -> NDArray[Any]:
        answer = self.block(ref, origin, shape, level)
        assert answer.status_code == 200, answer.text
        dtype = np.dtype(answer.headers["x-emporter-dtype"]).newbyteorder("<")
        return np.frombuffer(answer.content, dtype).reshape(shape)

    def block(self, ref: VolumeRef, origin: tuple[int, ...], shape: tuple[int, ...], level: int = 0) -> httpx.Response:
        return self.get(
            f"/v1/volumes/{ref}/block", level=level, origin=",".join(map(str, origin)), shape=",".join(map(str, shape))
        )

    def put_files(self, folder: str, objects: arrays.Objects) -> str:
        for name, body in objects.items():
            path = self.files / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
        return f"file-root:scope/{folder}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    files = tmp_path_factory.mktemp("scope")
    with FileServer() as web, S3Server("open-data") as bucket:
        allowed: dict[str, Any] = {
            "file_roots": {"scope": files},
            "url_allowed_hosts": ("127.0.0.1",),
            "url_allow_private": True,
            "url_s3_endpoint": bucket.url(""),
            "blocks_source_seconds": 0.0,
        }
        with house_on(file_store(tmp_path_factory.mktemp("store")), **allowed) as house:
            yield Place(house, web, bucket, files, RootSettings.model_validate(house.settings.model_dump()))


def noise(shape: tuple[int, ...] = SHAPE, dtype: str = "int16", seed: int = 0) -> NDArray[Any]:
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(info.min, info.max, shape, dtype, endpoint=True)


def ome4(voxels: NDArray[Any]) -> arrays.Objects:
    """OME-Zarr 0.4 of two levels; the second holds other values."""
    zstd = {"id": "zstd", "level": 1}
    return {
        ".zgroup": b'{"zarr_format": 2}',
        ".zattrs": arrays.ome_zattrs(
            [("s0", (2.96, 4.0, 5.0), (10.0, 20.0, 30.0)), ("s1", (5.92, 8.0, 10.0), (11.48, 22.0, 32.5))]
        ),
        **arrays.zarr2(voxels, path="s0", compressor=zstd),
        **arrays.zarr2(voxels[::2, ::2, ::2].copy(), path="s1", compressor=zstd),
    }


def ome5(voxels: NDArray[Any]) -> arrays.Objects:
    """OME-Zarr 0.5 in shards."""
    inner = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "zstd", "configuration": {"level": 1}}]
    shards = {
        "name": "sharding_indexed",
        "configuration": {"chunk_shape": [8, 16, 16], "codecs": inner, "index_codecs": [inner[0], {"name": "crc32c"}]},
    }
    (said,) = json.loads(
        arrays.ome_zattrs([("s0", (2.96, 4.0, 5.0), (10.0, 20.0, 30.0)), ("s1", (5.92, 8.0, 10.0), (11.48, 22.0, 32.5))])
    )["multiscales"]
    group = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": {"version": "0.5", "multiscales": [said]}}}
    return {
        "zarr.json": json.dumps(group).encode(),
        **arrays.zarr3(voxels, [shards], (16, 32, 32), path="s0"),
        **arrays.zarr3(voxels[::2, ::2, ::2].copy(), [shards], (16, 32, 32), path="s1"),
    }


def n5(voxels: NDArray[Any]) -> arrays.Objects:
    coarse = voxels[::2, ::2, ::2].copy()
    said = {"dimensions": [5.0, 4.0, 2.96], "unit": "nm"}
    return {
        "attributes.json": json.dumps(
            {"n5": "2.0.0", "pixelResolution": said, "downsamplingFactors": [[1, 1, 1], [2, 2, 2]]}
        ).encode(),
        **arrays.n5(voxels, (16, 16, 16), GZIP, path="s0"),
        **arrays.n5(coarse, (16, 16, 16), GZIP, path="s1", downsamplingFactors=[2, 2, 2]),
    }


KINDS: dict[str, tuple[Callable[[NDArray[Any]], arrays.Objects], str]] = {
    "ome-zarr 0.4": (ome4, "{}"),
    "ome-zarr 0.5": (ome5, "{}/"),
    "zarr v2": (lambda v: arrays.zarr2(v, separator="."), "{}"),
    "zarr v2 fortran": (
        lambda v: arrays.zarr2(v, order="F", compressor={"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1}),
        "zarr2://{}",
    ),
    "zarr v3": (lambda v: arrays.zarr3(v, [{"name": "bytes", "configuration": {"endian": "big"}}], (16, 16, 16)), "zarr://{}"),
    "n5": (n5, "n5://{}"),
    "precomputed": (lambda v: arrays.precomputed(v, offset=(10, 20, 30), resolution=(2.96, 4, 5)), "precomputed://{}"),
    "precomputed in shards": (lambda v: arrays.precomputed(v, sharding=arrays.SHARDING, resolution=(2.96, 4, 5)), "{}"),
}
BOXES = [((0, 0, 0), SHAPE), ((3, 17, 31), (20, 16, 29)), ((39, 49, 59), (1, 1, 1)), ((15, 15, 15), (2, 2, 2))]


def served(place: Place, where: str, kind: str, voxels: NDArray[Any]) -> str:
    """The root of `voxels` in the format `kind`, behind HTTP, in a bucket or as files."""
    make, shown = KINDS[kind]
    folder = f"data-{len(place.web.files)}-{len(place.bucket.files)}-{len(list(place.files.iterdir()))}"
    if where == "https":
        return shown.format(arrays.put(place.web, f"/{folder}", make(voxels)))
    if where == "s3":
        place.bucket.put_all(folder, make(voxels))
        return f"s3://open-data/{folder}"
    return place.put_files(folder, make(voxels))


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


def refused_as_changed(place: Place, ref: VolumeRef, origin: tuple[int, ...] = (0, 0, 0)) -> str:
    answer = place.block(ref, origin, (8, 8, 8))
    assert (answer.status_code, answer.json()["code"]) == (409, "source_changed"), answer.text
    assert "--force" in answer.json()["hint"]
    return str(answer.json()["title"])


def test_changed_metadata_is_409_on_every_route_and_a_new_revision_serves_what_is_there_now(place: Place) -> None:
    voxels, other = noise(), noise(seed=1)
    root = served(place, "files", "ome-zarr 0.4", voxels)
    ref = place.register(root)
    np.testing.assert_array_equal(place.box(ref, (0, 0, 0), (8, 8, 8)), voxels[:8, :8, :8])
    changed = ome4(other) | {".zattrs": ome4(other)[".zattrs"].replace(b"2.96", b"3.96")}
    place.put_files(root.removeprefix("file-root:scope/"), changed)
    assert ".zattrs" in refused_as_changed(place, ref)
    for path in ("", "/slice/z/0", "/provenance"):
        assert place.get(f"/v1/volumes/{ref}{path}").status_code == 409
    newer = place.again(root, ref)
    np.testing.assert_array_equal(place.box(newer, (0, 0, 0), SHAPE), other)
    assert place.info(newer)["voxel_size_nm"][0] == pytest.approx(3.96)
    refused_as_changed(place, ref)


@pytest.mark.parametrize("kind", ["zarr v2", "n5", "precomputed in shards", "ome-zarr 0.5"])
def test_a_file_written_again_after_registering_is_409_even_with_its_old_time(place: Place, kind: str) -> None:
    import os

    root = served(place, "files", kind, noise())
    ref = place.register(root)
    folder = place.files / root.removeprefix("file-root:scope/")
    marks = {"zarr.json", ".zarray", ".zattrs", ".zgroup", "attributes.json", "info"}
    for path in folder.rglob("*"):
        if path.is_file() and path.name not in marks:
            before = path.stat()
            path.write_bytes(path.read_bytes()[::-1])
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    refused_as_changed(place, ref)


def test_a_chunk_deleted_from_a_file_root_is_409_never_zeros(place: Place) -> None:
    root = served(place, "files", "zarr v2", noise())
    ref = place.register(root)
    (place.files / root.removeprefix("file-root:scope/") / "1.1.1").unlink()
    assert "1.1.1" in refused_as_changed(place, ref, (18, 18, 18))


def test_a_chunk_never_written_is_fill_value(place: Place) -> None:
    objects = arrays.zarr2(noise(), separator=".", fill=7)
    del objects["0.0.0"]
    ref = place.register(place.put_files("sparse", objects))
    assert (place.box(ref, (0, 0, 0), (16, 16, 16)) == 7).all()


def test_an_object_newer_than_the_registration_is_409(place: Place) -> None:
    voxels = noise()
    root = arrays.put(place.web, "/newer", arrays.zarr2(voxels, separator="."))
    ref = place.register(f"zarr://{root}")
    place.web.put("/newer/0.0.0", place.web.files["/newer/0.0.0"].content, modified="Fri, 01 Jan 2100 00:00:00 GMT")
    assert "0.0.0" in refused_as_changed(place, ref)
    # Chunks that did not change are not served either: a box is of one state of the source.
    refused_as_changed(place, ref, (20, 20, 20))


@pytest.mark.parametrize("kind", ["zarr v2", "ome-zarr 0.5"])
def test_another_version_of_an_object_that_was_read_before_is_409(place: Place, kind: str) -> None:
    """A server that hides when objects were changed, and a chunk that left the cache."""
    voxels = noise()
    with house_on(file_store(place.files.parent / f"small {kind}"), **_small(place)) as house:
        small = Place(house, place.web, place.bucket, place.files, place.settings)
        root = served(small, "https", kind, voxels)
        ref = small.register(f"zarr://{root.removeprefix('zarr://')}")
        np.testing.assert_array_equal(small.box(ref, (0, 0, 0), SHAPE), voxels)
        folder = httpx.URL(root.removeprefix("zarr://")).path
        chunks = [path for path in place.web.files if path.startswith(folder) and not path.endswith(("json", ".zarray"))]
        for path in chunks:
            place.web.put(path, bytes(place.web.files[path].content[:]) + b"\0", modified=place.web.files[path].modified)
        refused_as_changed(small, ref)


def _small(place: Place) -> dict[str, Any]:
    """The same place, without a cache."""
    said = place.settings.model_dump(include={"file_roots", "url_allowed_hosts", "url_allow_private", "url_s3_endpoint"})
    return said | {"blocks_cache_bytes": 0, "blocks_source_seconds": 0.0}


def test_a_plain_web_server_tells_by_its_own_clock_what_was_written_later(place: Place, tmp_path: Path) -> None:
    """It says Date and Last-Modified, no ETag."""
    import os
    import threading
    import time
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    voxels = noise()
    for name, body in arrays.zarr2(voxels, separator=".").items():
        (tmp_path / name).write_bytes(body)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        ref = place.register(f"zarr://http://127.0.0.1:{server.server_address[1]}")
        np.testing.assert_array_equal(place.box(ref, (0, 0, 0), (16, 16, 16)), voxels[:16, :16, :16])
        later = time.time() + 5
        (tmp_path / "1.1.1").write_bytes((tmp_path / "0.0.0").read_bytes())
        os.utime(tmp_path / "1.1.1", (later, later))
        assert "1.1.1" in refused_as_changed(place, ref, (18, 18, 18))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_metadata_out_of_a_cache_on_the_way_does_not_make_its_chunks_look_new(place: Place) -> None:
    voxels = noise()
    root = arrays.put(place.web, "/cached", arrays.zarr2(voxels, separator="."))
    week = {"Date": "Mon, 01 Jun 2026 00:00:00 GMT", "Age": str(7 * 86_400)}
    place.web.files["/cached/.zarray"].headers.update(week)
    for name in list(place.web.files):
        if name.startswith("/cached/") and not name.endswith(".zarray"):
            place.web.files[name].modified = "Fri, 05 Jun 2026 00:00:00 GMT"
    ref = place.register(f"zarr://{root}")
    np.testing.assert_array_equal(place.box(ref, (0, 0, 0), SHAPE), voxels)


def test_an_endless_chunk_is_refused_not_held(place: Place) -> None:
    root = arrays.put(place.web, "/endless", arrays.zarr2(noise(), separator=".") | {"1.1.1": bytes(50_000_000)})
    answer = place.block(place.register(f"zarr://{root}"), (16, 16, 16), (8, 8, 8))
    assert (answer.status_code, answer.json()["code"]) == (502, "source_refused")
    assert "larger than" in answer.json()["title"]


def test_a_source_that_is_away_is_503_and_serves_again_when_it_is_back(place: Place) -> None:
    voxels = noise()
    root = arrays.put(place.web, "/away", arrays.zarr2(voxels, separator="."))
    ref = place.register(f"zarr://{root}")
    for path in ("/away/0.0.0", "/away/.zarray"):
        place.web.always(path, Status(500))
    answer = place.block(ref, (0, 0, 0), (8, 8, 8))
    assert (answer.status_code, answer.json()["code"]) == (503, "source_unreachable")
    assert answer.headers["retry-after"]
    for path in ("/away/0.0.0", "/away/.zarray"):
        place.web.always(path, None)
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
    with house_on(file_store(tmp_path), **(_small(place) | {"url_allow_private": False})) as house:
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
