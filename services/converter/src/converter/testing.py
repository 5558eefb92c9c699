"""A whole conversion in one process: an array becomes a run, its plan, every task and its finish. For tests and measurements."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.census import empty_of
from converter.entered import Entered
from converter.finishing import STANDARD, finish_volume
from converter.ngff import create_arrays
from converter.planning import plan_conversion
from converter.quality_policy import QualityPolicy
from converter.writing import write_task
from emporter_contracts.commands import IngestRequest, Output
from emporter_contracts.events import ShardWritten
from emporter_contracts.geometry import Box, ChunkGrid, Index3, Shape3, VoxelSize
from emporter_contracts.plans import (
    ConversionPlan,
    FetchPlan,
    InboxKey,
    Manifest,
    ManifestObject,
    PlannedObject,
    PlannedVolume,
    Role,
    VolumePlan,
)
from emporter_readers.array import ArrayReader, RegionReader
from emporter_readers.protocol import Reader
from emporter_runtime.objects import Objects

MEMORY = 2**30
UNKNOWN = VoxelSize()
AS_PLANNED = Output()
WHEN = datetime(2024, 5, 17, 12, tzinfo=UTC)
Shards = dict[tuple[int, int], tuple[ShardWritten, ...]]


def never() -> None:
    """The `stop` of work that nobody stops."""


@dataclass(slots=True)
class Run:
    """One volume of one run, as the fetcher would leave it."""

    reader: Reader
    fetch: FetchPlan
    manifest: Manifest
    request: IngestRequest
    memory: int = MEMORY
    shards: Shards = field(default_factory=dict)

    @property
    def volume(self) -> str:
        return self.fetch.volumes[0].volume

    def plan(self) -> ConversionPlan:
        return plan_conversion(self.fetch, {self.volume: self.reader}, self.request, self.memory)

    def write(self, objects: Objects, plan: VolumePlan) -> None:
        """Every task of every level, as a converter would, one after another."""
        create_arrays(objects, plan, self.fetch.revision)
        for level, n in tasks(plan):
            if (level, n) in self.shards:
                continue
            self.shards |= {(made, n): shards for made, shards in self.write_task(objects, plan, level, n).items()}

    def write_task(self, objects: Objects, plan: VolumePlan, level: int, n: int) -> dict[int, tuple[ShardWritten, ...]]:
        """As a converter does a command."""
        empty = empty_of(self.fetch, self.volume)
        return write_task(objects, plan, self.fetch.revision, level, n, empty, lambda: self.reader, never)

    def finish(self, objects: Objects, plan: ConversionPlan, shards: Shards, policy: QualityPolicy = STANDARD) -> str:
        run = (self.fetch, self.manifest, plan, self.volume, self.request)
        return finish_volume(objects, *run, entered(plan, shards), lambda: self.reader, never, policy)

    def convert(self, objects: Objects) -> VolumePlan:
        """All of it; the plan it was done by."""
        plan = self.plan()
        self.write(objects, plan.volumes[0])
        self.finish(objects, plan, self.shards)
        return plan.volumes[0]


def entered(plan: ConversionPlan, shards: Shards) -> Entered:
    """As the ledger of a run of one volume says it."""
    return Entered.of(plan.volumes[0], (shard for written in shards.values() for shard in written))


def tasks(plan: VolumePlan) -> Iterator[tuple[int, int]]:
    """Level and number of every task, lower levels first."""
    for k, level in enumerate(plan.levels):
        for n in range(level.tasks):
            yield k, n


def a_volume(
    shape: Shape3,
    dtype: str = "uint8",
    *,
    role: Role = "image",
    voxel_size: VoxelSize = UNKNOWN,
    origin: Index3 = (0, 0, 0),
    source_shape: Shape3 | None = None,
) -> PlannedVolume:
    """As a fetch plan says it."""
    return PlannedVolume(
        volume="url-brain",
        name="brain",
        format="array",
        objects=(0,),
        shape=shape,
        dtype=dtype,
        voxel_size=voxel_size,
        role=role,
        source_shape=source_shape or shape,
        source_origin=origin,
        said={"ImageWidth": shape[2]},
    )


def a_run(
    voxels: NDArray[Any],
    *,
    native: Shape3 = (1, 32, 2**20),
    role: Role = "image",
    voxel_size: VoxelSize = UNKNOWN,
    region: Box | None = None,
    output: Output = AS_PLANNED,
    memory: int = MEMORY,
) -> Run:
    """A run of one volume over an array; `native` is what one decode of it yields."""
    z, y, x = voxels.shape
    cell = (min(native[0], z), min(native[1], y), min(native[2], x))
    whole = ArrayReader(voxels, voxel_size, ChunkGrid(cell))
    box = region or Box.whole(whole.shape)
    volume = a_volume(box.shape, voxels.dtype.name, role=role, voxel_size=voxel_size, origin=box.start, source_shape=whole.shape)
    return run_of(whole if region is None else RegionReader(whole, box, voxel_size), volume, output, memory)


def run_of(reader: Reader, volume: PlannedVolume, output: Output = AS_PLANNED, memory: int = MEMORY) -> Run:
    """A run of one volume over any reader."""
    planned = PlannedObject(
        path="brain.tif", url="https://archive.example/brain.tif", location=InboxKey(key="0/brain.tif"), bytes=10, version="1"
    )
    fetch = FetchPlan(
        job=volume.volume,
        revision=1,
        source="url",
        source_id="https://archive.example/brain.tif",
        objects=(planned,),
        volumes=(volume,),
        planned_at=WHEN,
        download_url="https://archive.example/brain.tif",
        archive={"doi": "10.1/brain", "n": 2**60, "bad": float("nan")},
    )
    stored = ManifestObject(**planned.model_dump(), sha256="0" * 64)
    manifest = Manifest(job=fetch.job, revision=1, objects=(stored,), archive=fetch.archive, completed_at=WHEN)
    request = IngestRequest(source="url", source_id=fetch.source_id, output=output)
    return Run(reader, fetch, manifest, request, memory)


def tissue(shape: Shape3, dtype: str = "uint8", seed: int = 0) -> NDArray[Any]:
    """Voxels that look a little like tissue: smooth, noisy, the whole range of the dtype in use, no two planes alike."""
    random = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return random.normal(0, 1, shape).astype(kind)
    info = np.iinfo(kind)
    values: NDArray[Any] = random.integers(info.min, info.max, shape, kind, endpoint=True)
    return values


def segments(shape: Shape3, dtype: str = "uint32", seed: int = 0) -> NDArray[Any]:
    """Labels in blocks of a few voxels, with ids from all over the dtype, and speckles that tie."""
    random = np.random.default_rng(seed)
    info = np.iinfo(dtype)
    ids = random.integers(0, info.max, 50, dtype, endpoint=True)
    coarse = random.integers(0, 50, tuple(-(-n // 5) for n in shape))
    blocks = np.repeat(np.repeat(np.repeat(coarse, 5, 0), 5, 1), 5, 2)[: shape[0], : shape[1], : shape[2]]
    labels: NDArray[Any] = ids[blocks]
    labels[random.random(shape) < 0.2] = ids[0]
    return labels
