"""`emporter verify` on a real stack: a volume that is whole, and what is said of one that is not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from emporter.testing import RunningStack, running_stack
from emporter_archives.server import FileServer
from emporter_contracts import storage
from emporter_contracts.commands import IngestRequest
from emporter_contracts.jobs import JobState

SHAPE = (40, 90, 100)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    with running_stack(tmp_path_factory.mktemp("verified") / "stack", store="file") as running:
        yield running


def ingested(stack: RunningStack, archive: FileServer, folder: Path, name: str) -> str:
    path = folder / name
    tifffile.imwrite(path, np.random.default_rng(len(name)).integers(0, 255, SHAPE, np.uint8), photometric="minisblack")
    request = IngestRequest(source="url", source_id=archive.put(f"/{name}", path.read_bytes()))
    client = stack.client()
    status = client.wait(client.ingest(request).job)
    assert status.state == JobState.COMPLETE
    return status.volumes[0].volume


def verify(stack: RunningStack, volume: str) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-m", "emporter.cli.main", "--stack", str(stack.files.root), "verify", volume, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, {finding["what"]: finding for finding in json.loads(done.stdout)}


def stored(stack: RunningStack, bucket: str, below: str) -> list[Path]:
    """Files below a prefix, those with bytes of voxels."""
    folder = stack.files.root / "store" / bucket / below
    return sorted(f for f in folder.rglob("*") if f.is_file() and f.suffix != ".json")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_volume_that_is_whole_is_well_in_every_respect(stack, archive, tmp_path):
    volume = ingested(stack, archive, tmp_path, "whole.tif")
    status, found = verify(stack, volume)
    assert status == 0
    assert list(found) == ["shards", "digest", "voxels", "raw objects", "voxels against the raw objects"]
    assert all(finding["well"] for finding in found.values())
    assert found["voxels against the raw objects"]["found"] == "360,000 are equal"


@pytest.mark.parametrize("level", ["0", "1"])
def test_a_flipped_bit_in_a_shard_of_any_level_is_found(stack, archive, tmp_path, level):
    volume = ingested(stack, archive, tmp_path, f"flipped-{level}.tif")
    flip(stored(stack, storage.VOLUMES, f"{volume}/r1.ome.zarr/{level}")[0])
    status, found = verify(stack, volume)
    assert status == 1
    assert found["shards"]["well"], "its size is right"
    assert not found["voxels"]["well"]
    assert f"{level}/c/0/0/0" in found["voxels"]["found"]


def test_a_missing_shard_and_a_metadata_file_that_was_written_over_are_found(stack, archive, tmp_path):
    volume = ingested(stack, archive, tmp_path, "hollow.tif")
    stored(stack, storage.VOLUMES, f"{volume}/r1.ome.zarr/0")[0].unlink()
    metadata = stack.files.root / "store" / storage.VOLUMES / f"{volume}/r1.ome.zarr/0/zarr.json"
    metadata.write_text(metadata.read_text().replace("uint8", "int8"))
    status, found = verify(stack, volume)
    assert status == 1
    assert not found["shards"]["well"]
    assert not found["digest"]["well"]


def test_a_flipped_bit_in_the_occupancy_index_is_found_and_named(stack, archive, tmp_path):
    volume = ingested(stack, archive, tmp_path, "occupied.tif")
    [index] = stored(stack, storage.VOLUMES, f"{volume}/r1/occupancy.zarr")
    flip(index)
    status, found = verify(stack, volume)
    assert status == 1
    assert "occupancy.zarr/c/0/0/0 is not as it was committed" in found["digest"]["found"]
    assert found["voxels"]["well"]


def test_raw_objects_that_changed_are_named_and_those_that_are_gone_are_said_to_be(stack, archive, tmp_path):
    volume = ingested(stack, archive, tmp_path, "raw.tif")
    run = json.loads((stack.files.root / "store" / storage.RAW / storage.manifest(volume, 1)).read_text())
    [segment] = stored(stack, storage.RAW, f"objects/{run['objects'][0]['location']['origin']}")
    flip(segment)
    status, found = verify(stack, volume)
    assert status == 1
    assert "raw.tif: sha256" in found["raw objects"]["found"]
    assert "voxels against the raw objects" not in found
    segment.unlink()
    status, found = verify(stack, volume)
    assert status == 0
    assert "not there any more" in found["raw objects"]["found"]


def test_what_is_not_committed_is_a_mistake(stack):
    command = [sys.executable, "-m", "emporter.cli.main", "--stack", str(stack.files.root), "verify", "no-such-volume"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no-such-volume is not committed" in done.stderr
    assert len(done.stderr.splitlines()) == 1
