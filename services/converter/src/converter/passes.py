"""How a level is cut into tasks: what is read at once, what one command writes, which levels come out of the same pass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise, product

from converter.layout import cut_to
from converter.memory import BANDS, PIECE_BYTES, TaskMemory
from converter.pyramid import Rung
from emporter_contracts.geometry import Index3, Shape3, grid_shape

BAND_BYTES = 32 * 2**20
"""Wanted of one band. Larger ones read no faster; they are chosen only where a source strip or page would be decoded twice."""
SMALL_TASK_BYTES = 256 * 2**20
"""A task this small, about a second's work, is never cut further to make more of them."""
TASK_BYTES = 2 * 2**30
"""Wanted of one task of a large volume: at 50 to 300 MB/s it takes 7 to 40 s, and that is what a killed worker loses."""
MIN_TASKS = 8
"""Wanted of a level that is large enough, so that several workers share it and its bar moves."""
MANY_TASKS = 50_000
"""Of one level: each is a command and an entry in the ledger. A volume that would have more, past 100 TB, has longer ones, …"""
LONGEST_TASK_BYTES = 4 * 10**9
"""… but none past this: five minutes at the 14 MB/s of a small S3 server on the converter's own cores, the slowest that was
measured (docs/benchmarks.md), and 13 s at 300 MB/s, whatever the volume's size."""
TASK_SHARDS = 8192
"""Of one task: its ledger entry names each, and a message on the bus is 1 MB at most."""
FEW_SHARDS = 8
"""Of the bands that are tried where none fits. The smallest is not always the one that holds least: two of them are held, but one
of a task that is one band."""
COUNTED_BANDS = 4096
"""Along one axis when decodes are counted; a longer axis repeats itself."""


@dataclass(frozen=True, slots=True)
class Grid:
    """One level's shape and shards, and how it was halved."""

    rung: Rung
    chunk: Shape3
    shard: Shape3


@dataclass(frozen=True, slots=True)
class Cells:
    """What one decode of a pass's source yields, in voxels of the level it makes: cells laid from `-offset`, ending at `extent`.

    `weight` is how many source voxels one voxel is made of; `copies` how often a cell is in memory while it is decoded: as it
    came, as voxels, and once more where it came from the store, whose decoder has a copy of its own.
    """

    cell: Shape3
    offset: Index3 = (0, 0, 0)
    extent: Shape3 | None = None
    weight: int = 1
    copies: int = 2

    @property
    def size(self) -> int:
        """Voxels of the source in one cell."""
        return math.prod(self.cell) * self.weight


@dataclass(frozen=True, slots=True)
class Pass:
    """Bands and tasks of one level, the `fused` levels above it that its tasks make too, and what a task holds in memory."""

    band: Shape3
    task: Shape3
    fused: int
    over_read: float
    memory: int


def plan_pass(grids: list[Grid], base: int, cells: Cells, itemsize: int, budget: int) -> Pass:
    """The pass that makes level `base` and as many levels above it as fit `budget` bytes.

    What it gives may need more than `budget` where even the smallest band does: the caller looks at `memory`.
    """
    grid = grids[base]
    bands = [band for band in _bands(grid) if _enterable(band, grid)]
    small = [band for band in bands if BANDS * math.prod(band) * itemsize <= budget]
    plans = [_grown(grids, base, band, cells, itemsize, budget) for band in small]
    fitting = [p for p in plans if p.memory <= budget]
    if not fitting:
        few = [band for band in bands if math.prod(grid_shape(band, grid.shard)) <= FEW_SHARDS]
        return min((_grown(grids, base, band, cells, itemsize, budget) for band in few), key=lambda p: p.memory)
    return min(fitting, key=lambda p: _preference(p, itemsize))


def _enterable(task: Shape3, grid: Grid) -> bool:
    """Whether the ledger entry of such a task is a message the bus takes."""
    return math.prod(grid_shape(task, grid.shard)) <= TASK_SHARDS


def over_read(shape: Shape3, band: Shape3, cells: Cells) -> float:
    """Voxels decoded over voxels needed when `shape` is read by `band`."""
    offset, extent = cells.offset, cells.extent or shape
    axes = zip(shape, band, cells.cell, offset, extent, strict=True)
    decoded = 1.0
    for n, b, c, o, e in axes:
        decoded *= _decoded(n, b, c, o, e)
    return decoded


