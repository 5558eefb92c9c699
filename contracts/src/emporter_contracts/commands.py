"""What may be asked, and may be refused. Bodies are JSON; unknown fields are ignored on reading (PROTOCOL section 2)."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from emporter_contracts.geometry import Box, Index3, Nanometres, Shape3

MAX_VOXELS_PER_AXIS = 2**31 - 1
"""Longer than any axis in any archive by four orders of magnitude; a request past it is a mistake, not a volume."""
MAX_REQUEST_BYTES = 256 * 1024
"""Of one ingest request. A request names things; what needs more room is a file."""

Offset = Annotated[int, Field(ge=0, le=MAX_VOXELS_PER_AXIS)]
Extent = Annotated[int, Field(ge=1, le=MAX_VOXELS_PER_AXIS)]
Extents3 = tuple[Extent, Extent, Extent]


class Message(BaseModel):
    """A frozen value of the contracts: what we write is exactly this, what we read may hold more."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="null")


class Region(Message):
    """A box of the archive's own voxels, z, y, x."""

    origin: tuple[Offset, Offset, Offset]
    shape: Extents3

    def box(self) -> Box:
        return Box.at(self.origin, self.shape)


class RandomRegion(Message):
    """A box of `shape` voxels at a place drawn from `seed`."""

    shape: Extents3
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class Select(Message):
    """Which part of a file or archive entry; None takes all there is (for `level`: the finest)."""

    series: Annotated[int, Field(ge=0)] | None = None
    channel: Annotated[int, Field(ge=0)] | None = None
    time: Annotated[int, Field(ge=0)] | None = None
    level: Annotated[int, Field(ge=0, le=32)] | None = None


class Output(Message):
    """How the OME-Zarr is laid out; None leaves it to the planner."""

    chunk: Extents3 | None = None
    shard: Extents3 | None = None
    codec: Literal["auto", "zstd", "blosc", "none"] = "auto"
    verify: Literal["sample", "full"] = "sample"

    @model_validator(mode="after")
    def _whole_chunks(self) -> Self:
        if self.shard is not None and self.chunk is None:
            raise ValueError("output.shard needs output.chunk: a shard is a whole number of chunks")
        if self.shard and self.chunk and any(s % c for s, c in zip(self.shard, self.chunk, strict=True)):
            raise ValueError("output.shard must be a whole number of chunks along each axis")
        return self


class IngestRequest(Message):
    """Bring one archive entry in. All but `source` and `source_id` is optional (DESIGN section 3)."""

    source: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
    source_id: Annotated[str, Field(min_length=1, max_length=2048)]
    region: Region | None = None
    random_region: RandomRegion | None = None
    select: Select = Select()
    axes: Annotated[str, Field(pattern=r"^[zyxct]{1,5}$")] | None = None
    rgb: Literal["luma", "split"] | None = None
    voxel_size_nm: tuple[Nanometres | None, Nanometres | None, Nanometres | None] | None = None
    role: Literal["auto", "image", "labels"] = "auto"
    labels_of: Annotated[str, Field(max_length=140)] | None = None
    output: Output = Output()
    force: Literal["no", "convert", "fetch"] = "no"
    refresh: bool = False
    parameters: dict[str, JsonValue] = {}

    @field_validator("source_id")
    @classmethod
    def _printable(cls, value: str) -> str:
        if re.search(r"[\x00-\x1f\x7f]", value) or value != value.strip():
            raise ValueError("source_id holds control characters or ends in white space")
        return value

    @model_validator(mode="after")
    def _one_region(self) -> Self:
        if self.region is not None and self.random_region is not None:
            raise ValueError("region and random_region exclude each other")
        return self


class RunIdentity(Protocol):
    """Anything that says which run of which job it is about: a command, an event, a job's state."""

    @property
    def job(self) -> str: ...
    @property
    def revision(self) -> int: ...
    @property
    def generation(self) -> int: ...


