"""Uploads: whole or not there, resumable, and named after what they hold."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from emporter import uploading
from emporter.errors import MistakeError
from emporter.uploading import INDEX, Step, collect, default_name, upload
from emporter_contracts import ids
from emporter_contracts.storage import INBOX
from emporter_runtime.objects import Objects
from emporter_runtime.testing import file_store, s3_server


class Stopped(Exception):
    """As a user's Ctrl-C, or a cut cable, in the middle of a file."""


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Objects]:
    with s3_server(tmp_path_factory.mktemp("s3")) as settings:
        yield Objects.open(settings)


@pytest.fixture(params=["file", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    if request.param == "file":
        return Objects.open(file_store(tmp_path / "store"))
    made: Objects = request.getfixturevalue("s3")
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three slices, one with a name that needs care, and what is no slice."""
    made = tmp_path / "My Stack.2024"
    (made / "sub").mkdir(parents=True)
    for name in ("a 1.tif", "ü#%20+.tif", "sub/c.tif"):
        (made / name).write_bytes(os.urandom(1000))
    (made / ".DS_Store").write_bytes(b"hidden")
    return made


async def test_an_upload_holds_every_file_as_it_is_and_an_index_of_them(objects: Objects, folder: Path) -> None:
    made = await upload(objects, collect([folder]), default_name([folder]))
    stored = {info.key: info.size async for info in objects.listing(INBOX, f"{made.upload}/")}
    assert set(stored) == {f"{made.upload}/{name}" for name in ("a 1.tif", "ü#%20+.tif", "sub/c.tif", INDEX)}
    for name in ("a 1.tif", "ü#%20+.tif", "sub/c.tif"):
        assert await objects.get(INBOX, f"{made.upload}/{name}") == (folder / name).read_bytes()
    index = json.loads(await objects.get(INBOX, f"{made.upload}/{INDEX}"))
    assert index["name"] == "my-stack-2024"
    assert ids.upload_id((f["path"], f["bytes"], f["sha256"]) for f in index["files"]) == made.upload
    assert made.source_id == f"my-stack-2024-{made.upload}"


async def test_the_same_files_are_the_same_upload_and_are_not_sent_again(objects: Objects, folder: Path) -> None:
    first = await upload(objects, collect([folder]), "x")
    steps: list[Step] = []
    assert await upload(objects, collect([folder]), "x", steps.append) == first
    assert [step.bytes for step in steps if step.doing == "send"] == []
    assert sum(step.bytes for step in steps if step.doing == "skip") == 3000


async def test_an_upload_that_was_interrupted_sends_what_is_missing(objects: Objects, folder: Path) -> None:
    sent = 0

    def interrupt_at_the_second(step: Step) -> None:
        nonlocal sent
        sent += step.doing == "send"
        if sent == 2:
            raise Stopped

    with pytest.raises(Stopped):
        await upload(objects, collect([folder]), "x", interrupt_at_the_second)
    steps: list[Step] = []
    made = await upload(objects, collect([folder]), "x", steps.append)
    assert len([step for step in steps if step.doing == "skip"]) >= 1
    assert len([step for step in steps if step.doing == "send"]) <= 2
    assert await objects.exists(INBOX, f"{made.upload}/{INDEX}")


async def test_the_index_comes_last(objects: Objects, folder: Path) -> None:
    files = collect([folder])

    def stop_at_the_last(step: Step) -> None:
        if step.doing == "send" and step.file == made_of[-1]:
            raise Stopped

    made_of = [uploading._hashed(file, lambda _: None) for file in files]
    with pytest.raises(Stopped):
        await upload(objects, files, "x", stop_at_the_last)
    name = ids.upload_id((f.path, f.bytes, f.sha256) for f in made_of)
    assert not await objects.exists(INBOX, f"{name}/{INDEX}")
    assert not await objects.exists(INBOX, f"{name}/{files[-1].path}")


async def test_a_file_that_changes_meanwhile_is_not_stored(objects: Objects, tmp_path: Path) -> None:
    growing = tmp_path / "growing.tif"
    growing.write_bytes(os.urandom(20 * 2**20))

    def write_into_it(step: Step) -> None:
        if step.doing == "send":
            with growing.open("r+b") as file:
                file.seek(15 * 2**20)
                file.write(b"changed")

    before = {info.key async for info in objects.listing(INBOX)}
    with pytest.raises(MistakeError, match="changed while it was uploaded"):
        await upload(objects, collect([growing]), "x", write_into_it)
    assert {info.key async for info in objects.listing(INBOX)} == before


async def test_an_empty_file_is_a_file(objects: Objects, tmp_path: Path) -> None:
    (tmp_path / "empty.tif").touch()
    made = await upload(objects, collect([tmp_path / "empty.tif"]), "x")
    assert await objects.get(INBOX, f"{made.upload}/empty.tif") == b""


async def test_files_of_many_parts_arrive_whole(objects: Objects, tmp_path: Path) -> None:
    data = os.urandom(30 * 2**20 + 17)
    (tmp_path / "large.tif").write_bytes(data)
    made = await upload(objects, collect([tmp_path / "large.tif"]), "x")
    assert await objects.get(INBOX, f"{made.upload}/large.tif") == data


UPLOADER = """
import asyncio, resource, sys
from pathlib import Path
from emporter.uploading import collect, upload
from emporter_runtime.objects import Objects
from emporter_runtime.settings import StoreSettings

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
objects = Objects.open(StoreSettings(store_url="file://" + sys.argv[2]))
asyncio.run(upload(objects, collect([Path(sys.argv[1])]), "x"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    with (tmp_path / "large.tif").open("wb") as file:
        file.truncate(600 * 2**20)
    command = [sys.executable, "-c", UPLOADER, str(tmp_path / "large.tif"), str(tmp_path / "store")]
    grown_kib = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown_kib < 150 * 1024


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(MistakeError, match="there is no file .*nowhere.tif"):
        collect([tmp_path / "nowhere.tif"])


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MistakeError, match="no file in"):
        collect([tmp_path])


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for side in ("a", "b"):
        (tmp_path / side).mkdir()
        (tmp_path / side / "x.tif").touch()
    with pytest.raises(MistakeError, match=r"two files are named x\.tif"):
        collect([tmp_path / "a" / "x.tif", tmp_path / "b" / "x.tif"])


async def test_a_name_without_a_letter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tif").touch()
    with pytest.raises(MistakeError, match="--name"):
        await upload(Objects.in_memory(), collect([tmp_path / "x.tif"]), "---")


@pytest.mark.parametrize(
    ("path", "name"), [("stack.tif", "stack"), ("stack.ome.tif", "stack"), ("My Folder", "My Folder"), (".hidden.tif", ".hidden")]
)
def test_an_upload_is_called_after_its_first_file(tmp_path: Path, path: str, name: str) -> None:
    if "." in path:
        (tmp_path / path).touch()
    else:
        (tmp_path / path).mkdir()
    assert default_name([tmp_path / path]) == name


def test_uploads_at_the_same_time_do_not_disturb_each_other(tmp_path: Path) -> None:
    (tmp_path / "x.tif").write_bytes(os.urandom(10 * 2**20))
    objects = Objects.open(file_store(tmp_path / "store"))

    async def twice() -> None:
        files = collect([tmp_path / "x.tif"])
        one, other = await asyncio.gather(upload(objects, files, "x"), upload(objects, files, "x"))
        assert one == other
        assert await objects.get(INBOX, f"{one.upload}/x.tif") == (tmp_path / "x.tif").read_bytes()

    asyncio.run(twice())
