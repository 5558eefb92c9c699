"""A whole conversion, read back by others: what an archive served is what lies in the store."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import tensorstore as ts
import zarr

from converter.recomputing import recomputed
from converter.testing import a_run, segments, tissue
from emporter_contracts import storage
from emporter_contracts.commands import Output
from emporter_contracts.geometry import Box, VoxelSize
from emporter_contracts.plans import Commit, VolumePlan
from emporter_contracts.records import MetadataRecord
from emporter_runtime.objects import Objects
from emporter_runtime.testing import file_store

DTYPES = [
    "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64",
]  # fmt: skip


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects.open(file_store(tmp_path / "store"))


def by_zarr(objects: Objects, level: int) -> np.ndarray:
    path = objects.local_path(storage.VOLUMES, storage.zarr_root("url-brain", 1))
    return np.asarray(zarr.open_group(path, mode="r")[str(level)][:])


def by_tensorstore(objects: Objects, level: int) -> np.ndarray:
    kvstore = objects.kvstore(storage.VOLUMES, storage.zarr_root("url-brain", 1) + f"{level}/")
    spec = {"driver": "zarr3", "kvstore": kvstore, "fill_missing_data_reads": False}
    return ts.open(spec, open=True).result().read().result()


def record_of(objects: Objects) -> MetadataRecord:
    return MetadataRecord.model_validate_json(objects.get_sync(storage.VOLUMES, storage.record("url-brain", 1)))


def assert_stored(objects: Objects, plan: VolumePlan, voxels: np.ndarray) -> None:
    """Every level is what it must be, by two readers that share no code with each other."""
    expected = voxels
    for k, level in enumerate(plan.levels):
        expected = expected if k == 0 else recomputed(expected, level.factor, plan.role)
        for read in (by_zarr, by_tensorstore):
            stored = read(objects, k)
            assert stored.dtype == voxels.dtype
            np.testing.assert_array_equal(stored, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_image_of_every_dtype_comes_back_voxel_for_voxel_with_its_pyramid(objects: Objects, dtype: str) -> None:
    voxels = tissue((70, 131, 97), dtype)
    plan = a_run(voxels, output=Output(chunk=(32, 32, 32))).convert(objects)
    assert len(plan.levels) > 2
    assert_stored(objects, plan, voxels)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64", "int32"])
def test_labels_come_back_with_a_pyramid_of_modes(objects: Objects, dtype: str) -> None:
    labels = segments((70, 131, 97), dtype)
    assert_stored(objects, a_run(labels, role="labels").convert(objects), labels)


@pytest.mark.parametrize(
    "shape", [(1, 700, 900), (2, 300, 301), (16, 257, 130), (65, 130, 200), (1, 1, 1), (1, 1, 5000), (3000, 1, 3), (200, 5, 5)]
)
def test_thin_and_odd_volumes_come_back(objects: Objects, shape: tuple[int, int, int]) -> None:
    voxels = tissue(shape, "uint16")
    assert_stored(objects, a_run(voxels).convert(objects), voxels)


def test_a_volume_of_many_shards_tasks_and_fused_levels_comes_back(objects: Objects) -> None:
    voxels = tissue((150, 260, 300), "uint8")
    output = Output(chunk=(16, 32, 32), shard=(32, 64, 64))
    plan = a_run(voxels, output=output).convert(objects)
    assert [level.fused for level in plan.levels].count(True) >= 2
    assert_stored(objects, plan, voxels)


def test_a_region_of_a_chunked_source_comes_back(objects: Objects) -> None:
    voxels = tissue((90, 200, 300), "uint16")
    region = Box.at((7, 33, 101), (80, 150, 180))
    plan = a_run(voxels, native=(32, 64, 64), region=region, voxel_size=VoxelSize.said("file", (40, 4, 4))).convert(objects)
    assert_stored(objects, plan, voxels[region.slices()])
    assert plan.levels[0].translation == (7 * 40, 33 * 4, 101 * 4)
    assert record_of(objects).metadata.core.source_origin == (7, 33, 101)


def test_the_record_tells_hash_statistics_and_where_it_came_from(objects: Objects) -> None:
    voxels = tissue((20, 100, 120), "int16")
    run = a_run(voxels, voxel_size=VoxelSize.said("user", (50, 8, None)))
    run.convert(objects)
    record = record_of(objects)
    technical, core = record.metadata.technical, record.metadata.core
    assert technical.sha256 == hashlib.sha256(voxels.tobytes()).hexdigest()
    assert technical.file_size_bytes == voxels.nbytes
    assert core.voxel_size_nm == (50, 8, None)
    assert core.volume_shape == (20, 100, 120)
    assert technical.statistics is not None
    assert (technical.statistics.minimum, technical.statistics.maximum) == (voxels.min(), voxels.max())
    assert record.metadata.quality.verified == "sample"
    assert record.metadata.provenance.objects[0].sha256 == "0" * 64
    assert {c.code for c in record.caveats} == {"voxel_size_unknown", "isotropy_assumed"}
    assert record.additional_metadata["url_metadata"] == {"doi": "10.1/brain", "n": str(2**60), "bad": None}
    assert record.status == "complete"


def test_verify_full_compares_every_voxel_of_every_level(objects: Objects) -> None:
    voxels = tissue((70, 90, 100), "uint64")
    plan = a_run(voxels, output=Output(verify="full")).convert(objects)
    quality = record_of(objects).metadata.quality
    assert quality.verified == "full"
    assert quality.voxels_compared == sum(np.prod(level.shape) for level in plan.levels)


def test_a_second_finisher_changes_nothing(objects: Objects) -> None:
    run = a_run(tissue((20, 100, 120)))
    run.convert(objects)
    before = stored_bytes(objects)
    run.finish(objects, run.plan(), run.shards)
    assert stored_bytes(objects) == before


def test_a_finisher_killed_before_the_commit_is_repeated_with_the_same_record(objects: Objects) -> None:
    run = a_run(tissue((20, 100, 120)))
    run.convert(objects)
    committed = objects.local_path(storage.VOLUMES, storage.commit("url-brain", 1))
    group = objects.local_path(storage.VOLUMES, storage.zarr_root("url-brain", 1) + "zarr.json")
    record = objects.get_sync(storage.VOLUMES, storage.record("url-brain", 1))
    before = committed.read_bytes()
    committed.unlink()
    group.unlink()
    run.finish(objects, run.plan(), run.shards)
    assert committed.read_bytes() == before
    assert group.exists()
    assert objects.get_sync(storage.VOLUMES, storage.record("url-brain", 1)) == record


def test_the_commit_names_the_digest_and_comes_last(objects: Objects) -> None:
    run = a_run(tissue((20, 100, 120)))
    plan = run.plan()
    run.write(objects, plan.volumes[0])
    assert not any("commits" in key or "record" in key for key in stored_bytes(objects))
    digest = run.finish(objects, plan, run.shards)
    commit = Commit.model_validate_json(objects.get_sync(storage.VOLUMES, storage.commit("url-brain", 1)))
    assert (commit.digest, commit.volume, commit.revision, commit.job) == (digest, "url-brain", 1, "url-brain")
    assert json.loads(objects.get_sync(storage.VOLUMES, storage.digests("url-brain", 1)))["digest"] == digest


def test_two_conversions_of_the_same_voxels_are_the_same_bytes(tmp_path: Path) -> None:
    voxels = tissue((70, 131, 200), "uint16")
    kept = []
    for name in ("a", "b"):
        store = Objects.open(file_store(tmp_path / name))
        a_run(voxels).convert(store)
        kept.append({k: v for k, v in stored_bytes(store).items() if ".ome.zarr" in k or "digests" in k})
    assert kept[0] == kept[1]


def test_an_in_memory_store_passes_as_well() -> None:
    run = a_run(tissue((70, 131, 97), "uint16"))
    memory = Objects.in_memory()
    run.convert(memory)
    assert record_of(memory).metadata.quality.verified == "sample"


def stored_bytes(objects: Objects) -> dict[str, bytes]:
    return {key: objects.get_sync(storage.VOLUMES, key) for key in objects.sizes_sync(storage.VOLUMES, "")}
