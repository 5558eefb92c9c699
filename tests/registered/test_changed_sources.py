"""A source that changed after its volume was registered is refused with 409, and never mixed with what was there before."""

from __future__ import annotations

import os
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import numpy as np
import pytest

from block_server.testing import house_on
from emporter_archives import arrays
from emporter_archives.kinds import ome4
from emporter_runtime.testing import file_store
from emporter_testing.places import SHAPE, Place, noise, refused_as_changed, served, without_cache


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
    with house_on(file_store(place.files.parent / f"small {kind}"), **without_cache(place)) as house:
        small = Place(house, place.web, place.bucket, place.files, place.settings)
        root = served(small, "https", kind, voxels)
        ref = small.register(f"zarr://{root.removeprefix('zarr://')}")
        np.testing.assert_array_equal(small.box(ref, (0, 0, 0), SHAPE), voxels)
        folder = httpx.URL(root.removeprefix("zarr://")).path
        chunks = [path for path in place.web.files if path.startswith(folder) and not path.endswith(("json", ".zarray"))]
        for path in chunks:
            place.web.put(path, bytes(place.web.files[path].content[:]) + b"\0", modified=place.web.files[path].modified)
        refused_as_changed(small, ref)


def test_a_plain_web_server_tells_by_its_own_clock_what_was_written_later(place: Place, tmp_path: Path) -> None:
    """It says Date and Last-Modified, no ETag."""
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
