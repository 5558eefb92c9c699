"""One revision as it is stored: its record, its levels, and voxels out of them."""

from __future__ import annotations

import asyncio
import json
import math
import re
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray
from pydantic import ValidationError

from block_server.errors import RESTORE, DamagedVolumeError, UnknownLevelError, VoxelSizeUnknownError
from block_server.near import NearLevel, NearShards
from block_server.reading_faults import fault_of, named_faults
from block_server.waiting import Wanted
from emporter_contracts import storage
from emporter_contracts.geometry import Box, Index3, Shape3, grid_shape
from emporter_contracts.ids import VolumeRef
from emporter_contracts.plans import Commit
from emporter_contracts.records import MetadataRecord
from emporter_runtime.errors import ObjectMissingError
from emporter_runtime.objects import Objects

VOXELS = 64 * 2**20
"""Bytes of chunks decoded at once for one request: past it the box is read in pieces, so that a slice through 64-voxel chunks
does not hold 64 times itself. A dozen 128³ crops of 16 bit fit, so what loaders ask for is read in one go."""
DECODERS = 16
"""Chunks of sources that are fetched and decoded at once, over all volumes: most of the time they wait for a network."""
RETRIES = {"max_retries": 3, "initial_delay": "100ms", "max_delay": "1s"}
"""Of one request to S3. TensorStore's own default tries for minutes; a reader would rather hear 503 and come back."""

NmOrNone3 = tuple[float | None, float | None, float | None]
Floats3 = tuple[float, float, float]


def cache_context(cache_bytes: int) -> ts.Context:
    """What all volumes share: one cache of decoded chunks, at most `cache_bytes` in all."""
    return ts.Context({"cache_pool": {"total_bytes_limit": cache_bytes}, "s3_request_retries": RETRIES})


