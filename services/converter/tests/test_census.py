"""What tasks count in passing, put together, is what a count of the whole volume is; nobody has to trust what one left."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import zarr

from converter import census as census_module
from converter import occupancy
from converter.census import Census, read_census
from converter.digesting import sum_of
from converter.gathering import gather
from converter.statistics import counter
from converter.testing import Run, a_run, never, tissue
from emporter_contracts import storage
from emporter_contracts.commands import Output
from emporter_contracts.geometry import Box, Shape3
from emporter_contracts.plans import VolumePlan
from emporter_contracts.records import MetadataRecord, Statistics
from emporter_readers.array import ArrayReader
from emporter_runtime.objects import Objects
from emporter_runtime.testing import file_store

OUTPUT = Output(chunk=(8, 16, 16), shard=(16, 32, 32))
SHAPE = (50, 70, 90)


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects.open(file_store(tmp_path / "store"))


def in_tasks(run: Run, task: Shape3 = (16, 32, 64)) -> VolumePlan:
    """The plan, its level 0 in many tasks, none above made in the same pass."""
    plan = run.plan().volumes[0]
    first, *above = (level.model_copy(update={"fused": False}) for level in plan.levels)
    return plan.model_copy(update={"levels": (first.model_copy(update={"task": task, "band": None}), *above)})


def volume(dtype: str) -> np.ndarray:
    voxels = tissue(SHAPE, dtype)
    voxels[:20, 10:40] = 0
    if voxels.dtype.kind == "f":
        voxels[3, 3, 3], voxels[4, 4, 4], voxels[5, 5, 5] = np.nan, np.inf, -np.inf
    return voxels


def whole(voxels: np.ndarray) -> Statistics:
    counts = counter(voxels.dtype)
    counts.add(voxels)
    return counts.statistics(window=True)


def censuses(plan: VolumePlan) -> list[str]:
    return [storage.census(plan.volume, 1, n) for n in range(plan.levels[0].tasks)]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "uint32", "int64", "float32", "float64"])
def test_the_counts_of_all_tasks_are_those_of_the_volume(objects: Objects, dtype: str) -> None:
    voxels = volume(dtype)
    run = a_run(voxels, output=OUTPUT)
    plan = in_tasks(run)
    run.write(objects, plan)
    assert len(censuses(plan)) > 20
    found, expected = gather(objects, plan, 1, 0, never).statistics, whole(voxels)
    assert found.mean == pytest.approx(expected.mean, rel=1e-12)
    assert found.std == pytest.approx(expected.std, rel=1e-12)
    moments = {"mean": None, "std": None}
    assert found.model_copy(update=moments) == expected.model_copy(update=moments)


def test_a_task_that_reaches_over_several_pieces_of_the_index_counts_once(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(occupancy, "PIECE", 8)
    monkeypatch.setattr(occupancy, "EDGE", 3)
    voxels = volume("uint16")
    run = a_run(voxels, output=OUTPUT)
    plan = in_tasks(run, (32, 64, 64))
    run.write(objects, plan)
    counted = gather(objects, plan, 1, 0, never)
    assert len(counted.occupancy) > 7
    assert counted.statistics == whole(voxels)
    index = zarr.open_array(str(objects.local_path(storage.VOLUMES, storage.occupancy(plan.volume, 1))), mode="r", zarr_format=3)
    expected = [np.count_nonzero(voxels[box.slices()]) for box in Box.whole(SHAPE).tiles((8, 16, 16))]
    np.testing.assert_array_equal(np.asarray(index[:]).reshape(-1), expected)


def ended_early(data: bytes) -> bytes:
    return data[:-30]


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def of_another_version(data: bytes) -> bytes:
    return changed(data, version=np.array(census_module.VERSION + 1))


def short_of_a_voxel(data: bytes) -> bytes:
    counts = np.load(io.BytesIO(data))["counts"].copy()
    counts[counts.argmax()] -= 1
    return changed(data, counts=counts)


def of_a_smaller_task(data: bytes) -> bytes:
    return changed(data, occupancy=np.zeros((1, 1, 1), np.uint32))


def of_another_dtype(data: bytes) -> bytes:
    return changed(data, counts=np.zeros(3, np.int64))


def a_pickle(data: bytes) -> bytes:
    return changed(data, counts=np.array([print], object))


def nothing(_: bytes) -> bytes:
    return b""


def changed(data: bytes, **arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    with np.load(io.BytesIO(data)) as said:
        np.savez_compressed(file, **{**said, **arrays})
    return file.getvalue()


BROKEN = [ended_early, flipped, of_another_version, short_of_a_voxel, of_a_smaller_task, of_another_dtype, a_pickle, nothing]


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_not_the_census_of_a_task_is_taken_for_none(objects: Objects, broken) -> None:
    run = a_run(volume("uint8"), output=OUTPUT)
    plan = in_tasks(run)
    run.write_task(objects, plan, 0, 1)
    data = objects.get_sync(storage.VOLUMES, censuses(plan)[1])
    assert read_census(data, plan, 1, 0) is not None
    assert read_census(broken(data), plan, 1, 0) is None


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_tasks_without_a_census_are_counted_again(objects: Objects, dtype: str) -> None:
    run = a_run(volume(dtype), output=OUTPUT)
    plan = in_tasks(run)
    run.write(objects, plan)
    first = gather(objects, plan, 1, 0, never)
    lost, torn, *_ = censuses(plan)
    objects.local_path(storage.VOLUMES, lost).unlink()
    objects.put_sync(storage.VOLUMES, torn, b"torn")
    again = gather(objects, plan, 1, 0, never)
    assert again == first
    assert sum_of(objects.get_sync(storage.VOLUMES, torn)) == first.censuses["census/1.npz"]


def test_a_run_of_an_older_converter_is_finished_without_any(objects: Objects) -> None:
    voxels = volume("uint16")
    run = a_run(voxels, output=OUTPUT)
    plan = run.plan()
    run.write(objects, plan.volumes[0])
    for key in censuses(plan.volumes[0]):
        objects.local_path(storage.VOLUMES, key).unlink()
    run.finish(objects, plan, run.shards)
    record = MetadataRecord.model_validate_json(objects.get_sync(storage.VOLUMES, storage.record(run.volume, 1)))
    assert record.metadata.technical.statistics == whole(voxels)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_two_workers_leave_the_same_census_in_whatever_order_they_count(objects: Objects, dtype: str) -> None:
    voxels = volume(dtype)
    run = a_run(voxels, output=OUTPUT)
    plan = run.plan().volumes[0]
    run.write_task(objects, plan, 0, 0)
    counted, backwards = objects.get_sync(storage.VOLUMES, censuses(plan)[0]), Census(plan, 0, 0)
    for shard in reversed(list(plan.levels[0].box(0).tiles(plan.levels[0].shard))):
        backwards.add(shard, voxels[shard.slices()])
    assert backwards.encoded() == counted


def test_the_first_census_of_a_task_stays(objects: Objects) -> None:
    run = a_run(volume("uint8"), output=OUTPUT)
    plan = in_tasks(run)
    objects.put_sync(storage.VOLUMES, censuses(plan)[0], b"the first")
    run.write_task(objects, plan, 0, 0)
    assert objects.get_sync(storage.VOLUMES, censuses(plan)[0]) == b"the first"


def test_every_task_of_level_0_leaves_a_census_and_no_other(objects: Objects) -> None:
    run = a_run(volume("uint8"), output=OUTPUT)
    plan = in_tasks(run)
    run.write(objects, plan)
    assert sum(level.tasks for level in plan.levels) > plan.levels[0].tasks
    assert sorted(objects.sizes_sync(storage.VOLUMES, f"{plan.volume}/r1/")) == sorted(censuses(plan))


def test_wide_numbers_keep_their_ends_to_the_last_digit(objects: Objects) -> None:
    voxels = np.full((16, 32, 32), 2**63 + 5, np.uint64)
    voxels[0, 0, 0], voxels[1, 1, 1] = 2**53 + 1, 2**64 - 1
    run = a_run(voxels, output=OUTPUT)
    run.reader = ArrayReader(voxels)
    plan = in_tasks(run, (16, 32, 32))
    run.write(objects, plan)
    found = gather(objects, plan, 1, 0, never).statistics
    assert (int(found.minimum or 0), int(found.maximum or 0)) == (2**53 + 1, 2**64 - 1)
