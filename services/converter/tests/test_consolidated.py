"""The group's `zarr.json` holds what its arrays say, for readers whose store can't list."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from converter.quality_policy import QualityPolicy
from converter.revising import revise
from converter.testing import a_run, segments, tissue
from emporter_contracts import storage
from emporter_contracts.commands import Output
from emporter_contracts.plans import StoredRequest
from emporter_contracts.revisions import Changes, ReviseVolume
from emporter_runtime.objects import Objects
from emporter_runtime.testing import file_store

VOLUME = "url-brain"
SMALL = Output(chunk=(16, 32, 32), shard=(32, 64, 64))


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects.open(file_store(tmp_path / "store"))


def document(objects: Objects, key: str = "zarr.json", revision: int = 1) -> Any:
    return json.loads(objects.get_sync(storage.VOLUMES, storage.zarr_root(VOLUME, revision) + key))


@pytest.mark.parametrize("role", ["image", "labels"])
def test_the_group_says_of_each_level_what_the_level_says(objects: Objects, role: Any) -> None:
    voxels = tissue((40, 70, 80), "uint16") if role == "image" else segments((40, 70, 80))
    a_run(voxels, role=role, output=SMALL).convert(objects)
    group = document(objects)
    paths = [d["path"] for d in group["attributes"]["ome"]["multiscales"][0]["datasets"]]
    assert len(paths) > 1
    assert group["consolidated_metadata"] == {
        "kind": "inline",
        "must_understand": False,
        "metadata": {path: document(objects, f"{path}/zarr.json") for path in paths},
    }


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_zarr_python_opens_the_arrays_from_the_group_alone(objects: Objects, dtype: str) -> None:
    voxels = tissue((40, 70, 80), dtype)
    a_run(voxels, output=SMALL).convert(objects)
    root = Path(str(objects.local_path(storage.VOLUMES, storage.zarr_root(VOLUME, 1))))
    for path in root.glob("*/zarr.json"):
        path.unlink()
    group = zarr.open_consolidated(root, mode="r", zarr_format=3)
    array = group["0"]
    assert isinstance(array, zarr.Array)
    assert (array.dtype, array.chunks, array.metadata.dimension_names) == (voxels.dtype, (16, 32, 32), ("z", "y", "x"))  # type: ignore[union-attr]
    assert np.array_equal(array[:], voxels)


def test_a_revision_of_metadata_says_the_same_of_the_arrays_it_shows(objects: Objects) -> None:
    run = a_run(tissue((40, 70, 80)), output=SMALL)
    run.convert(objects)
    claim = StoredRequest(request=run.request, event_id="1", received_at=run.fetch.planned_at)
    asyncio.run(objects.put_json(storage.RAW, storage.request(VOLUME, 1), claim))
    command = ReviseVolume(volume=VOLUME, changes=Changes(voxel_size_nm=(40.0, 4.0, 5.0)), by="ada", reason="calibrated")
    assert asyncio.run(revise(objects, command, QualityPolicy())).revision == 2
    before, after = document(objects), document(objects, revision=2)
    assert after["attributes"] != before["attributes"]
    assert after["consolidated_metadata"] == before["consolidated_metadata"]
    assert set(after["consolidated_metadata"]["metadata"]) == {
        path.parent.name
        for path in Path(str(objects.local_path(storage.VOLUMES, storage.zarr_root(VOLUME, 1)))).glob("*/zarr.json")
    }
