"""A training set is a file: it replays the voxels it was drawn from, names a volume that differs, and is made again elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
import tifffile

import emporter
from block_server.sampling_occupancy import pooled
from block_server.testing import House, Made, house_on
from emporter import training
from emporter.cli.main import run
from emporter.errors import MistakeError
from emporter.sampling import sample_request
from emporter.testing import RunningStack, running_stack
from emporter.training import ChangedVolumeError, draw, found_on, load, save
from emporter.wire import Wire
from emporter_contracts import storage
from emporter_contracts.geometry import Box
from emporter_contracts.training import TrainingSet
from emporter_runtime.testing import file_store

SHAPE = (48, 80, 96)


def an_image(name: str = "set-image", **changes: Any) -> Made:
    return Made(np.random.default_rng(0).integers(1, 255, SHAPE, dtype=np.uint8), name=name, digest="a" * 64, **changes)


def some_labels(name: str = "set-labels", **changes: Any) -> Made:
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    ball = ((z - 20) ** 2 + (y - 40) ** 2 + (x - 30) ** 2 < 20**2).astype(np.uint32)
    return Made(ball, name=name, role="labels", labels_of="set-image", digest="b" * 64, **changes)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with house_on(file_store(tmp_path_factory.mktemp("store"))) as house:
        house.commit(an_image())
        house.commit(some_labels())
        yield house


async def a_set(house: House, **wanted: Any) -> TrainingSet:
    split = {"part": "train", "validation": 0.5, "margin": (2, 2, 2)}
    request = sample_request(20, (8, 8, 8), 0, {"seed": 3, "min_foreground": 0.1, "split": split, **wanted})
    async with emporter.AsyncClient(house.url) as client:
        return await draw(client, ["set-image"], request, ["auto"], 5)


async def test_a_set_says_all_that_a_reader_of_it_needs(house: House) -> None:
    drawn = await a_set(house, split={"part": "train", "validation": 0.6, "margin": (2, 2, 2)})
    image, labels = drawn.volumes
    assert (str(image.ref), image.digest, image.voxel_size_nm, image.role) == (
        "set-image@r1",
        "a" * 64,
        (40.0, 8.0, 8.0),
        "image",
    )
    assert (str(labels.ref), labels.digest, labels.role) == ("set-labels@r1", "b" * 64, "labels")
    assert {v.licence.spdx for v in drawn.volumes} == {"CC0-1.0"}
    (pair,) = drawn.pairs
    assert (pair.level, pair.voxel_size_nm, pair.labels, pair.labels_offset) == (0, (40.0, 8.0, 8.0), 1, (0, 0, 0))
    assert (drawn.asked.seed, drawn.sampler_version) == (3, 1)
    assert (len(drawn.part("train")), len(drawn.part("validation"))) == (20, 5)
    for box in drawn.boxes:
        voxels = some_labels().voxels[Box.at(box.origin, drawn.shape).slices()]
        assert np.count_nonzero(voxels) >= 0.1 * voxels.size
        # x is the longest axis: 96 voxels, the last 58 are held out.
        assert box.origin[2] >= 38 if box.part == "validation" else box.origin[2] + 8 <= 36


async def test_a_set_survives_its_file_and_is_drawn_the_same_again(house: House, tmp_path: Path) -> None:
    drawn = await a_set(house, split=None)
    save(tmp_path / "set.json", drawn)
    assert load(tmp_path / "set.json") == drawn
    assert (await a_set(house, split=None)).boxes == drawn.boxes
    assert [path.name for path in tmp_path.iterdir()] == ["set.json"]


async def test_a_replay_finds_the_same_revision_and_names_one_that_differs(house: House, tmp_path: Path) -> None:
    drawn = await a_set(house, split=None)
    assert [info["ref"] for info in found_on(Wire(house.url), drawn)] == ["set-image@r1", "set-labels@r1"]
    with house_on(file_store(tmp_path), blocks_fresh_seconds=0) as other:
        other.commit(an_image())
        with pytest.raises(ChangedVolumeError, match="set-labels@r1 is not here"):
            found_on(Wire(other.url), drawn)
        other.commit(Made(some_labels().voxels, name="set-labels", digest="c" * 64))
        with pytest.raises(
            ChangedVolumeError, match="set-labels@r1 is not what the set was drawn from: digest cccccccccccc, not bbb"
        ):
            found_on(Wire(other.url), drawn)
        # The same data under another revision is the same data.
        other.commit(some_labels(revision=2))
        assert [info["ref"] for info in found_on(Wire(other.url), drawn)] == ["set-image@r1", "set-labels@r2"]
        async with emporter.AsyncClient(other.url) as client:
            assert [str(ref) for ref in await training.check(client, drawn)] == ["set-image@r1", "set-labels@r2"]


async def test_equal_voxels_in_other_shards_will_do_only_at_full_resolution(house: House) -> None:
    drawn = await a_set(house, split=None)
    volumes = [volume.model_copy(update={"voxels_sha256": "f" * 64}) for volume in drawn.volumes]
    infos = [{"ref": f"{v.volume}@r1", "digest": "other", "voxels_sha256": "f" * 64} for v in volumes]
    same = drawn.model_copy(update={"volumes": tuple(volumes)})
    assert training._same(same, 0, [infos[0]])["ref"] == "set-image@r1"
    coarse = same.model_copy(update={"pairs": (same.pairs[0].model_copy(update={"level": 1}),)})
    with pytest.raises(ChangedVolumeError):
        training._same(coarse, 0, [infos[0]])


@pytest.mark.parametrize("body", ["", "{}", "[1]", '{"version": "2"}'])
def test_a_file_that_is_no_set_is_refused_in_words(tmp_path: Path, body: str) -> None:
    (tmp_path / "set.json").write_text(body)
    with pytest.raises(MistakeError, match="is no training set"):
        load(tmp_path / "set.json")
    with pytest.raises(MistakeError, match="No such file"):
        load(tmp_path / "other.json")


def test_the_command_writes_a_set_and_checks_it(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EMPORTER_BLOCKS_URL", house.url)
    file = str(tmp_path / "set.json")
    words = [
        "-n",
        "10",
        "--shape",
        "8,8,8",
        "--labels",
        "auto",
        "--min-foreground",
        "0.2",
        "--validation",
        "0.6",
        "--validation-n",
        "3",
    ]
    assert run(["sample", "set-image", *words, "--manifest", file]) == 0
    assert "10 boxes to train and 3 to validate with, 8,8,8 voxels each, of 2 volumes (CC0-1.0)" in capsys.readouterr().out
    assert run(["sample", "--check", file]) == 0
    assert "all here" in capsys.readouterr().out
    assert run(["sample", "set-image", *words, "--json"]) == 0
    assert TrainingSet.model_validate_json(capsys.readouterr().out).boxes == load(file).boxes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sample"], "name a VOLUME"),
        (["sample", "set-image", "--shape", "0,1,1"], "must be at least 1"),
        (["sample", "set-image", "--shape", "64,64,1000"], "no such box"),
        (["sample", "set-image", "--labels", "a", "--labels", "b"], "2 of them for 1 volumes"),
        (["sample", "set-image", "--validation", "2"], "split"),
        (["sample", "set-image", "--rebuild", "x.json"], "stand alone"),
        (["sample", "--check", "x.json"], "No such file"),
        (["sample", "set-labels", "--labels", "auto"], "has 0 label volumes"),
    ],
)
def test_mistakes_are_one_line(
    house: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    monkeypatch.setenv("EMPORTER_BLOCKS_URL", house.url)
    assert run(words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    """Files that two machines have alike."""
    folder = tmp_path / "files"
    folder.mkdir()
    voxels = np.random.default_rng(7).integers(0, 255, (20, 60, 70), dtype=np.uint8)
    tifffile.imwrite(folder / "image.tif", voxels, photometric="minisblack")
    tifffile.imwrite(folder / "labels.tif", (voxels > 200).astype(np.uint32), photometric="minisblack")
    return folder


def emporter_does(stack: RunningStack, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "emporter.cli.main", *words, "--stack", str(stack.dir)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def assert_drawn_by_the_index_of_conversion(stack: RunningStack, drawn: TrainingSet, labels: Any) -> None:
    """The converter's counts are there, are those of the voxels, and every box holds what was asked for."""
    volume = drawn.volumes[1]
    key = storage.occupancy(volume.volume, volume.revision)
    index = ts.open({"driver": "zarr3", "kvstore": stack.objects().kvstore(storage.VOLUMES, key)}).result()
    chunk = found_on(Wire(stack.urls.blocks), drawn)[1]["chunk"]
    assert np.array_equal(index.read().result(), pooled(labels != 0, tuple(chunk)))
    for box in drawn.boxes:
        voxels = labels[Box.at(box.origin, drawn.shape).slices()]
        assert np.count_nonzero(voxels) >= 0.1 * voxels.size


