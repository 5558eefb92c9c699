"""The index of where there is anything, against numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorstore as ts
import zarr

from converter import occupancy
from converter.testing import Run, a_run, a_volume, run_of, tissue
from emporter_contracts import storage
from emporter_contracts.commands import Output
from emporter_contracts.fills import Fill
from emporter_contracts.geometry import Box, Shape3
from emporter_contracts.plans import Role
from emporter_contracts.records import MetadataRecord
from emporter_readers.array import ArrayReader
from emporter_runtime.objects import Objects
from emporter_runtime.testing import file_store


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects.open(file_store(tmp_path / "store"))


def counted(voxels: np.ndarray, chunk: Shape3) -> np.ndarray:
    """Chunk by chunk."""
    grid = [-(-n // c) for n, c in zip(voxels.shape, chunk, strict=True)]
    there = [np.count_nonzero(voxels[box.slices()]) for box in Box.whole(voxels.shape).tiles(chunk)]
    return np.array(there).reshape(grid)


def patchy(shape: Shape3, dtype: str) -> np.ndarray:
    """Tissue with holes: whole chunks, and parts of some, are 0."""
    voxels = tissue(shape, dtype)
    voxels[: shape[0] // 3, : shape[1] // 2] = 0
    voxels[:, :, -shape[2] // 4 :] = 0
    voxels[shape[0] // 2, shape[1] // 2, shape[2] // 2] = 1
    return voxels


@pytest.mark.parametrize(
    ("shape", "dtype", "output"),
    [
        ((70, 130, 140), "uint16", Output(chunk=(16, 32, 32), shard=(32, 64, 64))),
        ((1, 300, 257), "uint8", Output()),
        ((65, 65, 65), "uint8", Output()),
        ((300, 40, 30), "float32", Output(chunk=(300, 8, 8), shard=(300, 16, 16))),
        ((33, 50, 70), "int16", Output(chunk=(7, 9, 11), shard=(14, 18, 22))),
        ((40, 60, 80), "uint32", Output(chunk=(16, 16, 16), shard=(16, 32, 32))),
    ],
)
def test_every_chunk_is_counted_exactly(objects: Objects, shape: Shape3, dtype: str, output: Output) -> None:
    run = a_run(patchy(shape, dtype), output=output)
    plan = run.convert(objects)
    chunk = plan.levels[0].chunk
    stored = zarr.open_array(str(objects.local_path(storage.VOLUMES, storage.occupancy(plan.volume, 1))), mode="r", zarr_format=3)
    assert stored.dtype == np.uint32
    np.testing.assert_array_equal(np.asarray(stored[:]), counted(run.reader.array, chunk))
    assert stored.attrs.asdict() == {"chunk_shape": list(chunk), "volume_shape": list(shape), "fill_value": 0}


def test_a_large_index_is_stored_in_pieces_that_another_reader_joins(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(occupancy, "PIECE", 8)
    monkeypatch.setattr(occupancy, "EDGE", 3)
    run = a_run(patchy((50, 60, 70), "uint8"), output=Output(chunk=(8, 16, 16), shard=(16, 32, 32)))
    plan = run.convert(objects)
    folder = objects.local_path(storage.VOLUMES, storage.occupancy(plan.volume, 1))
    spec = {"driver": "zarr3", "kvstore": f"file://{folder}/", "fill_missing_data_reads": False}
    stored = ts.open(spec, open=True, read=True).result()
    np.testing.assert_array_equal(stored.read().result(), counted(run.reader.array, (8, 16, 16)))
    assert len([f for f in Path(folder).rglob("*") if f.is_file()]) > 7


def test_voxels_that_are_no_numbers_are_something_and_zeros_of_either_sign_are_not(objects: Objects) -> None:
    voxels = np.zeros((8, 8, 8), np.float32)
    voxels[0, 0, 0], voxels[1, 1, 1], voxels[2, 2, 2] = np.nan, -0.0, -1
    run = a_run(voxels)
    run.reader = ArrayReader(voxels)
    plan = run.convert(objects)
    folder = objects.local_path(storage.VOLUMES, storage.occupancy(plan.volume, 1))
    assert int(zarr.open_array(str(folder), mode="r")[0, 0, 0]) == 2


def filled(voxels: np.ndarray, fill: Fill, role: Role = "image") -> Run:
    """A run over a source that is filled with something."""
    volume = a_volume(voxels.shape, voxels.dtype.name, role=role).model_copy(update={"fill_value": fill})
    return run_of(ArrayReader(voxels), volume)


@pytest.mark.parametrize(
    ("dtype", "fill", "role", "counted", "expected"),
    [
        ("uint8", 255, "image", 255, 512 - 64),
        ("float32", "NaN", "image", "NaN", 512 - 64),
        ("uint8", 255, "labels", 0, 64 + 8),
        ("uint8", 0, "image", 0, 64 + 8),
    ],
)
def test_what_the_source_is_filled_with_is_no_foreground_but_of_labels(
    objects: Objects, dtype: str, fill: Fill, role: Role, counted: Fill, expected: int
) -> None:
    voxels = np.zeros((8, 8, 8), dtype)
    voxels[0] = np.nan if fill == "NaN" else 255
    voxels[1, 0] = 3
    run = filled(voxels, fill, role)
    plan = run.convert(objects)
    index = zarr.open_array(str(objects.local_path(storage.VOLUMES, storage.occupancy(plan.volume, 1))), mode="r", zarr_format=3)
    assert (int(index[0, 0, 0]), index.attrs["fill_value"]) == (expected, counted)
    record = MetadataRecord.model_validate_json(objects.get_sync(storage.VOLUMES, storage.record(plan.volume, 1)))
    assert record.metadata.technical.fill_value == fill
