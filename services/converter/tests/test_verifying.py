"""Whatever differs is found before the commit; then nothing is committed."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from converter.errors import CorruptVolumeError
from converter.hashing import ordered_boxes
from converter.memory import THREADS
from converter.shards import ShardCodec
from converter.stored import shard_written
from converter.testing import Run, a_run, entered, segments, tissue
from emporter_contracts import storage
from emporter_contracts.commands import Output
from emporter_contracts.geometry import Box
from emporter_contracts.plans import ConversionPlan
from emporter_readers.array import ArrayReader
from emporter_runtime.errors import ConflictError, StoppedError
from emporter_runtime.objects import Objects
from emporter_runtime.testing import file_store

ROOT = storage.zarr_root("url-brain", 1)
OUTPUT = Output(chunk=(16, 32, 32), shard=(32, 64, 64))
FULL = OUTPUT.model_copy(update={"verify": "full"})


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects.open(file_store(tmp_path / "store"))


def converted(objects: Objects, output: Output = OUTPUT) -> tuple[Run, ConversionPlan]:
    run = a_run(tissue((70, 130, 140), "uint16"), output=output)
    plan = run.plan()
    run.write(objects, plan.volumes[0])
    return run, plan


def assert_refused(run: Run, objects: Objects, plan: ConversionPlan, match: str) -> None:
    with pytest.raises(CorruptVolumeError, match=match) as refused:
        run.finish(objects, plan, run.shards)
    assert refused.value.code == "verification_failed"
    assert refused.value.hint
    keys = objects.sizes_sync(storage.VOLUMES, "")
    assert not [k for k in keys if "/commits/" in k or k.endswith(("record.json", ".ome.zarr/zarr.json"))]


@pytest.mark.parametrize("key", ["0/c/1/1/1", "1/c/0/0/0", "2/c/0/0/0"])
def test_a_flipped_bit_in_any_shard_of_any_level_is_found(objects: Objects, key: str) -> None:
    run, plan = converted(objects)
    data = bytearray(objects.get_sync(storage.VOLUMES, ROOT + key))
    data[len(data) // 2] ^= 1
    objects.put_sync(storage.VOLUMES, ROOT + key, bytes(data))
    assert_refused(run, objects, plan, key)


@pytest.mark.parametrize("key", ["0/c/1/1/1", "1/c/0/0/0"])
def test_a_missing_shard_is_found(objects: Objects, key: str) -> None:
    run, plan = converted(objects)
    objects.local_path(storage.VOLUMES, ROOT + key).unlink()
    assert_refused(run, objects, plan, key)


def test_a_shard_that_ends_early_is_found(objects: Objects) -> None:
    run, plan = converted(objects)
    objects.put_sync(storage.VOLUMES, ROOT + "0/c/0/0/1", objects.get_sync(storage.VOLUMES, ROOT + "0/c/0/0/1")[:-1])
    assert_refused(run, objects, plan, "0/c/0/0/1")


def test_a_shard_that_nobody_planned_is_found(objects: Objects) -> None:
    run, plan = converted(objects)
    objects.put_sync(storage.VOLUMES, ROOT + "0/c/9/9/9", b"stray")
    assert_refused(run, objects, plan, "0/c/9/9/9")


def test_a_ledger_that_lacks_a_task_is_found(objects: Objects) -> None:
    run, plan = converted(objects)
    run.shards.pop((1, 0))
    assert_refused(run, objects, plan, "1/c/")


def replaced(run: Run, objects: Objects, plan: ConversionPlan, level: int, voxels: np.ndarray) -> None:
    """Store other voxels in the first shard of a level, with a ledger that says so: all checksums are right."""
    volume = plan.volumes[0]
    codec = ShardCodec(volume.levels[level], volume.dtype, volume.codec)
    data = codec.encode((0, 0, 0), voxels)
    key = storage.shard_key(level, (0, 0, 0))
    objects.put_sync(storage.VOLUMES, ROOT + key, data)
    for task, shards in run.shards.items():
        run.shards[task] = tuple(shard_written(key, data) if s.key == key else s for s in shards)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_one_wrong_voxel_with_a_right_checksum_is_found_when_all_is_verified(objects: Objects, level: int) -> None:
    run, plan = converted(objects, FULL)
    codec = ShardCodec(plan.volumes[0].levels[level], "uint16", plan.volumes[0].codec)
    key = ROOT + storage.shard_key(level, (0, 0, 0))
    box = codec.box((0, 0, 0))
    voxels = codec.decode((0, 0, 0), objects.get_sync(storage.VOLUMES, key), box).copy()
    voxels[3, 4, 5] ^= 1
    replaced(run, objects, plan, level, voxels)
    assert_refused(run, objects, plan, f"level {level}")


def test_a_sample_finds_axes_in_another_order(objects: Objects) -> None:
    run, plan = converted(objects)
    swapped = np.ascontiguousarray(run.reader.array[:, ::-1, :])
    run.reader = ArrayReader(swapped, native=run.reader.native)
    assert_refused(run, objects, plan, "level 0")


def test_a_sample_finds_a_pyramid_that_was_cut_instead_of_averaged(objects: Objects) -> None:
    run, plan = converted(objects)
    level = plan.volumes[0].levels[1]
    shard = Box.whole(level.shape).overlap(Box.at((0, 0, 0), level.shard))
    replaced(run, objects, plan, 1, np.ascontiguousarray(run.reader.array[::2, ::2, ::2][shard.slices()]))
    assert_refused(run, objects, plan, "level [12]")


def test_labels_are_verified_too(objects: Objects) -> None:
    run = a_run(segments((70, 100, 90)), role="labels", output=FULL)
    run.convert(objects)


def test_a_revision_committed_with_other_shards_is_never_overwritten(objects: Objects) -> None:
    run, plan = converted(objects)
    run.finish(objects, plan, run.shards)
    before = objects.get_sync(storage.VOLUMES, storage.commit("url-brain", 1))
    replaced(run, objects, plan, 0, np.zeros((32, 64, 64), np.uint16))
    with pytest.raises(ConflictError):
        run.finish(objects, plan, run.shards)
    assert objects.get_sync(storage.VOLUMES, storage.commit("url-brain", 1)) == before


def test_a_stopped_finish_commits_nothing(objects: Objects) -> None:
    run, plan = converted(objects)
    from converter.finishing import finish_volume

    def stop() -> None:
        raise StoppedError("cancelled")

    with pytest.raises(StoppedError):
        finish_volume(
            objects, run.fetch, run.manifest, plan, run.volume, run.request, entered(plan, run.shards), lambda: run.reader, stop
        )
    assert not [k for k in objects.sizes_sync(storage.VOLUMES, "") if "/commits/" in k]


@pytest.mark.parametrize("memory", [1, 100, 5000, 40_000, 10**6, 10**9])
def test_ordered_boxes_follow_one_another_in_c_order_within_the_memory(memory: int) -> None:
    shape = (70, 33, 41)
    voxels = np.arange(np.prod(shape)).reshape(shape)
    boxes = list(ordered_boxes(shape, (32, 16, 16), 8, memory))
    np.testing.assert_array_equal(np.concatenate([voxels[b.slices()].reshape(-1) for b in boxes]), voxels.reshape(-1))
    assert all(b.size * 8 * 2 <= memory or b.shape[:2] == (1, 1) for b in boxes)


def test_small_shards_are_looked_through_many_requests_at_a_time(objects: Objects, tmp_path: Path) -> None:
    run, plan = converted(objects)
    waiting, most = 0, 0
    changed = threading.Condition()

    class Far(Objects):
        def get_sync(self, bucket: str, key: str) -> bytes:
            nonlocal waiting, most
            if "/0/c/" in key:
                with changed:
                    waiting += 1
                    most = max(most, waiting)
                    changed.notify_all()
                    # As far as it comes: a store that answers only when nobody else asks.
                    changed.wait_for(lambda: most > THREADS + 1, timeout=5)
                    waiting -= 1
            return super().get_sync(bucket, key)

    run.finish(Far.open(file_store(tmp_path / "store")), plan, run.shards)
    assert most > THREADS + 1