def _decoded(n: int, band: int, cell: int, offset: int, extent: int) -> float:
    """Voxels decoded over voxels needed along one axis."""
    stop = min(n, COUNTED_BANDS * band)
    edges = [*range(offset, offset + stop, band), offset + stop]
    decoded: int = sum(min(extent, -(-b // cell) * cell) - a // cell * cell for a, b in pairwise(edges))
    return decoded / stop


def _preference(plan: Pass, itemsize: int) -> tuple[float, int, int, int]:
    """Few decodes first, then a band of the wanted size, then more levels at once, then one that is long in x."""
    size = math.prod(plan.band) * itemsize
    return (round(plan.over_read, 2), max(size, BAND_BYTES), -plan.fused, -plan.band[2])


def _bands(grid: Grid) -> list[Shape3]:
    """Shards doubled along each axis until they cover the level."""
    counts = grid_shape(grid.rung.shape, grid.shard)
    steps = [sorted({min(2**k, n) for k in range(n.bit_length() + 1)}) for n in counts]
    z, y, x = grid.shard
    return [(z * a, y * b, x * c) for a, b, c in product(*steps)]


def tasks_above(grids: list[Grid], base: int, task: Shape3, level: int) -> Shape3:
    """The task of fused level `level` that has the same number as the task of level `base` it is made by."""
    below, above = grids[base].rung, grids[level].rung
    shard = grids[level].shard
    axes = zip(task, below.shape, above.shape, shard, below.halvings, above.halvings, strict=True)
    z, y, x = (n + s if t >= whole else t >> (a - b) for t, whole, n, s, b, a in axes)
    return cut_to(above.shape, (z, y, x), shard)


def _grown(grids: list[Grid], base: int, band: Shape3, cells: Cells, itemsize: int, budget: int) -> Pass:
    """Tasks of whole bands: the deepest fusion that fits, then as large as wanted."""
    grid = grids[base]
    weight = itemsize * cells.weight
    reread = over_read(grid.rung.shape, band, cells)
    best = Pass(band, cut_to(grid.rung.shape, band, grid.shard), 0, reread, _held(grids, base, 0, band, band, cells, itemsize))
    for fused in range(1, _fusible(grids, base) + 1):
        task = _aligned(grids, base, fused, band)
        held = _held(grids, base, fused, band, task, cells, itemsize)
        if held > budget or not _enterable(task, grid) or not _worth(grid.rung.shape, task, weight):
            break
        best = Pass(band, task, fused, reread, held)
    return _lengthened(grids, base, best, cells, itemsize, budget)


def _worth(shape: Shape3, task: Shape3, weight: int) -> bool:
    size = math.prod(min(t, n) for t, n in zip(task, shape, strict=True)) * weight
    many = math.prod(grid_shape(shape, task)) >= MIN_TASKS
    return size <= SMALL_TASK_BYTES or (many and size <= TASK_BYTES)


def _fusible(grids: list[Grid], base: int) -> int:
    """How many levels above `base` can be made shard by shard: a shard must not split a pair of voxels."""
    fused = 0
    for below, above in pairwise(grids[base:]):
        splits = (f == 2 and s % 2 and s < n for s, n, f in zip(below.shard, below.rung.shape, above.rung.factor, strict=True))
        if any(splits):
            break
        fused += 1
    return fused


def _aligned(grids: list[Grid], base: int, fused: int, band: Shape3) -> Shape3:
    """The smallest task of whole bands that is whole shards of every level up to `fused`."""
    grid = grids[base]
    task = list(band)
    for axis in range(3):
        for above in grids[base + 1 : base + fused + 1]:
            halvings = above.rung.halvings[axis] - grid.rung.halvings[axis]
            task[axis] = math.lcm(task[axis], above.shard[axis] << halvings)
    return cut_to(grid.rung.shape, (task[0], task[1], task[2]), grid.shard)


def _held(grids: list[Grid], base: int, fused: int, band: Shape3, task: Shape3, cells: Cells, itemsize: int) -> int:
    grid, levels = grids[base], grids[base : base + fused + 1]
    part = _within(band, grid.rung.shape)
    return TaskMemory(
        itemsize,
        size=math.prod(_within(task, grid.rung.shape)),
        band=math.prod(part),
        shards=math.prod(grid_shape(part, grid.shard)),
        shard=max(math.prod(_within(g.shard, g.rung.shape)) for g in levels),
        live=sum(_live(g, grid, band, task) for g in levels[1:]),
        cells=math.prod(grid_shape(cells.extent or grid.rung.shape, cells.cell)),
        cell=cells.size,
        piece=min(PIECE_BYTES // itemsize, math.prod(part) * cells.weight),
        copies=cells.copies,
    ).bytes


def _live(grid: Grid, base: Grid, band: Shape3, task: Shape3) -> int:
    """Voxels of a fused level that are in memory at once: bands come in C order, so one row of shards over the task's y and x."""
    image = [-(-t // 2 ** (a - b)) for t, a, b in zip(task, grid.rung.halvings, base.rung.halvings, strict=True)]
    depth = max(grid.shard[0], -(-band[0] // 2 ** (grid.rung.halvings[0] - base.rung.halvings[0])))
    return math.prod(_within((depth, image[1], image[2]), grid.rung.shape))


def _lengthened(grids: list[Grid], base: int, best: Pass, cells: Cells, itemsize: int, budget: int) -> Pass:
    """Tasks doubled up to the wanted size, along z first: that costs no memory: a row of shards is released when it is full."""
    grid = grids[base]
    size = math.prod(grid.rung.shape) * itemsize * cells.weight
    usual = min(max(size // MIN_TASKS, SMALL_TASK_BYTES), TASK_BYTES)
    wanted = max(usual, min(size // MANY_TASKS, LONGEST_TASK_BYTES))
    for axis in (0, 1, 2):
        while best.task[axis] < grid.rung.shape[axis]:
            longer = list(best.task)
            longer[axis] *= 2
            task = cut_to(grid.rung.shape, (longer[0], longer[1], longer[2]), grid.shard)
            held = _held(grids, base, best.fused, best.band, task, cells, itemsize)
            large = math.prod(_within(task, grid.rung.shape)) * itemsize * cells.weight > wanted
            if large or held > budget or not _enterable(task, grid):
                break
            best = Pass(best.band, task, best.fused, best.over_read, held)
    return best


def _within(shape: Shape3, whole: Shape3) -> Shape3:
    return (min(shape[0], whole[0]), min(shape[1], whole[1]), min(shape[2], whole[2]))
