"""What we write is read by programs that share no code with us, and holds what the pyramid's rules say, computed in another way."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader as OmeZarrReader
from ome_zarr_models.v05 import Image, ImageLabel

from converter.testing import a_run, segments, tissue
from emporter_contracts import storage
from emporter_contracts.commands import Output
from emporter_contracts.geometry import Shape3
from emporter_contracts.plans import VolumePlan
from emporter_runtime.objects import Objects
from emporter_runtime.testing import file_store

SMALL = Output(chunk=(16, 32, 32), shard=(32, 64, 64))
SHAPE = (35, 97, 130)


PLANE = (1, 97, 130)


def voxels_of(shape: Shape3, dtype: str, role: str) -> np.ndarray:
    return segments(shape, dtype) if role == "labels" else tissue(shape, dtype)


@pytest.fixture(
    params=[
        ("uint8", "image", "zstd"), ("uint16", "image", "blosc"), ("int16", "image", "blosc"), ("float32", "image", "blosc"),
        ("uint8", "image", "none"), ("uint32", "labels", "zstd"), ("uint64", "labels", "blosc"),
        ("uint8", "image", "zstd", PLANE), ("uint32", "labels", "blosc", PLANE),
    ],
    ids=lambda param: "-".join(map(str, param)),
)  # fmt: skip
def converted(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[np.ndarray, VolumePlan, Path]:
    """The voxels, the plan they were stored by, and the OME-Zarr folder."""
    dtype, role, codec, *shape = request.param
    objects = Objects.open(file_store(tmp_path / "store"))
    voxels = voxels_of(shape[0] if shape else SHAPE, dtype, role)
    plan = a_run(voxels, role=role, output=SMALL.model_copy(update={"codec": codec})).convert(objects)
    return voxels, plan, Path(objects.local_path(storage.VOLUMES, storage.zarr_root(plan.volume, 1)))


def expected(voxels: np.ndarray, plan: VolumePlan) -> list[np.ndarray]:
    """Every level by the rules alone: exact fractions rounded half to even, or the most frequent value, ties to the smallest."""
    levels = [voxels]
    for level in plan.levels[1:]:
        below, factor = levels[-1], level.factor
        made = np.empty(level.shape, voxels.dtype)
        for index in product(*(range(n) for n in level.shape)):
            cell = below[tuple(slice(i * f, i * f + f) for i, f in zip(index, factor, strict=True))].reshape(-1)
            made[index] = _most_frequent(cell) if plan.role == "labels" else _mean(cell)
        levels.append(made)
    return levels


def _most_frequent(cell: np.ndarray) -> Any:
    values, counts = np.unique(cell, return_counts=True)
    return values[np.argmax(counts)]


def _mean(cell: np.ndarray) -> Any:
    if cell.dtype.kind == "f":
        return np.float64(sum(Fraction(float(v)) for v in cell) / cell.size)
    return round(Fraction(sum(int(v) for v in cell), cell.size))


def assert_equal(found: Any, wanted: np.ndarray) -> None:
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(np.asarray(found), wanted)


ZARRS = {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "codec_pipeline.strict": True}
"""Strict: what zarrs can't read is an error, not left to zarr-python."""


def test_every_reader_reads_every_voxel_of_every_level(converted: tuple[np.ndarray, VolumePlan, Path]) -> None:
    voxels, plan, folder = converted
    for k in range(len(plan.levels)):
        store = ts.open({"driver": "zarr3", "kvstore": f"file://{folder}/{k}/"}, open=True, read=True).result()
        wanted = voxels if k == 0 else store.read().result()
        assert_equal(store.read().result(), wanted)
        assert_equal(np.asarray(zarr.open_array(f"{folder}/{k}", mode="r", zarr_format=3)[:]), wanted)
        with zarr.config.set(ZARRS):
            array = zarr.open_array(f"{folder}/{k}", mode="r", zarr_format=3)
            assert "Zarrs" in type(array._async_array.codec_pipeline).__name__
            assert_equal(np.asarray(array[:]), wanted)


def test_ome_zarr_py_reads_every_level_and_its_scale(converted: tuple[np.ndarray, VolumePlan, Path]) -> None:
    voxels, plan, folder = converted
    [image, *_] = list(OmeZarrReader(parse_url(folder, mode="r"))())
    assert len(image.data) == len(plan.levels)
    for k, data in enumerate(image.data):
        assert_equal(data.compute(), voxels if k == 0 else np.asarray(zarr.open_array(f"{folder}/{k}", mode="r")[:]))
    for level, said in zip(plan.levels, image.metadata["coordinateTransformations"], strict=True):
        assert tuple(said[0]["scale"]) == level.scale
    (Image if plan.role == "image" else ImageLabel).from_zarr(zarr.open_group(str(folder), mode="r"))


def test_every_level_is_what_the_rules_say(converted: tuple[np.ndarray, VolumePlan, Path]) -> None:
    voxels, plan, folder = converted
    assert len(plan.levels) > 1
    for k, wanted in enumerate(expected(voxels, plan)):
        found = np.asarray(zarr.open_array(f"{folder}/{k}", mode="r", zarr_format=3)[:])
        if wanted.dtype.kind == "f":
            np.testing.assert_allclose(found, wanted, rtol=2**-22)
        else:
            assert_equal(found, wanted)
