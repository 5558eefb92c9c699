"""The metadata is what OME-Zarr 0.5 says, by somebody else's model of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from ome_zarr_models.v05 import Image, ImageLabel

from converter.ngff import create_arrays
from converter.testing import a_run, segments, tissue
from emporter_contracts import storage
from emporter_contracts.commands import Output
from emporter_contracts.geometry import Box, VoxelSize
from emporter_runtime.errors import ConflictError
from emporter_runtime.objects import Objects
from emporter_runtime.testing import file_store


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects.open(file_store(tmp_path / "store"))


def group_of(objects: Objects) -> zarr.Group:
    return zarr.open_group(objects.local_path(storage.VOLUMES, storage.zarr_root("url-brain", 1)), mode="r")


def ome_of(objects: Objects) -> dict:
    return json.loads(objects.get_sync(storage.VOLUMES, storage.zarr_root("url-brain", 1) + "zarr.json"))["attributes"]["ome"]


def test_an_image_is_valid_and_every_level_has_scale_and_translation(objects: Objects) -> None:
    voxels = tissue((100, 300, 300), "uint16")
    region = Box.at((5, 10, 20), (90, 256, 280))
    a_run(voxels, region=region, voxel_size=VoxelSize.said("file", (30, 8, 8))).convert(objects)
    image = Image.from_zarr(group_of(objects))
    multiscale = image.ome_attributes.multiscales[0]
    assert [axis.name for axis in multiscale.axes] == ["z", "y", "x"]
    assert {axis.unit for axis in multiscale.axes} == {"nanometer"}
    first, second, third = (d.coordinateTransformations for d in multiscale.datasets[:3])
    assert (list(first[0].scale), list(first[1].translation)) == ([30, 8, 8], [150, 80, 160])
    assert (list(second[0].scale), list(second[1].translation)) == ([30, 16, 16], [150, 84, 164])
    assert (list(third[0].scale), list(third[1].translation)) == ([30, 32, 32], [150, 92, 172])


def test_a_window_shows_what_the_voxels_hold(objects: Objects) -> None:
    voxels = np.full((20, 100, 100), 1000, np.uint16)
    voxels[:10] = 2000
    voxels[0, 0, 0], voxels[0, 0, 1] = 7, 60_000
    voxels[15:] = 0
    a_run(voxels).convert(objects)
    assert ome_of(objects)["omero"]["channels"][0]["window"] == {"min": 0, "max": 60_000, "start": 1000, "end": 2000}


def test_an_axis_of_unknown_voxel_size_has_no_unit_and_scale_one(objects: Objects) -> None:
    a_run(tissue((20, 200, 200)), voxel_size=VoxelSize.said("user", (None, 8, 8))).convert(objects)
    axes = ome_of(objects)["multiscales"][0]["axes"]
    assert axes[0] == {"name": "z", "type": "space"}
    assert axes[1]["unit"] == "nanometer"
    assert ome_of(objects)["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"] == [1, 8, 8]
    Image.from_zarr(group_of(objects))


def test_labels_are_image_labels_without_a_window(objects: Objects) -> None:
    a_run(segments((40, 100, 100)), role="labels").convert(objects)
    ImageLabel.from_zarr(group_of(objects))
    assert "omero" not in ome_of(objects)
    assert "image-label" in ome_of(objects)


def test_voxels_that_are_no_number_give_a_finite_window(objects: Objects) -> None:
    a_run(np.full((4, 50, 50), np.nan, np.float32)).convert(objects)
    window = ome_of(objects)["omero"]["channels"][0]["window"]
    assert all(np.isfinite(v) for v in window.values())


@pytest.mark.parametrize("codec", ["zstd", "blosc", "none"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_arrays_name_their_axes_and_their_codecs(objects: Objects, codec, dtype: str) -> None:
    a_run(tissue((40, 100, 100), dtype), output=Output(codec=codec, chunk=(16, 32, 32), shard=(32, 64, 64))).convert(objects)
    array = group_of(objects)["0"]
    assert array.metadata.dimension_names == ("z", "y", "x")
    assert array.chunks == (16, 32, 32)
    assert array.shards == (32, 64, 64)
    assert array.fill_value == 0


def test_arrays_are_written_once_and_never_changed(objects: Objects) -> None:
    plan = a_run(tissue((20, 100, 100))).plan().volumes[0]
    create_arrays(objects, plan, 1)
    create_arrays(objects, plan, 1)
    with pytest.raises(ConflictError):
        create_arrays(objects, plan.model_copy(update={"codec": "blosc"}), 1)
