"""A plain Zarr below a file root, registered: for tests of how such a volume is read, where its format does not matter."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from block_server.testing import House
from emporter.registering import Wanted, look
from emporter_contracts.geometry import Shape3, grid_shape
from emporter_contracts.ids import VolumeRef
from emporter_runtime.registering import commit
from emporter_runtime.roots import RootSettings

ROOT = "scope"
"""The file root that `files` is for the house."""


def registered(house: House, files: Path, name: str, voxels: NDArray[Any], chunk: Shape3) -> VolumeRef:
    """`voxels` as Zarr v2 without compression, in whole chunks of `chunk` voxels, read where they lie."""
    shape = voxels.shape
    described = {"zarr_format": 2, "shape": shape, "chunks": chunk, "dtype": voxels.dtype.str, "order": "C", "fill_value": 0}
    (files / name).mkdir()
    (files / name / ".zarray").write_text(json.dumps(described | {"compressor": None, "filters": None}))
    for index in np.ndindex(*grid_shape((shape[0], shape[1], shape[2]), chunk)):
        box = tuple(slice(i * n, (i + 1) * n) for i, n in zip(index, chunk, strict=True))
        (files / name / ".".join(map(str, index))).write_bytes(voxels[box].tobytes())
    settings = RootSettings.model_validate(house.settings.model_dump())
    (found,) = asyncio.run(look(Wanted(source=f"file-root:{ROOT}/{name}", name=name), settings))
    return asyncio.run(commit(house.objects, found, 1))
