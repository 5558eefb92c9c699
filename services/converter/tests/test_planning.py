"""Plans: every voxel in exactly one task, every task whole shards, and within the memory."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from converter.errors import TooLittleMemoryError
from converter.memory import BASE_BYTES, MIB, PROCESS_BYTES, working_memory
from converter.planning import lay_out
from converter.pyramid import ladder
from converter.testing import AS_PLANNED, a_run, a_volume, tissue
from emporter_contracts.commands import Output
from emporter_contracts.geometry import ChunkGrid, VoxelSize, grid_shape
from emporter_contracts.plans import LevelPlan, VolumePlan

GIB = 2**30
edges = st.one_of(st.integers(1, 200), st.integers(1, 20_000))
shapes = st.tuples(edges, edges, edges).filter(lambda s: math.prod(s) < 2**34)
cells = st.one_of(
    st.just((1, 1, 2**20)), st.just((1, 16, 2**20)), st.just((1, 2**20, 2**20)), st.just((64, 64, 64)), st.just((1, 512, 512))
)
sizes = st.one_of(st.just(VoxelSize()), st.just(VoxelSize.said("file", (50, 4, 4))), st.just(VoxelSize.said("file", (8, 8, 8))))


def native(cell: tuple[int, int, int], shape: tuple[int, int, int]) -> ChunkGrid:
    z, y, x = (min(c, n) for c, n in zip(cell, shape, strict=True))
    return ChunkGrid((z, y, x))


def laid(shape, dtype="uint8", cell=(1, 1, 2**20), output=AS_PLANNED, memory=GIB, **volume) -> VolumePlan:
    return lay_out(a_volume(shape, dtype, **volume), native(cell, shape), output, memory)


def tasks_of_each_shard(level: LevelPlan) -> np.ndarray:
    """How many tasks write each shard of a level; every box must begin and end where shards do, or where the level ends."""
    tasks = np.zeros(grid_shape(level.shape, level.shard), np.uint8)
    boxes = list(level.boxes())
    assert len(boxes) == level.tasks
    for box in boxes:
        assert all(a % s == 0 for a, s in zip(box.start, level.shard, strict=True))
        assert all(b % s == 0 or b == n for b, s, n in zip(box.stop, level.shard, level.shape, strict=True))
        tasks[tuple(slice(a // s, -(-b // s)) for a, b, s in zip(box.start, box.stop, level.shard, strict=True))] += 1
    return tasks


@settings(max_examples=150, deadline=None)
@given(shape=shapes, dtype=st.sampled_from(["uint8", "uint16", "float32", "uint64"]), cell=cells, size=sizes)
def test_tasks_tile_every_level_in_whole_shards_no_two_of_which_share_one(shape, dtype, cell, size) -> None:
    plan = laid(shape, dtype, cell, voxel_size=size, memory=2 * GIB)
    for level in plan.levels:
        assert (tasks_of_each_shard(level) == 1).all()
        for axis in range(3):
            assert level.task[axis] % level.shard[axis] == 0
            assert level.shard[axis] % level.chunk[axis] == 0
            assert level.band[axis] % level.shard[axis] == 0
            assert level.chunk[axis] <= level.shape[axis]
            assert level.shard[axis] < level.shape[axis] + level.chunk[axis]
    assert plan.levels[0].shape == shape
    assert max(-(-n // c) for n, c in zip(plan.levels[-1].shape, plan.levels[-1].chunk, strict=True)) == 1


@settings(max_examples=150, deadline=None)
@given(shape=shapes, cell=cells, size=sizes, chunk=st.sampled_from([None, (32, 32, 32), (63, 65, 64)]))
def test_a_fused_level_has_the_same_tasks_and_each_is_the_image_of_the_one_below(shape, cell, size, chunk) -> None:
    plan = laid(shape, "uint8", cell, Output(chunk=chunk), voxel_size=size)
    for below, level in zip(plan.levels, plan.levels[1:], strict=False):
        assert level.shape == tuple(-(-n // f) for n, f in zip(below.shape, level.factor, strict=True))
        if not level.fused:
            continue
        for a, b in zip(below.boxes(), level.boxes(), strict=True):
            assert b.start == tuple(n // f for n, f in zip(a.start, level.factor, strict=True))
            assert b.stop == tuple(-(-n // f) for n, f in zip(a.stop, level.factor, strict=True))


@settings(max_examples=150, deadline=None)
@given(shape=shapes, dtype=st.sampled_from(["uint8", "uint16", "float64"]), cell=cells, memory=st.integers(192, 4096))
def test_no_task_holds_more_than_the_budget(shape, dtype, cell, memory) -> None:
    try:
        plan = laid(shape, dtype, cell, memory=memory * MIB)
    except TooLittleMemoryError:
        assume(False)
    itemsize = np.dtype(dtype).itemsize
    for level in plan.levels:
        band, task = (math.prod(map(min, part, level.shape)) * itemsize for part in (level.band, level.task))
        assert min(2 * band, task) <= working_memory(memory * MIB)
    assert PROCESS_BYTES < plan.memory_bytes <= memory * MIB - BASE_BYTES + PROCESS_BYTES


@settings(max_examples=150, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 500), st.integers(500, 8000), st.integers(500, 8000)),
    dtype=st.sampled_from(["uint8", "uint16", "float64"]),
    cell=st.one_of(cells, st.just((512, 512, 512))),
    shard=st.sampled_from([None, (256, 256, 256), (64, 1024, 1024), (512, 512, 512), (64, 4096, 4096)]),
    memory=st.integers(192, 500),
)
# With 448 MiB a larger band is taken that leaves no room to fuse: less would nearly do, and more is needed.
@example(shape=(6514, 1110, 1911), dtype="uint16", cell=(1, 512, 2**20), shard=(64, 512, 512), memory=431)
def test_what_cannot_fit_is_refused_with_the_smallest_budget_that_would(shape, dtype, cell, shard, memory) -> None:
    output = Output(chunk=(64, 64, 64), shard=shard) if shard else AS_PLANNED
    enough = 0

    def refused(memory: int) -> bool:
        nonlocal enough
        try:
            laid(shape, dtype, cell, output, memory)
        except TooLittleMemoryError as error:
            enough = int(error.hint.split("=")[1].split(",")[0])
            return True
        return False

    assume(refused(memory * MIB))
    said = enough
    assert said > memory * MIB
    assert not refused(said)
    assert said - 64 * MIB <= memory * MIB or refused(said - 64 * MIB)  # what it is rounded to


def test_each_page_of_a_paged_source_is_decoded_once_where_memory_allows() -> None:
    assert laid((500, 1000, 1500), "uint16", (1, 2**20, 2**20)).over_read == 1
    wide = laid((500, 8000, 8000), "uint16", (1, 2**20, 2**20))
    assert 1 < wide.over_read <= 32
    assert laid((500, 8000, 8000), "uint16", (1, 1, 2**20)).over_read == 1


def test_paged_sources_get_flat_shards_and_chunked_ones_cubes() -> None:
    assert laid((600, 2000, 2000)).levels[0].shard == (64, 512, 512)
    assert laid((600, 2000, 2000), cell=(64, 64, 64)).levels[0].shard == (256, 256, 256)
    assert laid((600, 2000, 2000), "uint16").levels[0].shard == (64, 256, 512)
    assert laid((600, 2000, 2000), "float64", (64, 64, 64)).levels[0].shard == (128, 128, 128)


@pytest.mark.parametrize(
    ("shape", "chunk"),
    [
        ((1, 4000, 4000), (1, 512, 512)),
        ((2, 4000, 4000), (2, 256, 512)),
        ((16, 4000, 4000), (16, 128, 128)),
        ((65, 4000, 4000), (65, 64, 64)),
        ((1000, 1000, 1000), (64, 64, 64)),
        ((1, 1, 1), (1, 1, 1)),
        ((3, 5, 7), (3, 5, 7)),
    ],
)
def test_chunks_are_clamped_to_the_volume_and_regrown(shape, chunk) -> None:
    assert laid(shape).levels[0].chunk == chunk


def test_what_the_user_asked_for_is_what_is_planned() -> None:
    plan = laid((300, 300, 300), output=Output(chunk=(32, 32, 16), shard=(64, 128, 128)))
    assert (plan.levels[0].chunk, plan.levels[0].shard) == ((32, 32, 16), (64, 128, 128))
    assert laid((20, 300, 300), output=Output(chunk=(64, 64, 64))).levels[0].chunk == (20, 64, 64)
    run = a_run(tissue((64, 64, 64)), output=Output(codec="blosc"))
    assert run.plan().volumes[0].codec == "blosc"


def test_shards_the_user_asked_for_that_cannot_fit_are_refused() -> None:
    asked = Output(chunk=(64, 64, 64), shard=(4096, 4096, 4096))
    with pytest.raises(TooLittleMemoryError, match="1024 MiB") as refused:
        laid((5000, 5000, 5000), output=asked)
    assert "EMPORTER_CONVERTER_MEMORY_BYTES=" in refused.value.hint


def test_large_volumes_have_tasks_of_a_bounded_size_and_small_ones_few() -> None:
    huge = laid((20_000, 20_000, 25_000), cell=(64, 64, 64))
    task = math.prod(huge.levels[0].task)
    assert 2**28 <= task <= 2**32
    assert 4 <= laid((2000, 2000, 2000)).levels[0].tasks <= 64
    assert laid((64, 512, 512)).levels[0].tasks == 1


SLOWEST, USUAL = 14e6, 50e6
"""Bytes a second of the service: on S3 at its slowest, and on files with volumes of gigabytes (docs/benchmarks.md)."""


@pytest.mark.parametrize("edge", [1_000, 3_000, 10_000, 30_000, 100_000, 200_000])
@pytest.mark.parametrize(("cell", "dtype"), [((1, 1, 2**20), "uint8"), ((64, 64, 64), "uint16")])
def test_no_task_of_any_level_takes_more_than_five_minutes_and_none_of_a_large_one_less_than_ten_seconds(
    edge, cell, dtype
) -> None:
    plan = laid((edge, edge, edge), dtype, cell)
    for level in plan.levels:
        if level.fused:
            continue
        # What a task reads: the box of the level below that it halves.
        per_voxel = math.prod(level.factor) * np.dtype(dtype).itemsize
        reads = math.prod(map(min, level.task, level.shape)) * per_voxel
        whole = math.prod(level.shape) * per_voxel
        assert reads / SLOWEST <= 300
        # A level of less than ten minutes is cut all the same, so that several workers share it.
        assert reads / USUAL >= 10 or reads >= whole // 64


def test_a_plan_is_rules_not_a_list_whatever_the_size_of_the_volume() -> None:
    plan = laid((100_000, 100_000, 100_000))
    assert plan.levels[0].tasks > 100_000
    assert len(plan.model_dump_json()) < 10_000
    last = plan.levels[0].box(plan.levels[0].tasks - 1)
    assert last.stop == (100_000, 100_000, 100_000)
    with pytest.raises(IndexError):
        plan.levels[0].box(plan.levels[0].tasks)


@pytest.mark.parametrize("shard", [None, (32, 32, 32), (64, 64, 64), (1, 64, 64)])
def test_the_ledger_entry_of_a_task_fits_a_message_of_the_bus(shard) -> None:
    plan = laid((20_000, 20_000, 20_000), output=Output(chunk=shard, shard=shard))
    for level in plan.levels:
        shards = math.prod(grid_shape(level.box(0).shape, level.shard))
        assert shards * len('{"key":"0/c/1234/1234/1234","bytes":16777216,"crc32c":"00000000"},') < 900_000


def test_the_same_run_planned_twice_is_the_same_plan() -> None:
    voxels = tissue((70, 200, 200), "uint16")
    assert a_run(voxels).plan() == a_run(voxels).plan()


def test_noise_is_stored_as_it_is_and_anything_padded_or_smooth_is_compressed() -> None:
    noise = tissue((64, 128, 128), "uint8")
    assert a_run(noise).plan().volumes[0].codec == "none"
    assert a_run(noise[:, :127]).plan().volumes[0].codec == "zstd"
    assert a_run(noise // 8).plan().volumes[0].codec == "zstd"
    assert a_run(tissue((64, 128, 128), "uint16") // 64).plan().volumes[0].codec == "blosc"
    assert a_run(noise, role="labels").plan().volumes[0].codec == "zstd"


def test_finer_axes_are_halved_until_voxels_are_nearly_cubes() -> None:
    rungs = ladder((200, 4000, 4000), VoxelSize.said("file", (40, 4, 4)))
    assert [r.factor for r in rungs[1:5]] == [(1, 2, 2), (1, 2, 2), (1, 2, 2), (2, 2, 2)]
    assert rungs[3].halvings == (0, 3, 3)


@pytest.mark.parametrize("nm", [(None, None, None), (40, None, 4), (8, 8, 8)])
def test_voxels_of_unknown_size_count_as_cubes(nm) -> None:
    assert {r.factor for r in ladder((500, 500, 500), VoxelSize.said("user", nm))[1:]} == {(2, 2, 2)}


def test_an_axis_of_one_voxel_is_never_halved() -> None:
    rungs = ladder((1, 5000, 5000), VoxelSize.said("file", (1000, 4, 4)))
    assert {r.factor for r in rungs[1:]} == {(1, 2, 2)}
    assert {r.factor for r in ladder((900_000, 1, 1), VoxelSize.said("file", (4, 400, 400)))[1:]} == {(2, 1, 1)}


def test_levels_say_where_their_first_voxel_lies() -> None:
    plan = laid((200, 400, 400), voxel_size=VoxelSize.said("file", (8, 4, None)), origin=(10, 0, 5), source_shape=(500, 500, 500))
    assert plan.levels[0].scale == (8, 4, 1)
    assert plan.levels[0].translation == (80, 0, 5)
    assert plan.levels[1].scale == (16, 8, 2)
    assert plan.levels[1].translation == (84, 2, 5.5)


def test_the_base_is_not_for_voxels() -> None:
    assert working_memory(GIB) == GIB - BASE_BYTES
