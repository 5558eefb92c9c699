"""Is what is stored what the archive served? Read back, compared, hashed; any difference is a CorruptVolumeError.

Three looks: a listing says that every shard of the ledger is there in its size and nothing else; an ordered pass over level 0
and one over the shards above compare every checksum with the ledger, hash the voxels and look at every slice; boxes, or all of
the volume, are read back by zarr-python, which shares no code with what wrote them, and compared with the raw voxels and with a
pyramid computed in another way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import zarr
import zarr.errors
import zarr.storage
from numpy.typing import NDArray

from converter.entered import AGAIN, Entered
from converter.errors import CorruptVolumeError
from converter.hashing import Order, boxes_in, order_of, voxel_hash
from converter.layout import chunk_shape
from converter.memory import readers_of, requests_of
from converter.reading import Reading, Stop
from converter.recomputing import recomputed
from converter.slices import SliceCounter, SliceFacts
from converter.stored import StoredLevel, shard_written
from emporter_contracts import storage
from emporter_contracts.geometry import Box, Shape3
from emporter_contracts.plans import VolumePlan
from emporter_readers.protocol import Reader
from emporter_runtime.objects import Objects

Voxels = NDArray[Any]

SAMPLE_BOXES = 12
"""Boxes compared at level 0, and half as many at each other: a wrong axis order, offset or byte order is wrong in every one."""
SAMPLE_EDGE = 64
"""Voxels along y and x of a sample box, and along z where the source is not made of pages."""
SAMPLE_PAGES = 4
"""Pages a sample box takes of a source that is made of pages: each is decoded whole."""
LOOKED_AT_ABOVE = 4096
"""Shards above level 0 whose reading is queued at once."""
SAMPLED_AT_ONCE = 6
"""Of them, each some megabytes at most and many small requests, one after the other."""
BOX_VOXELS = 2**19
"""Of an upper level compared at once when all of it is: the judge holds each voxel below it as 64 bits or a Python number."""
VERIFIED_BY = f"zarr-python {zarr.__version__}"


@dataclass(frozen=True, slots=True)
class Seen:
    """What the ordered pass over level 0 found: `sha256` of its voxels, little-endian, in an `order` (hashing.py)."""

    sha256: str
    order: Order
    bytes: int
    slices: SliceFacts


def require_complete(objects: Objects, volume: str, revision: int, entered: Entered) -> None:
    """Raises CorruptVolumeError unless just the shards of the plan are in the ledger and, in their sizes, in the store."""
    entered.require_all()
    root = storage.zarr_root(volume, revision)
    listed = objects.listed_sync(storage.VOLUMES, root)
    entered.require_stored((key.removeprefix(root), size) for key, size in listed if not key.endswith("zarr.json"))


class Checks:
    """Compares the checksum of every shard that is read with the ledger's."""

    def __init__(self, volume: str, entered: Entered) -> None:
        self._volume = volume
        self._entered = entered

    def look(self, key: str, data: bytes) -> None:
        """Raises CorruptVolumeError."""
        if shard_written(key, data) != self._entered.get(key):
            raise CorruptVolumeError(f"{self._volume}: {key} is not the bytes that were written", hint=AGAIN)


def look_through(objects: Objects, plan: VolumePlan, revision: int, entered: Entered, memory: int, stop: Stop) -> Seen:
    """Read all of level 0 once within `memory` bytes, in an order in which it can be hashed, and every shard above it."""
    checks = Checks(plan.volume, entered)
    level = StoredLevel(objects, plan, revision, 0, checks.look)
    order = order_of(plan.levels[0], level.dtype.itemsize, memory)
    digest, slices, size = voxel_hash(order, level.shape), SliceCounter(level.shape, level.dtype), 0
    with ThreadPoolExecutor(looking_threads(level), "look") as pool:
        try:
            for voxels in read_in(order, level, memory, pool, stop):
                looking = pool.submit(slices.add, voxels)
                digest.add(voxels)
                looking.result()
                size += voxels.nbytes
            look_above(objects, plan, revision, entered, checks, pool, stop)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return Seen(digest.hexdigest(), order, size, slices.facts)


def read_in(order: Order, level: StoredLevel, memory: int, pool: ThreadPoolExecutor, stop: Stop) -> Iterator[Voxels]:
    """The voxels of a level, box after box, the next one read while one is looked at, each shard by a request."""
    boxes = list(boxes_in(order, level.codec.level, level.dtype.itemsize, memory))
    shard = math.prod(level.codec.level.shard) * level.dtype.itemsize

    coming = Reading(level, boxes[0], level.dtype, pool, stop, shard)
    for n in range(len(boxes)):
        voxels = coming.result()
        if n + 1 < len(boxes):
            coming = Reading(level, boxes[n + 1], level.dtype, pool, stop, shard)
        yield voxels
        del voxels


