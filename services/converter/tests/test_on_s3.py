"""The same conversion on a real S3 server: shards by plain PUTs, levels and checks read back through it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorstore as ts

from converter.errors import CorruptVolumeError
from converter.recomputing import recomputed
from converter.testing import a_run, never, tissue
from converter.writing import write_pass
from emporter_contracts import storage
from emporter_contracts.commands import Output
from emporter_runtime.errors import StoreUnavailableError
from emporter_runtime.objects import Objects
from emporter_runtime.settings import StoreSettings
from emporter_runtime.testing import s3_server

OUTPUT = Output(chunk=(16, 32, 32), shard=(32, 64, 64), verify="full")
ROOT = storage.zarr_root("url-brain", 1)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreSettings]:
    with s3_server(tmp_path_factory.mktemp("s3")) as settings:
        yield settings


@pytest.fixture
def objects(s3: StoreSettings, tmp_path: Path) -> Objects:
    # A prefix would need buckets of its own; the volume of each test is removed instead.
    store = Objects.open(s3)
    for key in store.sizes_sync(storage.VOLUMES, ""):
        store.store(storage.VOLUMES).delete(key)
    return store


def by_tensorstore(objects: Objects, level: int) -> np.ndarray:
    spec = {"driver": "zarr3", "kvstore": objects.kvstore(storage.VOLUMES, f"{ROOT}{level}/"), "fill_missing_data_reads": False}
    return ts.open(spec, open=True).result().read().result()


def test_a_volume_comes_back_from_s3_with_its_pyramid(objects: Objects) -> None:
    voxels = tissue((70, 130, 140), "uint16")
    plan = a_run(voxels, output=OUTPUT).convert(objects)
    expected = voxels
    for k, level in enumerate(plan.levels):
        expected = expected if k == 0 else recomputed(expected, level.factor, "image")
        np.testing.assert_array_equal(by_tensorstore(objects, k), expected)


def test_a_level_made_from_what_is_stored_in_s3_is_the_same_bytes(objects: Objects) -> None:
    run = a_run(tissue((70, 130, 140)), output=OUTPUT)
    plan = run.plan().volumes[0]
    run.write(objects, plan)
    for k in range(1, len(plan.levels)):
        for n in range(plan.levels[k].tasks):
            again = write_pass(objects, plan, 1, range(k, k + 1), n, lambda: run.reader, never)
            assert again[k] == run.shards[k, n]


def test_a_lost_shard_is_found_on_s3(objects: Objects) -> None:
    run = a_run(tissue((70, 130, 140)), output=OUTPUT)
    plan = run.plan()
    run.write(objects, plan.volumes[0])
    objects.store(storage.VOLUMES).delete(f"{ROOT}0/c/1/1/1")
    with pytest.raises(CorruptVolumeError, match="0/c/1/1/1"):
        run.finish(objects, plan, run.shards)


def test_a_store_that_is_down_is_a_fault_that_passes(s3: StoreSettings) -> None:
    gone = Objects.open(s3.model_copy(update={"s3_endpoint": "http://127.0.0.1:9"}))
    run = a_run(tissue((20, 30, 40)))
    plan = run.plan().volumes[0]
    with pytest.raises(StoreUnavailableError):
        write_pass(gone, plan, 1, range(1), 0, lambda: run.reader, never)
