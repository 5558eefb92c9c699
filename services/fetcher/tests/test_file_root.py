from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path

import pytest

from emporter_contracts import storage
from emporter_contracts.plans import FileRootPath, Unit
from emporter_runtime.errors import ObjectMissingError, TransientError
from emporter_runtime.file_roots import FileRootError
from emporter_runtime.objects import Objects
from fetcher.downloading import store_unit
from fetcher.errors import NotInArchiveError, SourceChangedError
from fetcher.gate import Gate
from fetcher.sources.file_root import FileRootSource
from fetcher.sources.protocol import Context
from fetcher.testing import a_plan, a_request


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "scope1"
    (root / "run7" / "deep").mkdir(parents=True)
    for n in (1, 9, 10):
        (root / "run7" / f"s{n}.tif").write_bytes(random.Random(n).randbytes(1000 + n))
    (root / "run7" / "notes.txt").write_text("not a slice")
    (root / "run7" / ".hidden").write_text("x")
    (root / "run7" / "deep" / "s1.tif").write_bytes(b"deep")
    (tmp_path / "secret.tif").write_bytes(b"secret")
    return root


@pytest.fixture
def source(root: Path) -> FileRootSource:
    return FileRootSource({"scope1": root}, Gate(2**28))


async def paths(source: FileRootSource, source_id: str) -> list[str]:
    listing = await source.resolve(a_request("file-root", source_id), Context("job", 1))
    return [o.path for o in listing.objects]


async def test_a_pattern_is_its_files_in_natural_order(source: FileRootSource) -> None:
    assert await paths(source, "scope1/run7/*.tif") == ["run7/s1.tif", "run7/s9.tif", "run7/s10.tif"]
    assert await paths(source, "scope1/run*/s[19].tif") == ["run7/s1.tif", "run7/s9.tif"]
    assert await paths(source, "scope1/run7/s9.tif") == ["run7/s9.tif"]


async def test_a_name_with_brackets_matches_itself(source: FileRootSource, root: Path) -> None:
    (root / "run [8].tif").write_bytes(b"x")
    assert await paths(source, "scope1/run [8].tif") == ["run [8].tif"]


async def test_a_folder_is_every_file_in_it_but_hidden_ones(source: FileRootSource) -> None:
    assert await paths(source, "scope1/run7/deep") == ["run7/deep/s1.tif"]
    assert await paths(source, "scope1/run7") == [
        "run7/deep/s1.tif",
        "run7/notes.txt",
        "run7/s1.tif",
        "run7/s9.tif",
        "run7/s10.tif",
    ]


async def test_files_are_read_in_place_and_never_copied(source: FileRootSource, root: Path) -> None:
    objects = Objects.in_memory()
    listing = await source.resolve(a_request("file-root", "scope1/run7/s9.tif"), Context("job", 1))
    planned = listing.objects[0]
    assert planned.location == FileRootPath(root="scope1", path="run7/s9.tif")
    data = (root / "run7" / "s9.tif").read_bytes()
    unit = await store_unit(a_plan(planned, source="file-root"), Unit(0, 0), source, objects)
    assert unit.sha256 == hashlib.sha256(data).hexdigest()
    assert source.open(planned).read(10, 20) == data[10:20]
    assert [o async for o in objects.listing(storage.RAW)] == []


@pytest.mark.parametrize(
    "source_id",
    [
        "scope1/../secret.tif", "scope1/run7/../../secret.tif", "scope1//etc/passwd", "scope1/", "scope1", "other/run7/s1.tif", "/etc/passwd",
        "../scope1/run7/s1.tif", "scope1/**/s1.tif", "scope1/run7/..",
    ],
)  # fmt: skip
async def test_a_path_outside_is_refused(source: FileRootSource, source_id: str) -> None:
    with pytest.raises(FileRootError) as refused:
        await paths(source, source_id)
    assert refused.value.code == "file_root_refused"


async def test_a_refusal_does_not_tell_where_the_roots_lie(source: FileRootSource, root: Path) -> None:
    with pytest.raises(FileRootError) as refused:
        await paths(source, "other/x")
    assert str(root) not in str(refused.value)


async def test_what_matches_nothing_is_said_to_match_nothing(source: FileRootSource) -> None:
    for source_id in ("scope1/run7/*.dm3", "scope1/run8/s1.tif", "scope1/run7/missing.tif", "scope1/run7/s1.tif/x"):
        with pytest.raises((NotInArchiveError, ObjectMissingError, FileRootError)):
            await paths(source, source_id)


@pytest.mark.parametrize(
    "pattern", ["scope1/link.tif", "scope1/*.tif", "scope1/away/*.tif", "scope1/away/secret.tif", "scope1/aw*/s*"]
)
async def test_a_link_is_refused_and_not_passed_over(source: FileRootSource, root: Path, pattern: str) -> None:
    (root / "link.tif").symlink_to(root.parent / "secret.tif")
    (root / "away").symlink_to(root.parent)
    with pytest.raises(FileRootError) as refused:
        await paths(source, pattern)
    assert "link" in refused.value.message


async def test_a_link_put_in_place_after_planning_is_not_followed(source: FileRootSource, root: Path) -> None:
    planned = (await source.resolve(a_request("file-root", "scope1/run7/deep/s1.tif"), Context("job", 1))).objects[0]
    (root.parent / "copy").mkdir()
    (root.parent / "copy" / "s1.tif").write_bytes(b"evil")
    (root / "run7" / "deep" / "s1.tif").unlink()
    (root / "run7" / "deep").rmdir()
    (root / "run7" / "deep").symlink_to(root.parent / "copy")
    with pytest.raises(FileRootError):
        source.open(planned).read(0, 4)


async def test_a_pipe_is_refused_and_not_waited_for(source: FileRootSource, root: Path) -> None:
    os.mkfifo(root / "pipe.tif")
    with pytest.raises(FileRootError):
        await paths(source, "scope1/pipe.tif")


async def test_a_file_that_changed_between_plan_and_read_is_refused(source: FileRootSource, root: Path) -> None:
    planned = (await source.resolve(a_request("file-root", "scope1/run7/s1.tif"), Context("job", 1))).objects[0]
    file = root / "run7" / "s1.tif"
    before = file.stat()
    file.write_bytes(file.read_bytes()[::-1])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(SourceChangedError) as changed:
        await store_unit(a_plan(planned, source="file-root"), Unit(0, 0), source, Objects.in_memory())
    assert changed.value.code == "source_changed"
    with pytest.raises(SourceChangedError):
        source.open(planned).read(0, 10)


async def test_a_file_that_is_gone_is_named(source: FileRootSource, root: Path) -> None:
    planned = (await source.resolve(a_request("file-root", "scope1/run7/s1.tif"), Context("job", 1))).objects[0]
    (root / "run7" / "s1.tif").unlink()
    with pytest.raises(ObjectMissingError) as missing:
        await store_unit(a_plan(planned, source="file-root"), Unit(0, 0), source, Objects.in_memory())
    assert "run7/s1.tif" in str(missing.value)


async def test_a_root_that_is_not_mounted_is_waited_for(tmp_path: Path) -> None:
    source = FileRootSource({"scope1": tmp_path / "away"}, Gate(2**28))
    with pytest.raises(TransientError):
        await paths(source, "scope1/run7/s1.tif")