def looking_threads(level: StoredLevel) -> int:
    """Of a pool for `read_in`: those that read, and those that look at what was read."""
    return requests_of(math.prod(level.codec.level.shard) * level.dtype.itemsize)


def look_above(
    objects: Objects,
    plan: VolumePlan,
    revision: int,
    entered: Entered,
    checks: Checks,
    pool: ThreadPoolExecutor,
    stop: Stop,
) -> None:
    """Compare the checksums of all shards above level 0. Raises CorruptVolumeError."""
    root = storage.zarr_root(plan.volume, revision)

    def look(key: str) -> None:
        stop()
        checks.look(key, objects.get_sync(storage.VOLUMES, root + key))

    keys = entered.keys(first_level=1)
    while some := list(islice(keys, LOOKED_AT_ABOVE)):
        for _ in pool.map(look, some):
            pass


def read_back(objects: Objects, plan: VolumePlan, revision: int, reader: Reader, seed: str, stop: Stop) -> int:
    """Compare sample boxes of every level; how many voxels. Where they lie is drawn from `seed`, so two finishers agree."""
    random = np.random.default_rng(int(seed[:16], 16))
    boxes: list[tuple[int, Box]] = []
    for k, level in enumerate(plan.levels):
        depth = SAMPLE_PAGES if reader.native.cell[0] == 1 else SAMPLE_EDGE
        shape = _smaller((depth, SAMPLE_EDGE, SAMPLE_EDGE), level.shape)
        for _ in range(SAMPLE_BOXES if k == 0 else SAMPLE_BOXES // 2):
            z, y, x = (int(random.integers(n - s + 1)) for n, s in zip(level.shape, shape, strict=True))
            boxes.append((k, Box.at((z, y, x), shape)))
    one_at_a_time = readers_of(math.prod(reader.native.cell) * reader.dtype.itemsize) == 1
    with ThreadPoolExecutor(1 if one_at_a_time else SAMPLED_AT_ONCE, "sample") as pool:
        looking = [pool.submit(_compare, objects, plan, revision, reader, k, box, stop) for k, box in boxes]
        try:
            return sum(compared.result() for compared in looking)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def read_back_all(objects: Objects, plan: VolumePlan, revision: int, reader: Reader, stop: Stop) -> int:
    """Compare every voxel of every level, a band at a time; how many voxels."""
    return sum(compare_level(objects, plan, revision, reader, k, stop) for k in range(len(plan.levels)))


def compare_level(objects: Objects, plan: VolumePlan, revision: int, reader: Reader, k: int, stop: Stop) -> int:
    """Compare every voxel of one level with what it was made of; how many voxels. Raises CorruptVolumeError."""
    level = plan.levels[k]
    tile = (level.band or level.task) if k == 0 else chunk_shape(level.shape, None, BOX_VOXELS)
    return sum(_compare(objects, plan, revision, reader, k, box, stop) for box in Box.whole(level.shape).tiles(tile))


def _compare(objects: Objects, plan: VolumePlan, revision: int, reader: Reader, k: int, box: Box, stop: Stop) -> int:
    stop()
    stored = _by_zarr(objects, plan, revision, k, box)
    if k == 0:
        expected, what = reader.read(box), "the archive's voxels"
    else:
        factor = plan.levels[k].factor
        below = _below(box, factor, plan.levels[k - 1].shape)
        expected = recomputed(_by_zarr(objects, plan, revision, k - 1, below), factor, plan.role)
        what = f"level {k - 1}, halved"
    if stored.dtype != expected.dtype or not np.array_equal(stored, expected, equal_nan=expected.dtype.kind == "f"):
        where = f"level {k} box {list(box.start)}..{list(box.stop)}"
        raise CorruptVolumeError(f"{plan.volume}: {where} is not {what}", hint=AGAIN)
    return math.prod(box.shape)


def _by_zarr(objects: Objects, plan: VolumePlan, revision: int, level: int, box: Box) -> Voxels:
    """Voxels of a box, read by zarr-python."""
    store: Any = zarr.storage.ObjectStore(objects.store(storage.VOLUMES), read_only=True)
    root = storage.zarr_root(plan.volume, revision)
    try:
        array = zarr.open_array(store, path=f"{root}{level}", mode="r", zarr_format=3)
        return np.asarray(array[box.slices()])
    except (zarr.errors.BaseZarrError, ValueError, RuntimeError, FileNotFoundError) as error:
        raise CorruptVolumeError(f"{plan.volume}: zarr-python can't read level {level}: {error}", hint=AGAIN) from error


def _below(box: Box, factor: Shape3, shape: Shape3) -> Box:
    start = tuple(a * f for a, f in zip(box.start, factor, strict=True))
    stop = tuple(min(b * f, n) for b, f, n in zip(box.stop, factor, shape, strict=True))
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def _smaller(a: Shape3, b: Shape3) -> Shape3:
    return (min(a[0], b[0]), min(a[1], b[1]), min(a[2], b[2]))