@dataclass(frozen=True, slots=True)
class Level:
    """One level of a pyramid. Shapes are voxels z, y, x; `factor` is how many level-0 voxels one voxel spans by axis;
    `scale` and `translation` are nm, 1.0 a voxel where the voxel size is unknown.
    """

    number: int
    path: str
    shape: Shape3
    chunk: Shape3
    shard: Shape3
    dtype: np.dtype[Any]
    scale: Floats3
    translation: Floats3
    factor: Shape3
    store: Any
    near: NearLevel | None = None
    """Copies of its shards on a near disk, where there is one."""
    beside: int = 0
    """Bytes that decoding a chunk takes beside it, of a volume that is read where it lies: its chunks are of any size."""
    wanted: Wanted | None = None
    """Who waits for what of such a volume."""

    @property
    def shards(self) -> Shape3:
        """How many shards cover the level, by axis."""
        return grid_shape(self.shape, self.shard)

    @property
    def chunk_bytes(self) -> int:
        """Of one chunk, decoded."""
        return math.prod(self.chunk) * self.dtype.itemsize

    def decoded_bytes(self, box: Box) -> int:
        """Held at once to decode the chunks that hold `box`: at most VOXELS of them, but never less than one chunk."""
        covered = covered_voxels(box, self.chunk) * self.dtype.itemsize
        return self.decoding_bytes(min(covered, max(VOXELS, self.chunk_bytes)))

    def decoding_bytes(self, chunks: int) -> int:
        """Held while chunks of `chunks` bytes in all are decoded together."""
        return chunks + self.beside * min(DECODERS, -(-chunks // self.chunk_bytes))


class Reading:
    """Voxels that were asked for. Whoever loses interest cancels it, and what was not begun yet is never read."""

    __slots__ = ("_future", "_level", "_ref")

    def __init__(self, ref: VolumeRef, level: Level, future: Any) -> None:
        self._ref = ref
        self._level = level
        self._future = future

    async def voxels(self) -> NDArray[Any]:
        """In C order, little-endian. Raises DamagedVolumeError naming the chunk, StoreUnavailableError."""
        with named_faults(self._ref, self._level):
            voxels: NDArray[Any] = await self._future
        return voxels.astype(self._level.dtype, copy=False)

    def done(self) -> bool:
        """Whether nothing is being read for it any more."""
        return bool(self._future.done())

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self._future.cancel()


class Watch(Protocol):
    """Looks whether a volume that is read where it lies is still what was registered."""

    async def check(self) -> None:
        """Raises SourceChangedError, SourceAwayError, SourceClosedError."""


@dataclass(frozen=True, slots=True)
class OpenVolume:
    """One immutable revision, ready to be read. `watch`: of one that is read where it lies, checked before every answer."""

    ref: VolumeRef
    digest: str
    record: MetadataRecord
    levels: tuple[Level, ...]
    watch: Watch | None = None
    arrays: int | None = None
    """The revision whose arrays it shows, where only its metadata is its own (decisions/0016)."""

    @property
    def arrays_of(self) -> int:
        """The revision below whose OME-Zarr its arrays lie."""
        assert self.ref.revision is not None
        return self.ref.revision if self.arrays is None else self.arrays

    def level(self, number: int) -> Level:
        """Raises UnknownLevelError."""
        if number >= len(self.levels):
            raise UnknownLevelError(
                f"{self.ref} has no level {number}", hint=f"its levels are 0 (full resolution) to {len(self.levels) - 1}"
            )
        return self.levels[number]

    def voxel_size_nm(self, level: Level) -> NmOrNone3:
        """Nanometres per voxel of `level`, z, y, x; None where nobody knows."""
        known = self.record.metadata.core.voxel_size_nm
        z, y, x = (None if nm is None else s for nm, s in zip(known, level.scale, strict=True))
        return (z, y, x)

    def fitting_level(self, size_nm: Floats3) -> Level:
        """The coarsest level none of whose voxels is larger than `size_nm` along any axis; level 0 where all are larger.

        Raises VoxelSizeUnknownError.
        """
        self.check_voxel_size()
        fitting = self.levels[0]
        for level in self.levels:
            # a millionth: nm are sums and products of decimal fractions
            if all(s <= wanted * (1 + 1e-6) for s, wanted in zip(level.scale, size_nm, strict=True)):
                fitting = level
        return fitting

    def check_voxel_size(self) -> None:
        """Raises VoxelSizeUnknownError where nanometres say nothing about this volume."""
        if None in self.record.metadata.core.voxel_size_nm:
            raise VoxelSizeUnknownError(
                f"nobody knows the voxel size of {self.ref} along every axis, so nanometres say nothing",
                hint="ask in voxels (origin, shape), or ingest it again with voxel_size_nm",
            )

    def begin(self, level: Level, box: Box, batch: ts.Batch | None = None) -> Reading:
        """Ask for the voxels of `box`, which lies within the level: what is asked for in one batch shares its chunks."""
        if covered_voxels(box, level.chunk) * level.dtype.itemsize > VOXELS:
            return Reading(self.ref, level, asyncio.ensure_future(self._in_pieces(level, box)))
        if level.near is not None and level.near.have(box):
            near = level.near.store[box.slices()].read(batch=batch)
            return Reading(self.ref, level, asyncio.ensure_future(_near_or_far(near, level, level.near, box)))
        if level.wanted is not None:
            return Reading(self.ref, level, level.wanted.while_read(box, level.store[box.slices()].read))
        return Reading(self.ref, level, level.store[box.slices()].read(batch=batch))

    async def read(self, level: Level, box: Box) -> NDArray[Any]:
        """Voxels of `box`, in C order, little-endian; `box` lies within the level.

        Raises DamagedVolumeError naming the chunk where one is missing or broken, StoreUnavailableError.
        """
        return await self.begin(level, box).voxels()

    async def _in_pieces(self, level: Level, box: Box) -> NDArray[Any]:
        out = np.empty(box.shape, level.dtype)
        await self.read_into(out, level, box)
        return out

    async def read_into(self, out: NDArray[Any], level: Level, box: Box) -> None:
        """`read`, into an array of the box's shape and the level's dtype that need not be contiguous."""
        target = ts.array(out)
        for piece in box.tiles(_piece(box, level)):
            at = piece.moved((-box.start[0], -box.start[1], -box.start[2]))
            with named_faults(self.ref, level):
                await _copied(target[at.slices()], level, piece)


async def _near_or_far(near: Any, level: Level, copies: NearLevel, box: Box) -> NDArray[Any]:
    """What a near disk gives; where that is nothing good, what the store gives."""
    try:
        voxels: NDArray[Any] = await near
    except ValueError:
        copies.forget(box)
        voxels = await level.store[box.slices()].read()
    return voxels


async def _copied(target: Any, level: Level, box: Box) -> None:
    """`box` of the level into `target`, as `_near_or_far`."""
    if level.near is not None and level.near.have(box):
        try:
            await target.write(level.near.store[box.slices()])
        except ValueError:
            level.near.forget(box)
        else:
            return
    if level.wanted is not None:
        await level.wanted.while_read(box, lambda: target.write(level.store[box.slices()]))
        return
    await target.write(level.store[box.slices()])


async def open_volume(objects: Objects, context: ts.Context, ref: VolumeRef, near: NearShards | None = None) -> OpenVolume:
    """Open a committed revision. Raises DamagedVolumeError where what the commit promises is not there, StoreUnavailableError."""
    revision = ref.revision
    assert revision is not None
    root = storage.zarr_root(ref.volume, revision)
    try:
        commit, record, group = await asyncio.gather(
            objects.get(storage.VOLUMES, storage.commit(ref.volume, revision)),
            objects.get(storage.VOLUMES, storage.record(ref.volume, revision)),
            objects.get(storage.VOLUMES, root + "zarr.json"),
        )
    except ObjectMissingError as error:
        raise DamagedVolumeError(f"{ref} is committed, but {error.message}", hint=RESTORE) from error
    grids = _grids(ref, group)
    try:
        point = Commit.model_validate_json(commit)
        digest = point.digest
        described = MetadataRecord.model_validate_json(record)
    except ValidationError as error:
        raise DamagedVolumeError(f"{ref}: its record or commit is not what it should be: {error}", hint=RESTORE) from error
    root = storage.zarr_root(ref.volume, point.arrays_of)
    stores = await asyncio.gather(
        *(_open_array(ref, g.path, objects.kvstore(storage.VOLUMES, f"{root}{g.path}/"), context) for g in grids)
    )
    levels = [_level(k, store, stores[0], grid) for k, (store, grid) in enumerate(zip(stores, grids, strict=True))]
    if near is not None:
        known_as = f"{ref.volume}/r{revision}-{digest}"
        opened = (NearLevel.open(near, one.store, context, one.path, known_as, f"{root}{one.path}/") for one in levels)
        levels = [replace(one, near=copies) for one, copies in zip(levels, await asyncio.gather(*opened), strict=True)]
    return OpenVolume(ref, digest, described, tuple(levels), arrays=point.arrays)


async def _open_array(ref: VolumeRef, path: str, kvstore: dict[str, Any], context: ts.Context) -> Any:
    spec = {
        "driver": "zarr3",
        "kvstore": kvstore,
        # A lost shard or chunk must be an error: every one of ours is stored, zeros too (PROTOCOL section 3).
        "fill_missing_data_reads": False,
        # A revision never changes: what was read after opening it is never asked for again.
        "recheck_cached_metadata": "open",
        "recheck_cached_data": "open",
    }
    try:
        store = await ts.open(spec, open=True, read=True, context=context)
    except ValueError as error:
        raise fault_of(error, f"{ref} level {path}", "its zarr.json") from error
    if store.rank != 3:
        raise DamagedVolumeError(f"{ref} level {path} has {store.rank} axes, not z, y, x", hint=RESTORE)
    return store


@dataclass(frozen=True, slots=True)
class _Grid:
    """Where a level lies, in the store and in the world (nm; 1.0 a voxel where unknown)."""

    path: str
    scale: Floats3
    translation: Floats3


def _grids(ref: VolumeRef, group: bytes) -> list[_Grid]:
    """The levels a group's `zarr.json` names (NGFF 0.5, "multiscales"). Raises DamagedVolumeError."""
    try:
        return [_grid(dataset) for dataset in json.loads(group)["attributes"]["ome"]["multiscales"][0]["datasets"]]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DamagedVolumeError(f"{ref}: its zarr.json is no OME-Zarr 0.5 multiscale: {error!r}", hint=RESTORE) from error


def _grid(dataset: dict[str, Any]) -> _Grid:
    said = {t["type"]: t for t in dataset["coordinateTransformations"]}
    translation = said["translation"]["translation"] if "translation" in said else (0.0, 0.0, 0.0)
    return _Grid(str(dataset["path"]), _floats(said["scale"]["scale"]), _floats(translation))


def _floats(values: Any) -> Floats3:
    z, y, x = values
    return (float(z), float(y), float(x))


def _level(number: int, store: Any, finest: Any, grid: _Grid) -> Level:
    fz, fy, fx = (_factor(n, m) for n, m in zip(finest.shape, store.shape, strict=True))
    return Level(
        number=number,
        path=grid.path,
        shape=_shape(store.shape),
        chunk=_shape(store.chunk_layout.read_chunk.shape),
        shard=_shape(store.chunk_layout.write_chunk.shape),
        dtype=store.dtype.numpy_dtype.newbyteorder("<"),
        scale=grid.scale,
        translation=grid.translation,
        factor=(fz, fy, fx),
        store=store,
    )


def _factor(finest: int, voxels: int) -> int:
    """Voxels of level 0 that one of this level spans, where each halving of n leaves (n + 1) // 2.

    From the shapes: NGFF's scale does not tell where the voxel size is unknown.
    """
    factor = 1
    while -(-finest // factor) > voxels:
        factor *= 2
    return factor


def _shape(values: Any) -> Shape3:
    z, y, x = values
    return (int(z), int(y), int(x))


def covered_voxels(box: Box, chunk: Shape3) -> int:
    """Voxels of all chunks that hold some of `box`."""
    return math.prod((-(-b // c) - a // c) * c for a, b, c in zip(box.start, box.stop, chunk, strict=True))


def _piece(box: Box, level: Level) -> Shape3:
    """Whole chunks of at most VOXELS bytes (one chunk at least), as few cuts through `box` as can be."""
    chunks = [-(-b // c) - a // c for a, b, c in zip(box.start, box.stop, level.chunk, strict=True)]
    most = max(1, VOXELS // (math.prod(level.chunk) * level.dtype.itemsize))
    while math.prod(chunks) > most:
        longest = chunks.index(max(chunks))
        chunks[longest] = -(-chunks[longest] // 2)
    z, y, x = (n * c for n, c in zip(chunks, level.chunk, strict=True))
    return (z, y, x)


def _index(texts: Any) -> Index3:
    z, y, x = (int(t) for t in texts)
    return (z, y, x)


def shard_of(levels: tuple[Level, ...], key: str) -> tuple[Level, Index3] | None:
    """The shard that `key` of the Zarr names, None where it names no shard inside an array's grid."""
    for level in levels:
        match = re.fullmatch(rf"{re.escape(level.path)}/c/(0|[1-9]\d{{0,9}})/(0|[1-9]\d{{0,9}})/(0|[1-9]\d{{0,9}})", key)
        if match is not None:
            index = _index(match.groups())
            return (level, index) if all(i < n for i, n in zip(index, level.shards, strict=True)) else None
    return None
