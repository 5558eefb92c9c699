"""Tasks: whole shards, the same bytes whoever writes them, nothing left out, nothing more than asked for."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
from hypothesis import given
from hypothesis import strategies as st

from converter.ngff import create_arrays
from converter.reading import pieces
from converter.shards import ABSENT
from converter.testing import Run, a_run, never, tasks, tissue
from converter.writing import fused_until, write_pass, write_task
from emporter_contracts import storage
from emporter_contracts.commands import Output
from emporter_contracts.events import ShardWritten
from emporter_contracts.geometry import Box
from emporter_contracts.plans import VolumePlan
from emporter_readers.errors import CorruptObjectError
from emporter_runtime.errors import StoppedError
from emporter_runtime.objects import Objects
from emporter_runtime.testing import file_store

OUTPUT = Output(chunk=(16, 16, 16), shard=(32, 32, 32))


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects.open(file_store(tmp_path / "store"))


def written_alone(objects: Objects, run: Run, plan: VolumePlan, level: int, n: int) -> tuple[ShardWritten, ...]:
    return write_pass(objects, plan, 1, range(level, level + 1), n, lambda: run.reader, never)[level]


def stored(objects: Objects) -> dict[str, bytes]:
    """All below the volume's OME-Zarr folder."""
    keys = objects.sizes_sync(storage.VOLUMES, storage.zarr_root("url-brain", 1))
    return {key: objects.get_sync(storage.VOLUMES, key) for key in keys}


def test_a_level_written_alone_is_the_same_bytes_as_in_one_pass_with_the_level_below(tmp_path: Path) -> None:
    run = a_run(tissue((100, 131, 97), "uint16"), output=OUTPUT)
    plan = run.plan().volumes[0]
    assert fused_until(plan, 0) >= 2
    together, alone = (Objects.open(file_store(tmp_path / name)) for name in ("together", "alone"))
    create_arrays(together, plan, 1)
    create_arrays(alone, plan, 1)
    run.write(together, plan)
    by_task = {(k, n): written_alone(alone, run, plan, k, n) for k, n in tasks(plan)}
    assert by_task == run.shards
    assert stored(together) == stored(alone)


def test_a_task_says_the_shards_of_every_level_it_made(objects: Objects) -> None:
    run = a_run(tissue((100, 131, 97)), output=OUTPUT)
    plan = run.plan().volumes[0]
    written = write_task(objects, plan, 1, 0, 0, 0, lambda: run.reader, never)
    assert set(written) == set(range(fused_until(plan, 0) + 1))
    assert all(shard.key.startswith(f"{k}/c/") for k, shards in written.items() for shard in shards)
    keys = {shard.key for shards in written.values() for shard in shards}
    assert {key.removeprefix("url-brain/r1.ome.zarr/") for key in stored(objects)} == keys


