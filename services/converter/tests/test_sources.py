"""Raw objects as byte sources, and the readers of planned volumes over them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from converter import sources
from converter.errors import ChangedSourceError
from converter.sources import RootedSource, StoredSource, open_reader, open_source
from converter.testing import run_of, tissue
from emporter_contracts import storage
from emporter_contracts.commands import Output
from emporter_contracts.geometry import Box, VoxelSize
from emporter_contracts.plans import FileRootPath, InboxKey, ManifestObject, PlannedVolume, Segments
from emporter_readers.discover import discover
from emporter_readers.errors import CorruptObjectError
from emporter_readers.protocol import Hints
from emporter_runtime.errors import ObjectMissingError
from emporter_runtime.file_roots import FileRootError, version_of
from emporter_runtime.objects import Objects
from emporter_runtime.testing import file_store

SEGMENT = 1000
DATA = bytes(range(256)) * 10


def stored(location: Segments | InboxKey | FileRootPath, size: int = len(DATA), version: str = "1") -> ManifestObject:
    return ManifestObject(path="a.tif", url="u", location=location, bytes=size, sha256="0" * 64, version=version)


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects.open(file_store(tmp_path / "store"))


@pytest.fixture
def segments(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> StoredSource:
    monkeypatch.setattr(sources, "SEGMENT_BYTES", SEGMENT)
    for k in range(3):
        objects.put_sync(storage.RAW, storage.segment("o", k), DATA[k * SEGMENT : (k + 1) * SEGMENT])
    return StoredSource(objects, stored(Segments(origin="o")))


@pytest.mark.parametrize(("start", "stop"), [(0, 2560), (0, 1), (999, 1001), (1000, 2000), (500, 2500), (2559, 2560), (7, 7)])
def test_a_read_spans_segments(segments: StoredSource, start: int, stop: int) -> None:
    assert segments.read(start, stop) == DATA[start:stop]


def test_a_segment_that_is_gone_is_an_error_that_names_the_object(segments: StoredSource, objects: Objects) -> None:
    path = objects.local_path(storage.RAW, storage.segment("o", 1))
    path.unlink()
    assert segments.read(0, 1000) == DATA[:1000]
    with pytest.raises(CorruptObjectError, match=r"a\.tif"):
        segments.read(0, 1001)


def test_a_segment_that_ends_early_is_an_error(segments: StoredSource, objects: Objects) -> None:
    objects.put_sync(storage.RAW, storage.segment("o", 1), DATA[1000:1500])
    with pytest.raises(CorruptObjectError, match=r"a\.tif"):
        segments.read(900, 1600)


def test_an_upload_is_read_in_place(objects: Objects) -> None:
    objects.put_sync(storage.INBOX, "0/a.tif", DATA)
    source = open_source(objects, stored(InboxKey(key="0/a.tif")), {})
    assert source.read(100, 2000) == DATA[100:2000]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "scope"
    (folder / "run").mkdir(parents=True)
    (folder / "run" / "a.tif").write_bytes(DATA)
    return folder


def rooted(root: Path, path: str = "run/a.tif") -> RootedSource:
    location = FileRootPath(root="scope", path=path)
    held = stored(location, version=version_of((root / "run/a.tif").stat()))
    return RootedSource(held, location, {"scope": root})


def test_a_file_under_a_root_is_read_in_place(root: Path) -> None:
    assert rooted(root).read(5, 2500) == DATA[5:2500]


def test_a_file_that_changed_since_it_was_planned_is_refused(root: Path) -> None:
    source = rooted(root)
    (root / "run" / "a.tif").write_bytes(DATA + b"more")
    with pytest.raises(ChangedSourceError, match="changed"):
        source.read(0, 10)


def test_a_file_that_is_gone_is_an_error(root: Path) -> None:
    source = rooted(root)
    (root / "run" / "a.tif").unlink()
    with pytest.raises(ObjectMissingError):
        source.read(0, 10)


@pytest.mark.parametrize("path", ["../scope/run/a.tif", "/etc/passwd", "run/link.tif", "linked/a.tif"])
def test_nothing_outside_a_root_is_opened(root: Path, path: str) -> None:
    (root / "run" / "link.tif").symlink_to(root / "run" / "a.tif")
    (root / "linked").symlink_to(root / "run")
    with pytest.raises(FileRootError):
        rooted(root, path).read(0, 10)


def test_a_root_nobody_named_is_refused() -> None:
    with pytest.raises(FileRootError, match="scope"):
        RootedSource(stored(FileRootPath(root="scope", path="a")), FileRootPath(root="scope", path="a"), {})


def test_a_tiff_in_segments_is_converted_to_the_voxels_it_holds(
    objects: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "SEGMENT_BYTES", 2**16)
    voxels = tissue((20, 130, 150), "uint16")
    path = tmp_path / "brain.tif"
    tifffile.imwrite(path, voxels, compression="zlib", imagej=False)
    data = path.read_bytes()
    for k in range(-(-len(data) // 2**16)):
        objects.put_sync(storage.RAW, storage.segment("o", k), data[k * 2**16 : (k + 1) * 2**16])
    held = stored(Segments(origin="o"), len(data))
    found = discover([StoredSource(objects, held)], Hints())[0]
    region = Box.at((3, 10, 20), (15, 100, 120))
    volume = PlannedVolume(
        volume="url-brain", name="brain", format=found.format, objects=(0,), select=found.select, axes=found.axes,
        shape=region.shape, dtype=found.dtype, voxel_size=VoxelSize(), role="image", source_shape=found.shape, source_origin=region.start,
    )  # fmt: skip
    run = run_of(None, volume, Output(verify="full"))
    run.manifest = run.manifest.model_copy(update={"objects": (held,)})
    run.reader = open_reader(objects, run.fetch, run.manifest, "url-brain", {})
    np.testing.assert_array_equal(run.reader.read(Box.whole(region.shape)), voxels[region.slices()])
    run.convert(objects)


def test_a_volume_that_is_not_what_was_planned_is_refused(objects: Objects, tmp_path: Path) -> None:
    path = tmp_path / "brain.tif"
    tifffile.imwrite(path, tissue((20, 30, 50), "uint16"))
    objects.put_sync(storage.INBOX, "0/a.tif", path.read_bytes())
    held = stored(InboxKey(key="0/a.tif"), path.stat().st_size)
    volume = PlannedVolume(
        volume="url-brain", name="brain", format="tiff", objects=(0,), shape=(21, 30, 50), dtype="uint16",
        voxel_size=VoxelSize(), role="image", source_shape=(21, 30, 50),
    )  # fmt: skip
    run = run_of(None, volume)
    run.manifest = run.manifest.model_copy(update={"objects": (held,)})
    with pytest.raises((ChangedSourceError, CorruptObjectError)):
        open_reader(objects, run.fetch, run.manifest, "url-brain", {})
