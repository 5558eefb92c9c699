"""From what the headers say to a plan of levels, shards and tasks that fits the memory.

Pure, but for the few chunks that are read to choose the codec by.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from converter.codec import choose_codec, usual_codec
from converter.errors import TooLittleMemoryError
from converter.layout import CHUNK_VOXELS, SHARD_BYTES, chunk_shape, cut_to, shard_shape
from converter.memory import BASE_BYTES, MIB, PROCESS_BYTES, working_memory
from converter.passes import Cells, Grid, Pass, plan_pass, tasks_above
from converter.pyramid import ladder, transform
from converter.shards import Codec
from emporter_contracts.commands import IngestRequest, Output
from emporter_contracts.geometry import ChunkGrid
from emporter_contracts.plans import ConversionPlan, FetchPlan, LevelPlan, PlannedVolume, VolumePlan
from emporter_readers.protocol import Reader

OVER_READ_TAKEN = 1.5
"""Decodes per voxel that are taken for larger shards; past it smaller ones leave room for larger bands, which decode less."""
STEP_BYTES = 64 * MIB
"""A budget that is told is a multiple of this, as one would write it."""


def plan_conversion(plan: FetchPlan, readers: Mapping[str, Reader], request: IngestRequest, memory_bytes: int) -> ConversionPlan:
    """How every volume of a run is stored. `readers` by volume id; `memory_bytes` is what a converter's process may hold in all.

    Raises TooLittleMemoryError, and what the readers raise.
    """
    volumes = [plan_volume(v, readers[v.volume], request.output, memory_bytes) for v in plan.volumes]
    return ConversionPlan(
        job=plan.job,
        revision=plan.revision,
        volumes=tuple(volumes),
        memory_bytes=memory_bytes,
        planned_at=plan.planned_at,  # the same run planned twice is the same plan
    )


def plan_volume(volume: PlannedVolume, reader: Reader, output: Output, memory_bytes: int) -> VolumePlan:
    """How one volume is stored; its codec is chosen by a few chunks unless the user asked for one."""
    laid = lay_out(volume, reader.native, output, memory_bytes)
    if output.codec != "auto":
        codec: Codec = output.codec
    elif volume.role == "labels":
        codec = usual_codec(np.dtype(volume.dtype).itemsize)
    else:
        codec = choose_codec(reader, list(laid.levels))
    return laid.model_copy(update={"codec": codec})


def lay_out(volume: PlannedVolume, native: ChunkGrid, output: Output, memory_bytes: int) -> VolumePlan:
    """Levels, shards and tasks of one volume. Shards are halved until a task fits, unless the user asked for them."""
    fitting, needed = _laid_out(volume, native, output, memory_bytes)
    if not fitting:
        enough = _smallest(volume, native, output, memory_bytes, _rounded(BASE_BYTES + needed))
        raise TooLittleMemoryError(
            f"{volume.volume}: no task fits {memory_bytes // MIB} MiB",
            hint=f"give converters EMPORTER_CONVERTER_MEMORY_BYTES={enough}, or ask for smaller shards",
        )
    least = min(passes[0].plan.over_read for passes in fitting)
    taken = next(p for p in fitting if p[0].plan.over_read <= OVER_READ_TAKEN * least)
    return _volume_plan(volume, np.dtype(volume.dtype).itemsize, taken)


def _laid_out(volume: PlannedVolume, native: ChunkGrid, output: Output, memory_bytes: int) -> tuple[list[list[_Laid]], int]:
    """Passes that fit, for one size of shards after another, and the least that any of them holds."""
    itemsize = np.dtype(volume.dtype).itemsize
    budget = working_memory(memory_bytes)
    fitting: list[list[_Laid]] = []
    needed: list[int] = []
    for size in _shard_sizes(output, itemsize):
        passes = _plan_passes(_grids(volume, native, output, itemsize, size), volume, native, itemsize, budget)
        needed.append(max(laid.plan.memory for laid in passes))
        if needed[-1] <= budget:
            fitting.append(passes)
            if passes[0].plan.over_read <= OVER_READ_TAKEN:
                break
    return fitting, min(needed)


def _smallest(volume: PlannedVolume, native: ChunkGrid, output: Output, refused: int, enough: int) -> int:
    """The smallest budget that would do, in whole steps, looked for from `enough`, which is a guess: which levels are fused
    depends on the budget, and a level that is not needs a pass of its own.
    """

    def fits(steps: int) -> bool:
        return bool(_laid_out(volume, native, output, steps * STEP_BYTES)[0])

    low, high = refused // STEP_BYTES, enough // STEP_BYTES
    while not fits(high):
        low, high = high, high + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high * STEP_BYTES


@dataclass(frozen=True, slots=True)
class _Laid:
    """A pass over `grids[base:base + fused + 1]`."""

    grids: list[Grid]
    base: int
    plan: Pass


def _shard_sizes(output: Output, itemsize: int) -> Iterator[int]:
    """Bytes of a shard, from the usual size down to one chunk."""
    size = SHARD_BYTES
    yield size
    while output.shard is None and size > CHUNK_VOXELS * itemsize:
        size //= 2
        yield size


def _grids(volume: PlannedVolume, native: ChunkGrid, output: Output, itemsize: int, size: int) -> list[Grid]:
    flat = native.cell[0] == 1
    grids = []
    for rung in ladder(volume.shape, volume.voxel_size, output.chunk):
        chunk = chunk_shape(rung.shape, output.chunk)
        grids.append(Grid(rung, chunk, shard_shape(rung.shape, chunk, itemsize, flat=flat, asked=output.shard, size=size)))
    return grids


def _plan_passes(grids: list[Grid], volume: PlannedVolume, native: ChunkGrid, itemsize: int, budget: int) -> list[_Laid]:
    passes, base = [], 0
    while base < len(grids):
        if base == 0:
            cells = Cells(cut_to(volume.source_shape, native.cell, (1, 1, 1)), volume.region.start, volume.source_shape)
        else:
            cells = halved_cells(grids[base - 1], grids[base])
        plan = plan_pass(grids, base, cells, itemsize, budget)
        passes.append(_Laid(grids, base, plan))
        base += plan.fused + 1
    return passes


def halved_cells(below: Grid, above: Grid) -> Cells:
    """A level is made from whole shards of the one below."""
    factor = above.rung.factor
    z, y, x = (max(1, min(s, n) // f) for s, n, f in zip(below.shard, below.rung.shape, factor, strict=True))
    return Cells((z, y, x), weight=factor[0] * factor[1] * factor[2], copies=3)


def _volume_plan(volume: PlannedVolume, itemsize: int, passes: list[_Laid]) -> VolumePlan:
    levels: list[LevelPlan] = []
    ends = [laid.base for laid in passes] + [len(passes[0].grids)]
    for laid, (start, stop) in zip(passes, pairwise(ends), strict=True):
        levels += [_level(volume, laid, k) for k in range(start, stop)]
    return VolumePlan(
        volume=volume.volume,
        dtype=np.dtype(volume.dtype).name,
        codec=usual_codec(itemsize),
        role=volume.role,
        levels=tuple(levels),
        over_read=round(passes[0].plan.over_read, 4),
        memory_bytes=PROCESS_BYTES + max(laid.plan.memory for laid in passes),
    )


def _level(volume: PlannedVolume, laid: _Laid, k: int) -> LevelPlan:
    grid, fused = laid.grids[k], k > laid.base
    scale, translation = transform(grid.rung, volume.voxel_size, volume.source_origin, volume.translation_nm)
    return LevelPlan(
        shape=grid.rung.shape,
        chunk=grid.chunk,
        shard=grid.shard,
        task=tasks_above(laid.grids, laid.base, laid.plan.task, k) if fused else laid.plan.task,
        band=grid.shard if fused else laid.plan.band,
        scale=scale,
        translation=translation,
        factor=grid.rung.factor,
        fused=fused,
    )


def _rounded(size: int) -> int:
    """Up to a whole step."""
    return -(-size // STEP_BYTES) * STEP_BYTES