def test_a_set_is_made_again_on_another_machine(tmp_path: Path, roots: Path) -> None:
    file = tmp_path / "set.json"
    with running_stack(tmp_path / "here", store="file", file_roots={"scope": roots}) as here:
        names = []
        for name, more in (("image", []), ("labels", ["--role", "labels"])):
            done = emporter_does(
                here, "ingest", "file-root", f"scope/{name}.tif", "--watch", "--yes", "--voxel-size-nm", "40,8,8", *more
            )
            assert done.returncode == 0, done.stderr
            names.append(done.stdout.strip())
        words = ["-n", "6", "--shape", "8,16,16", "--labels", names[1], "--min-foreground", "0.1", "--manifest", str(file)]
        done = emporter_does(here, "sample", names[0], *words)
        assert done.returncode == 0, done.stderr
        drawn = load(file)
        first = found_on(Wire(here.urls.blocks), drawn)
        assert all(volume.request is not None for volume in drawn.volumes)
        assert all(volume.voxels_sha256 for volume in drawn.volumes)
        assert_drawn_by_the_index_of_conversion(here, drawn, tifffile.imread(roots / "labels.tif"))
    with running_stack(tmp_path / "there", store="file", file_roots={"scope": roots}) as there:
        assert emporter_does(there, "sample", "--check", str(file)).returncode == 2
        done = emporter_does(there, "sample", "--rebuild", str(file))
        assert done.returncode == 0, done.stderr
        again = found_on(Wire(there.urls.blocks), drawn)
        assert [info["digest"] for info in again] == [info["digest"] for info in first]
        # Other bytes under the same name are found out.
        tampered = json.loads(file.read_text())
        tampered["volumes"][0] |= {"digest": "0" * 64, "voxels_sha256": "0" * 64}
        file.write_text(json.dumps(tampered))
        done = emporter_does(there, "sample", "--rebuild", str(file))
        assert done.returncode == 2
        assert names[0] in done.stderr
        assert "is not what the set was drawn from" in done.stderr
