"""Boxes for training: how they are asked for, where they lie, and the file that keeps them. Axis order z, y, x."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from emporter_contracts.commands import Extents3, Index3, IngestRequest, Message, Offset, Region
from emporter_contracts.geometry import Shape3
from emporter_contracts.ids import VolumeRef
from emporter_contracts.plans import Caveat, Licence, Role

SAMPLER_VERSION = 1
"""Raised whenever the same request on the same revision would give other boxes: how numbers are drawn, how they become places, in
which order they come, which boxes are tried."""
SET_VERSION = "1"
MAX_BOXES = 4096
"""Of one request; more is several requests with other seeds."""
MAX_REGIONS = 64
"""Boxes left out, or held out, in one request."""

Part = Literal["train", "validation"]
NmOrNone3 = tuple[float | None, float | None, float | None]
Share = Annotated[float, Field(gt=0, lt=1)]


class Split(Message):
    """Which part of a volume boxes may come from. The parts are regions, the same for every seed: no later draw can leak.

    `validation` is a share, the end of the longest axis (or of `axis`), the same voxels at every level; or regions of the level
    asked for. No voxel of a train box lies within `margin` voxels (of the level asked for) of a held-out region, along all axes.
    """

    model_config = ConfigDict(extra="forbid")

    part: Part
    validation: Share | Annotated[tuple[Region, ...], Field(min_length=1, max_length=MAX_REGIONS)] = 0.2
    margin: tuple[Offset, Offset, Offset] = (0, 0, 0)
    axis: Literal["z", "y", "x"] | None = None


class SampleRequest(Message):
    """`n` different boxes of `shape`, all voxels of `level`. Nothing about them depends on anything but this and the revision.

    `min_foreground`: the share of foreground, in the volume `labels` where one is named, else in the volume itself. Foreground of
    labels is what is not 0, of an image what is not the value its source is filled with (`technical.fill_value` of its record).
    """

    model_config = ConfigDict(extra="forbid")

    n: Annotated[int, Field(ge=1, le=MAX_BOXES)]
    shape: Extents3
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    level: Annotated[int, Field(ge=0, le=64)] = 0
    min_foreground: Annotated[float, Field(ge=0, le=1)] = 0.0
    labels: Annotated[str, Field(max_length=140)] | None = None
    exclude: Annotated[tuple[Region, ...], Field(max_length=MAX_REGIONS)] = ()
    """No box holds a voxel of these."""
    within: Region | None = None
    """Every box lies in it."""
    split: Split | None = None
    order: Literal["shard", "drawn"] = "shard"
    """shard: those of one shard together, so that a cache of a few shards serves them all."""
    format: Literal["raw", "places"] = "raw"


class LabelGrid(Message):
    """Where the labels of a box lie: in `ref`, at `level`, at the box's origin plus `offset`. The voxel size is the same."""

    ref: str
    digest: str
    level: int
    offset: Index3


class SamplePlaces(Message):
    """Where the boxes of a sample lie, without their voxels.

    `possible` places were open to a box before foreground was looked at, `tried` of them were drawn.
    """

    ref: str
    digest: str
    level: int
    shape: Shape3
    voxel_size_nm: NmOrNone3
    sampler_version: int
    seed: int
    origins: tuple[Index3, ...]
    labels: LabelGrid | None = None
    possible: int
    tried: int


class TrainingVolume(Message):
    """A volume a training set was drawn from, and what it takes to make it again elsewhere.

    `digest` is the commit's; `voxels_sha256` of the level-0 voxels in C order, little-endian; `request` the ingest that made it.
    """

    volume: str
    revision: Annotated[int, Field(ge=1)]
    digest: str
    voxels_sha256: str | None = None
    shape: Shape3
    dtype: str
    role: Role
    voxel_size_nm: NmOrNone3 = (None, None, None)
    source: str
    source_id: str
    files: tuple[str, ...] = ()
    request: IngestRequest | None = None
    licence: Licence = Licence()
    citation: tuple[str, ...] = ()
    caveats: tuple[Caveat, ...] = ()

    @property
    def ref(self) -> VolumeRef:
        return VolumeRef(self.volume, self.revision)


class Pairing(Message):
    """An image at a level, and its labels: both are positions in `volumes`. A box's labels lie at its origin plus `offset`."""

    image: Annotated[int, Field(ge=0)]
    level: Annotated[int, Field(ge=0)]
    voxel_size_nm: NmOrNone3
    labels: Annotated[int, Field(ge=0)] | None = None
    labels_level: Annotated[int, Field(ge=0)] = 0
    labels_offset: Index3 = (0, 0, 0)


class TrainingBox(Message):
    """One box: `pair` is a position in `pairs`, `origin` its first voxel at that pair's level."""

    pair: Annotated[int, Field(ge=0)]
    origin: tuple[Offset, Offset, Offset]
    part: Part = "train"


class TrainingSet(Message):
    """A training set as a file: which boxes of which immutable volumes, drawn how, on what terms. Replays without a sampler."""

    version: Literal["1"] = "1"
    created_at: datetime
    software: str = ""
    shape: Extents3
    sampler_version: int
    asked: SampleRequest
    """What was asked of each image; the parts differ in `split.part` and `n` only."""
    volumes: Annotated[tuple[TrainingVolume, ...], Field(min_length=1)]
    pairs: Annotated[tuple[Pairing, ...], Field(min_length=1)]
    boxes: Annotated[tuple[TrainingBox, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _positions(self) -> Self:
        if any(n >= len(self.volumes) for pair in self.pairs for n in (pair.image, pair.labels or 0)):
            raise ValueError("a pair names a volume that is not in the list")
        if any(box.pair >= len(self.pairs) for box in self.boxes):
            raise ValueError("a box names a pair that is not in the list")
        return self

    def part(self, part: Part) -> tuple[TrainingBox, ...]:
        """The boxes of one part, in the file's order."""
        return tuple(box for box in self.boxes if box.part == part)
