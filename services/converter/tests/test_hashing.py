"""Large planes are hashed each for itself, with every chunk decoded once; all others in C order, as anybody does it."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from converter import finishing, hashing
from converter.auditing import audit, audited
from converter.hashing import Order, boxes_in, order_of, voxel_hash, wanted_voxels
from converter.slices import SliceCounter, SliceFacts
from converter.testing import Run, a_run, tissue
from emporter_contracts import storage
from emporter_contracts.commands import Output
from emporter_contracts.geometry import Box, Shape3
from emporter_contracts.ids import VolumeRef
from emporter_contracts.plans import LevelPlan
from emporter_contracts.records import MetadataRecord
from emporter_runtime.objects import Objects, json_bytes
from emporter_runtime.testing import file_store

MIB = 2**20
SHAPE, OUTPUT = (70, 130, 90), Output(chunk=(16, 16, 32), shard=(32, 64, 64))


def level(shape: Shape3, chunk: Shape3, shard: Shape3) -> LevelPlan:
    one = (1.0, 1.0, 1.0)
    return LevelPlan(shape=shape, chunk=chunk, shard=shard, task=shard, scale=one, translation=(0.0, 0.0, 0.0))


def of_planes(voxels: np.ndarray) -> str:
    planes = [hashlib.sha256(np.ascontiguousarray(plane).tobytes()).digest() for plane in voxels]
    return hashlib.sha256(b"".join(planes)).hexdigest()


@pytest.mark.parametrize(
    ("shape", "shard", "order"),
    [
        ((165, 768, 1024), (64, 512, 512), "C"),
        ((1000, 4096, 4096), (64, 512, 512), "C"),
        ((1000, 10_000, 10_000), (64, 512, 512), "planes"),
        ((100_000, 100_000, 100_000), (256, 256, 256), "planes"),
        ((1, 60_000, 60_000), (1, 4096, 4096), "C"),
        ((3, 60_000, 60_000), (4, 2048, 2048), "C"),
    ],
)
def test_the_plain_hash_is_taken_where_it_costs_few_decodes(shape: Shape3, shard: Shape3, order: Order) -> None:
    chunk = (min(shard[0], 64), 64, 64)
    assert order_of(level(shape, chunk, shard), 1, 832 * MIB) == order


@pytest.mark.parametrize("memory", [3000, 30_000, 100_000, 400_000, 10**7])
@pytest.mark.parametrize("shape", [(70, 130, 90), (33, 64, 40), (5, 300, 33)])
def test_bands_hold_every_voxel_once_in_the_order_of_rows_within_the_memory(memory: int, shape: Shape3) -> None:
    plan = level(shape, (16, 16, 32), (32, 64, 64))
    boxes = list(boxes_in("planes", plan, 1, memory))
    seen = np.zeros(shape, np.uint8)
    for box in boxes:
        seen[box.slices()] += 1
    assert seen.all()
    assert seen.max() == 1
    assert boxes == sorted(boxes, key=lambda box: box.start)
    assert all(box.shape[2] == shape[2] for box in boxes)
    assert all(box.size <= wanted_voxels(plan.shard, 1, memory) or box.shape[1] == 1 for box in boxes)


@pytest.mark.parametrize(("memory", "aligned"), [(10**7, 64), (1_600_000, 64), (800_000, 32), (400_000, 16)])
def test_bands_cut_no_shard_where_they_can_and_else_no_chunk(memory: int, aligned: int) -> None:
    plan = level((70, 640, 90), (16, 16, 32), (32, 64, 64))
    rows = {box.start[1] for box in boxes_in("planes", plan, 1, memory)}
    assert math.gcd(*rows, 64) == aligned


@pytest.mark.parametrize("order", ["C", "planes"])
@pytest.mark.parametrize("dtype", ["uint8", ">u2", "float32"])
def test_a_hash_is_that_of_hashlib_however_the_boxes_are_cut(order: Order, dtype: str) -> None:
    voxels = tissue(SHAPE, np.dtype(dtype).name).astype(dtype)
    little = voxels.astype(voxels.dtype.newbyteorder("<"))
    plan = level(SHAPE, (16, 16, 32), (32, 64, 64))
    expected = hashlib.sha256(little.tobytes()).hexdigest() if order == "C" else of_planes(little)
    for memory in (5000, 100_000, 10**8):
        found = voxel_hash(order, SHAPE)
        for box in boxes_in(order, plan, voxels.itemsize, memory):
            found.add(np.ascontiguousarray(voxels[box.slices()]))
        assert found.hexdigest() == expected


def facts(voxels: np.ndarray, boxes: list[Box]) -> SliceFacts:
    counter = SliceCounter(voxels.shape, voxels.dtype)
    for box in boxes:
        counter.add(np.ascontiguousarray(voxels[box.slices()]))
    return counter.facts


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_slices_seen_in_bands_are_those_seen_whole(dtype: str) -> None:
    voxels = tissue((20, 300, 280), dtype)
    plan = level(voxels.shape, (8, 16, 32), (8, 64, 64))
    whole = facts(voxels, list(Box.whole(voxels.shape).tiles((1, 300, 280))))
    banded = facts(voxels, list(boxes_in("planes", plan, voxels.itemsize, 800_000)))
    assert len(list(boxes_in("planes", plan, voxels.itemsize, 800_000))) > 10
    assert banded.mean == pytest.approx(whole.mean, rel=1e-9)
    assert banded.std == pytest.approx(whole.std, rel=1e-6)
    assert (banded.crc32c, banded.zero_share, banded.saturated_share) == (whole.crc32c, whole.zero_share, whole.saturated_share)
    assert (banded.likeness, banded.shift, banded.aligned) == (whole.likeness, whole.shift, whole.aligned)


class Counted(Objects):
    """Counts what is asked for of level 0."""

    gets: Counter[str]

    def get_sync(self, bucket: str, key: str) -> bytes:
        if "/0/c/" in key:
            self.gets[key] += 1
        return super().get_sync(bucket, key)


def finished_in_bands(folder: Path, monkeypatch: pytest.MonkeyPatch, voxels: np.ndarray) -> tuple[Run, Counted, MetadataRecord]:
    monkeypatch.setattr(hashing, "DECODES", 0)
    monkeypatch.setattr(finishing, "working_memory", lambda _: 3_600_000)
    objects = Counted.open(file_store(folder / "store"))
    objects.gets = Counter()
    run = a_run(voxels, output=OUTPUT)
    plan = run.plan()
    run.write(objects, plan.volumes[0])
    objects.gets.clear()
    monkeypatch.setattr(finishing, "_read_back", lambda *_: finishing.sampled(1))
    run.finish(objects, plan, run.shards)
    objects.put_sync(storage.RAW, storage.conversion(run.fetch.job, 1), json_bytes(plan))
    objects.put_sync(storage.RAW, storage.plan(run.fetch.job, 1), json_bytes(run.fetch.model_copy(update={"archive": {}})))
    objects.put_sync(storage.RAW, storage.manifest(run.fetch.job, 1), json_bytes(run.manifest.model_copy(update={"archive": {}})))
    body = objects.get_sync(storage.VOLUMES, storage.record(run.volume, 1))
    return run, objects, MetadataRecord.model_validate_json(body)


def test_a_volume_of_large_planes_is_read_once_and_says_how_it_was_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    voxels = tissue(SHAPE, "uint16")
    _, objects, record = finished_in_bands(tmp_path, monkeypatch, voxels)
    technical = record.metadata.technical
    assert (technical.sha256, technical.planes_sha256) == (None, of_planes(voxels))
    assert set(objects.gets.values()) == {1}


def test_an_audit_takes_the_hash_as_it_was_taken_and_finds_a_wrong_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    voxels = tissue(SHAPE, "uint16")
    run, objects, _ = finished_in_bands(tmp_path, monkeypatch, voxels)
    revision = audited(objects, VolumeRef.parse(run.volume))
    found = {finding.what: finding for finding in audit(objects, revision, {})}
    assert found["voxels"].well
    assert found["voxels"].found == f"sha256 {of_planes(voxels)} of its planes"
    revision.digests["voxels"]["sha256"] = hashlib.sha256(voxels.tobytes()).hexdigest()
    found = {finding.what: finding for finding in audit(objects, revision, {})}
    assert not found["voxels"].well


def test_a_finisher_that_comes_after_a_killed_one_knows_the_voxels_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, objects, _ = finished_in_bands(tmp_path, monkeypatch, tissue(SHAPE))
    before = {key: objects.get_sync(storage.VOLUMES, key) for key in objects.sizes_sync(storage.VOLUMES, run.volume + "/r1/")}
    objects.local_path(storage.VOLUMES, storage.commit(run.volume, 1)).unlink()
    run.finish(objects, run.plan(), run.shards)
    assert {key: objects.get_sync(storage.VOLUMES, key) for key in before} == before