class JobCommand(Message):
    """A command about one run of a job: whoever reads it checks that this run is still the current one."""

    job: str
    revision: Annotated[int, Field(ge=1)]
    generation: Annotated[int, Field(ge=1)]

    @classmethod
    def of(cls, run: RunIdentity, **fields: Any) -> Self:
        """The command about the run that `run` is about."""
        return cls(job=run.job, revision=run.revision, generation=run.generation, **fields)


class PlanFetch(JobCommand):
    """Resolve the request into objects and volumes, and store the plan."""


class FetchBatch(JobCommand):
    """Store batch `n` of the plan's units."""

    source: str
    n: Annotated[int, Field(ge=0)]


class FinishFetch(JobCommand):
    """Everything is stored: hash the objects that lie in segments and write the manifest."""


class PlanConversion(JobCommand):
    """Lay out the target grid of every volume and store it."""


class ConvertTask(JobCommand):
    """Write the shards of task `n` of one level of one volume."""

    volume: str
    level: Annotated[int, Field(ge=0)]
    n: Annotated[int, Field(ge=0)]


class FinishVolume(JobCommand):
    """Every shard is written: verify, write record and group metadata, commit."""

    volume: str


class Control(Message):
    """Body of `ingest.control.<job>`."""

    action: Literal["cancel", "retry", "pause", "resume"]


class CatalogQuery(Message):
    """Body of `catalog.query`: the same filters as `GET /v1/volumes`."""

    kind: Literal["volumes", "volume", "jobs", "job", "facets", "lineage", "events", "raw", "citations", "quality"] = "volumes"
    id: str | None = None
    """Of the volume or job; for `raw` the SHA-256 of a file, or its URL. `citations` without one are of all volumes that fit,
    `quality` without one is of all volumes."""
    q: str | None = None
    source: str | None = None
    status: str | None = None
    modality: str | None = None
    organism: str | None = None
    dtype: str | None = None
    licence: str | None = None
    role: str | None = None
    labels_of: str | None = None
    verified: str | None = None
    verdict: str | None = None
    """Of the quality gates on the revision shown: pass, warn or fail."""
    gate: str | None = None
    """`shifted`: only volumes of which this gate warns or fails on the revision shown; `shifted:fail`: that it says this of."""
    held: bool | None = None
    """True: only volumes of which a revision waits to be released, the one shown or a newer one."""
    caveat: str | None = None
    managed: bool | None = None
    """False: only volumes that are read where they lie; True: only those that are kept here."""
    annotation: str | None = None
    """`key`, or `key=value`."""
    ranges: dict[str, str] = {}
    """`low..high` by name, both included, either may be left out: `{"voxel_nm": "4..8", "bytes": "..1e9"}`."""
    where: tuple[str, ...] = ()
    """Conditions on the record by JSON path: `metadata.core.axes=zyx`, `additional_metadata.idr_metadata.sample~mouse`."""
    max_voxel_nm: float | None = None
    sort: str = "-updated_at"
    cursor: str | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class Accepted(Message):
    """Answer to a request or control that was taken; `existing` when nothing new was started."""

    job: str
    revision: int
    generation: int = 1
    state: str
    existing: bool = False


class Refusal(Message):
    """Answer to what could not be taken: a stable code, what is wrong, what to do."""

    code: str
    message: str
    hint: str = ""


def request_of(body: dict[str, Any]) -> IngestRequest:
    """The request in `body`. Raises pydantic.ValidationError."""
    return IngestRequest.model_validate(body)


__all__ = [
    "Accepted", "CatalogQuery", "Control", "ConvertTask", "FetchBatch", "FinishFetch", "FinishVolume", "Index3",
    "IngestRequest", "JobCommand", "Message", "Output", "PlanConversion", "PlanFetch", "RandomRegion", "Refusal",
    "Region", "Select", "Shape3", "request_of",
]  # fmt: skip