def test_a_task_writes_the_shards_of_its_box_and_no_other(objects: Objects) -> None:
    run = a_run(tissue((100, 131, 97)), output=OUTPUT)
    plan = run.plan().volumes[0]
    plan = plan.model_copy(
        update={"levels": (plan.levels[0].model_copy(update={"task": (32, 64, 64), "band": (32, 32, 64)}), *plan.levels[1:])}
    )
    shards = written_alone(objects, run, plan, 0, 7)
    box = plan.levels[0].box(7)
    start, stop = box.start, box.stop
    assert {s.key for s in shards} == {
        f"0/c/{z}/{y}/{x}"
        for z in range(start[0] // 32, -(-stop[0] // 32))
        for y in range(start[1] // 32, -(-stop[1] // 32))
        for x in range(start[2] // 32, -(-stop[2] // 32))
    }
    assert {key.removeprefix("url-brain/r1.ome.zarr/") for key in stored(objects)} == {s.key for s in shards}


@pytest.mark.parametrize("codec", ["zstd", "blosc", "none"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_zeros_are_stored_too(objects: Objects, codec: Any, dtype: str) -> None:
    run = a_run(np.zeros((40, 50, 33), dtype), output=OUTPUT.model_copy(update={"codec": codec}))
    plan = run.plan().volumes[0]
    run.write(objects, plan)
    for k, level in enumerate(plan.levels):
        chunks = [s // c for s, c in zip(level.shard, level.chunk, strict=True)]
        present = 0
        for key, data in stored(objects).items():
            if f"/{k}/c/" in key:
                index = np.frombuffer(data[-16 * int(np.prod(chunks)) - 4 : -4], "<u8").reshape(-1, 2)
                present += int((index[:, 0] != ABSENT).sum())
        assert present == np.prod([-(-n // c) for n, c in zip(level.shape, level.chunk, strict=True)])


def test_a_stopped_task_stops_between_shards(objects: Objects) -> None:
    run = a_run(tissue((100, 131, 97)), output=OUTPUT)
    plan = run.plan().volumes[0]
    calls = 0
    lock = threading.Lock()

    def stop() -> None:
        nonlocal calls
        with lock:
            calls += 1
            if calls > 5:
                raise StoppedError("cancelled")

    before = threading.active_count()
    with pytest.raises(StoppedError):
        write_task(objects, plan, 1, 0, 0, 0, lambda: run.reader, stop)
    assert len(stored(objects)) < 6
    assert threading.active_count() <= before


def test_an_unreadable_source_is_the_error_of_the_task(objects: Objects) -> None:
    class Torn:
        shape, native = (64, 64, 64), a_run(tissue((64, 64, 64))).reader.native
        dtype, voxel_size = np.dtype("uint8"), None

        def read(self, box: Box) -> None:
            raise CorruptObjectError("brain.tif: ends early")

    run = a_run(tissue((64, 64, 64)), output=OUTPUT)
    plan = run.plan().volumes[0]
    with pytest.raises(CorruptObjectError, match=r"brain\.tif"):
        write_task(objects, plan, 1, 0, 0, 0, Torn, never)


def test_a_level_below_that_lost_a_shard_is_an_error_and_not_zeros(objects: Objects) -> None:
    run = a_run(tissue((100, 131, 97)), output=OUTPUT)
    plan = run.plan().volumes[0]
    for n in range(plan.levels[0].tasks):
        written_alone(objects, run, plan, 0, n)
    objects.local_path(storage.VOLUMES, storage.zarr_root("url-brain", 1) + "0/c/1/1/1").unlink()
    with pytest.raises(Exception, match="0/c/1/1/1") as raised:
        written_alone(objects, run, plan, 1, 0)
    assert raised.value.code == "verification_failed"


sizes = st.integers(1, 40)


@given(
    start=st.tuples(sizes, sizes, sizes),
    shape=st.tuples(sizes, sizes, sizes),
    cell=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 50)),
    offset=st.tuples(sizes, sizes, sizes),
    voxels=st.integers(1, 5000),
)
def test_pieces_tile_a_box_and_cut_no_cell(start, shape, cell, offset, voxels) -> None:
    box = Box.at(start, shape)
    found = list(pieces(box, cell, offset, voxels))
    assert sum(piece.size for piece in found) == box.size
    assert all(piece.within(box) for piece in found)
    for piece in found:
        for axis in range(3):
            for edge, end in ((piece.start[axis], box.start[axis]), (piece.stop[axis], box.stop[axis])):
                assert edge == end or (edge + offset[axis]) % cell[axis] == 0


@pytest.mark.parametrize("codec", ["zstd", "blosc", "none"])
def test_a_flipped_bit_anywhere_in_a_shard_is_an_error_and_never_other_voxels(objects: Objects, codec: str) -> None:
    run = a_run(tissue((32, 32, 32), "uint16"), output=OUTPUT.model_copy(update={"codec": codec}))
    plan = run.plan().volumes[0]
    create_arrays(objects, plan, 1)
    run.write(objects, plan)
    key = "url-brain/r1.ome.zarr/0/c/0/0/0"
    whole = objects.get_sync(storage.VOLUMES, key)
    kvstore = objects.kvstore(storage.VOLUMES, "url-brain/r1.ome.zarr/0/")
    for at in range(0, len(whole), max(1, len(whole) // 40)):
        damaged = bytearray(whole)
        damaged[at] ^= 0x10
        objects.put_sync(storage.VOLUMES, key, bytes(damaged))
        with pytest.raises(ValueError, match=r"(?i)digest|checksum|crc|decod|invalid|shard|offset|range"):
            ts.open({"driver": "zarr3", "kvstore": kvstore, "fill_missing_data_reads": False}).result().read().result()
