"""What else opens the Zarr routes, unmodified: zarrs, obstore's HTTP store, xarray, ome-zarr-py's reader (beside zarr-python and
tensorstore in test_zarr.py and test_views_of_others.py).
"""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import xarray
import zarr
from obstore.store import HTTPStore
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from ome_zarr_models.v05 import Image
from zarr.storage import ObjectStore

from block_server.testing import House, Made

ZARRS = """
import sys, hashlib, zarr
zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "codec_pipeline.strict": True})
for level in range(3):
    array = zarr.open_array(f"{sys.argv[1]}/{level}", mode="r")
    assert type(array._async_array.codec_pipeline).__name__ == "ZarrsCodecPipeline"
    print(hashlib.sha256(array[:].tobytes()).hexdigest())
"""


@pytest.fixture(scope="module")
def phantom(house: House) -> Made:
    voxels = np.random.default_rng(0).integers(0, 60_000, (50, 70, 90), dtype="u2")
    voxels[:20, :20, :40] = 0  # a chunk of nothing
    return house.commit(Made(voxels, name="readers", codec="blosc"))


@pytest.mark.parametrize("route", ["zarr", "zarr2"])
def test_zarrs_reads_every_voxel(house: House, phantom: Made, route: str):
    # A process of its own: zarrs waits for the server with the interpreter locked, and the server is in this one.
    root = f"{house.url}/{route}/{phantom.ref}.ome.zarr"
    done = subprocess.run([sys.executable, "-c", ZARRS, root], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [hashlib.sha256(np.ascontiguousarray(one).tobytes()).hexdigest() for one in phantom.levels]


def test_obstore_reads_every_voxel(house: House, phantom: Made):
    root = f"{house.url}/zarr/{phantom.ref}.ome.zarr/0"
    store = ObjectStore(HTTPStore.from_url(root, client_options={"allow_http": True}), read_only=True)
    assert np.array_equal(zarr.open_array(store, mode="r")[:], phantom.voxels)


@pytest.mark.parametrize("route", ["zarr", "zarr2"])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_xarray_reads_every_voxel_as_it_is_stored(house: House, phantom: Made, route: str, level: int):
    others = [str(k) for k in range(3) if k != level]
    root = f"{house.url}/{route}/{phantom.ref}.ome.zarr"
    with xarray.open_zarr(root, drop_variables=others, chunks=None) as found:
        array = found[str(level)]
        assert array.dims == ("z", "y", "x")
        assert array.dtype == phantom.voxels.dtype
        assert np.array_equal(array.values, phantom.levels[level])


def test_xarray_sees_a_volume_of_one_level_without_being_told_anything(house: House):
    voxels = np.arange(20 * 30 * 40, dtype="u2").reshape(20, 30, 40)
    made = house.commit(Made(voxels, name="readers-flat", halvings=()))
    with xarray.open_datatree(f"{house.url}/zarr/{made.ref}.ome.zarr", engine="zarr", chunks=None) as found:
        assert np.array_equal(found["0"].values, voxels)


@pytest.mark.parametrize("consolidated", [True, False], ids=["now", "older"])
def test_a_group_with_and_without_the_metadata_of_its_arrays_is_ome_zarr_0_5(house: House, consolidated: bool):
    voxels = np.arange(20 * 30 * 40, dtype="u2").reshape(20, 30, 40)
    name = f"readers-{'now' if consolidated else 'older'}"
    made = house.commit(Made(voxels, name=name, consolidated=consolidated))
    group = zarr.open_group(f"{house.url}/zarr/{made.ref}.ome.zarr", mode="r")
    assert (group.metadata.consolidated_metadata is not None) == consolidated
    assert [d.path for d in Image.from_zarr(group).ome_attributes.multiscales[0].datasets] == ["0", "1", "2"]
    for level, stored in enumerate(made.levels):
        assert np.array_equal(group[str(level)][:], stored)


@pytest.mark.parametrize("route", ["zarr", "zarr2"])
def test_ome_zarr_py_reads_every_level_and_the_voxel_sizes(house: House, phantom: Made, route: str):
    location = parse_url(f"{house.url}/{route}/{phantom.ref}.ome.zarr")
    assert location is not None
    image = next(iter(Reader(location)()))
    assert [np.array_equal(data.compute(), stored) for data, stored in zip(image.data, phantom.levels, strict=True)] == [True] * 3
    scales = [found[0]["scale"] for found in image.metadata["coordinateTransformations"]]
    assert scales == [[40 * f, 8 * f, 8 * f] for f in (1, 2, 4)]
