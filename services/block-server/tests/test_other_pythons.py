"""zarr-python 2 and cloud-volume, unmodified. They can't share an environment with ours (zarr-python 3; LGPL parts), so each is run by
an interpreter of its own, which the environment names; without one the test is skipped.
"""

from __future__ import annotations

import hashlib
import os
import subprocess

import numpy as np
import pytest

from block_server.testing import House, Made

ZARR2 = """
import sys, hashlib, zarr, fsspec
assert zarr.__version__.startswith("2."), zarr.__version__
array = zarr.open(fsspec.get_mapper(sys.argv[1] + "/zarr2/" + sys.argv[2] + ".ome.zarr"), mode="r")["0"]
print(array.dtype, array.shape, hashlib.sha256(array[:].tobytes()).hexdigest())
"""
CLOUD_VOLUME = """
import sys, hashlib, numpy
from cloudvolume import CloudVolume
volume = CloudVolume("precomputed://" + sys.argv[1] + "/precomputed/" + sys.argv[2], mip=0, progress=False)
voxels = numpy.ascontiguousarray(numpy.asarray(volume[volume.bounds])[..., 0].transpose(2, 1, 0))
print(voxels.dtype, voxels.shape, hashlib.sha256(voxels.tobytes()).hexdigest())
"""


def said_by(variable: str, script: str, house: House, made: Made) -> str:
    python = os.environ.get(variable)
    if not python:
        pytest.skip(f"{variable} names no Python that has it")
    done = subprocess.run(
        [python, "-c", script, house.url, str(made.ref)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("variable", "script"), [("EMPORTER_PYTHON_ZARR2", ZARR2), ("EMPORTER_PYTHON_CLOUDVOLUME", CLOUD_VOLUME)]
)
@pytest.mark.parametrize(("codec", "dtype"), [("zstd", "uint8"), ("blosc", "uint16"), ("none", "uint64"), ("blosc", "float32")])
def test_another_tool_reads_every_voxel(house: House, variable: str, script: str, codec, dtype: str):
    voxels = np.random.default_rng(0).integers(0, 200, (40, 50, 70)).astype(dtype)
    name = f"other-{variable.rpartition('_')[2].lower()}-{codec}-{dtype}"
    made = house.commit(Made(voxels, name=name, codec=codec, source_origin=(4, 8, 12)))
    expected = f"{voxels.dtype} {voxels.shape} {hashlib.sha256(voxels.tobytes()).hexdigest()}"
    assert said_by(variable, script, house, made) == expected
