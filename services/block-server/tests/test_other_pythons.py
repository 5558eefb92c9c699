"""zarr-python 2, cloud-volume and napari, unmodified. They can't share an environment with ours (zarr-python 3, a Qt of their own), so
`make clients` sets up one for each; without it, or an interpreter that the environment names, the test is skipped.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from block_server.testing import House, Made

ENVIRONMENTS = Path(__file__).resolve().parents[3] / ".venv-clients"

DIGEST = """
import sys, json, hashlib, numpy
def say(voxels, **more):
    digest = hashlib.sha256(numpy.ascontiguousarray(voxels).tobytes()).hexdigest()
    print(json.dumps({"dtype": str(voxels.dtype), "shape": list(voxels.shape), "digest": digest, **more}))
base, volume = sys.argv[1:]
"""
ZARR2 = """
import zarr, fsspec
assert zarr.__version__.startswith("2."), zarr.__version__
say(zarr.open(fsspec.get_mapper(f"{base}/zarr2/{volume}.ome.zarr"), mode="r")["0"][:])
"""
CLOUD_VOLUME = """
from cloudvolume import CloudVolume
found = CloudVolume(f"precomputed://{base}/precomputed/{volume}", mip=0, progress=False)
say(numpy.asarray(found[found.bounds])[..., 0].transpose(2, 1, 0), resolution=[float(nm) for nm in found.resolution])
"""
NAPARI = """
import npe2
npe2.PluginManager.instance().discover()
from napari.components import ViewerModel
layers = ViewerModel().open(f"{base}/ROUTE/{volume}.ome.zarr", plugin="napari-ome-zarr")
(layer,) = layers
units = [str(unit) for unit in layer.units]
say(numpy.asarray(layer.data[0]), levels=len(layer.data), scale=[float(nm) for nm in layer.scale], units=units)
"""


def said_by(environment: str, variable: str, script: str, house: House, made: Made) -> dict[str, Any]:
    python = os.environ.get(variable) or ENVIRONMENTS / environment / "bin" / "python"
    if not Path(python).exists():
        pytest.skip(f"{variable} names no Python that has it, and `make clients` was not run")
    command = [str(python), "-c", DIGEST + script, house.url, str(made.ref)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return said


def voxels_of(made: Made) -> dict[str, Any]:
    digest = hashlib.sha256(made.voxels.tobytes()).hexdigest()
    return {"dtype": made.voxels.dtype.name, "shape": list(made.voxels.shape), "digest": digest}


@pytest.fixture(
    scope="module", params=[("zstd", "uint8"), ("blosc", "uint16"), ("none", "uint64"), ("blosc", "float32")], ids="-".join
)
def phantom(request: pytest.FixtureRequest, house: House) -> Made:
    codec, dtype = request.param
    voxels = np.random.default_rng(0).integers(0, 200, (40, 50, 70)).astype(dtype)
    return house.commit(Made(voxels, name=f"other-{codec}-{dtype}", codec=codec, source_origin=(4, 8, 12)))


def test_zarr_python_2_reads_every_voxel(house: House, phantom: Made):
    assert said_by("earlier", "EMPORTER_PYTHON_ZARR2", ZARR2, house, phantom) == voxels_of(phantom)


def test_cloud_volume_reads_every_voxel_and_the_voxel_size(house: House, phantom: Made):
    said = said_by("earlier", "EMPORTER_PYTHON_CLOUDVOLUME", CLOUD_VOLUME, house, phantom)
    assert said == {**voxels_of(phantom), "resolution": [8, 8, 40]}  # x, y, z


@pytest.mark.parametrize("route", ["zarr", "zarr2"])
def test_napari_reads_every_voxel_and_the_voxel_size(house: House, route: str):
    name = f"other-napari-{route}"
    voxels = np.random.default_rng(0).integers(0, 60_000, (40, 50, 70), dtype="u2")
    made = house.commit(Made(voxels, name=name))
    said = said_by("napari", "EMPORTER_PYTHON_NAPARI", NAPARI.replace("ROUTE", route), house, made)
    assert said == {**voxels_of(made), "levels": 3, "scale": [40, 8, 8], "units": ["nanometer"] * 3}
