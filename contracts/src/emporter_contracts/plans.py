"""What is stored of a run before its first command: the fetch plan, the manifest, the conversion plan.

A stored plan is never changed: every generation of a revision works by it. One that no longer applies
(the archive changed, PLAN_VERSION changed) means a new revision.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime
from functools import cached_property
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, JsonValue

from emporter_contracts.acquisition import Acquisition
from emporter_contracts.commands import Index3, IngestRequest, Message, Select, Shape3
from emporter_contracts.fills import Fill
from emporter_contracts.geometry import Box, VoxelSize, grid_shape
from emporter_contracts.revisions import Revising

PLAN_VERSION = 1
"""Raised whenever the same request would lead to other segments, tasks or shards."""
SEGMENT_BYTES = 64 * 2**20
"""Bytes of one stored piece of a raw object. Large enough that request cost vanishes (< 1 % at 100 MB/s), small enough that a
killed fetcher loses under a second of work and four in flight stay within 256 MiB. Changing it: bump PLAN_VERSION."""
BATCH_OBJECTS = 256
"""Units of one fetch command at most, so that thousands of tiny objects don't become thousands of commands."""
BATCH_BYTES = SEGMENT_BYTES
"""Bytes of one fetch command at most: what a killed fetcher may have to fetch again."""
MAX_VOLUMES = 64
"""Volumes one job may hold; more is refused with the count and the selectors."""

Role = Literal["image", "labels"]
CaveatCode = Literal[
    "lossy", "resampled", "unaligned", "axes_assumed", "voxel_size_unknown", "bool_as_uint8", "rgb_as_grey", "rgb_luma",
    "role_guessed", "voxel_size_by_user", "chunks_missing", "api_down", "archive_disagrees", "isotropy_assumed",
    "read_in_place",
]  # fmt: skip


class Caveat(Message):
    """Something a user of the voxels must know, with the evidence for it."""

    code: CaveatCode
    evidence: str
    about: Literal["shape"] | None = None
    """Of `archive_disagrees`: what the gates judge it by, where they do."""


class Licence(Message):
    """Under what terms the archive gives the data; `known` is False where nobody says."""

    spdx: str | None = None
    url: str | None = None
    text: str | None = None
    known: bool = False


class Checksum(Message):
    """A checksum the archive itself publishes."""

    algorithm: Literal["md5", "sha1", "sha256"]
    hex: str


class Segments(Message):
    """Copied to `objects/<origin>/<k>`, k from 0, each SEGMENT_BYTES long but the last."""

    kind: Literal["segments"] = "segments"
    origin: str


class InboxKey(Message):
    """Uploaded by a client; read in place, never copied."""

    kind: Literal["inbox"] = "inbox"
    key: str


class FileRootPath(Message):
    """Lies under a file root the operator named; read in place, never copied."""

    kind: Literal["file-root"] = "file-root"
    root: str
    path: str


Location = Annotated[Segments | InboxKey | FileRootPath, Field(discriminator="kind")]


class PlannedObject(Message):
    """A file as the archive serves it. `version` is what tells that it changed: its etag, else its size and time."""

    path: str
    url: str
    location: Location
    bytes: Annotated[int, Field(ge=0)]
    version: str
    etag: str | None = None
    checksum: Checksum | None = None
    packed_in: Checksum | None = None
    """Of the archive it was unpacked from, where somebody said it."""

    @property
    def segments(self) -> int:
        """Units this object is fetched in; an empty object is one unit of no bytes."""
        return max(1, -(-self.bytes // SEGMENT_BYTES))


class PlannedVolume(Message):
    """One volume a job will hold, as its headers say: shape z, y, x of the region asked for, in archive voxels."""

    volume: str
    name: str
    format: str
    objects: tuple[int, ...]
    select: Select = Select()
    axes: str | None = None
    rgb: Literal["luma", "split"] | None = None
    parameters: dict[str, JsonValue] = {}
    """Words that only its format knows and that open it again, such as the `dataset` of an HDF5 file."""
    shape: Shape3
    dtype: str
    voxel_size: VoxelSize
    role: Role
    labels_of: str | None = None
    source_shape: Shape3
    native: Shape3 | None = None
    """What one decode of the source yields, voxels z, y, x: a page, strip or chunk."""
    source_origin: Index3 = (0, 0, 0)
    """Where the region begins in the archive's own index."""
    source_start: Index3 = (0, 0, 0)
    """The archive's own index of its first voxel: not 0 where a format has offsets (precomputed's `voxel_offset`)."""
    translation_nm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Where the centre of the archive's voxel 0 lies, z, y, x, as its metadata says."""
    fill_value: Fill = 0
    """What its source reads as where it stored nothing."""
    acquisition: Acquisition = Acquisition()
    caveats: tuple[Caveat, ...] = ()
    said: dict[str, JsonValue] = {}

    @property
    def region(self) -> Box:
        """The voxels asked for, counted from the first of the archive's array: as readers count."""
        z, y, x = (a - b for a, b in zip(self.source_origin, self.source_start, strict=True))
        return Box.at((z, y, x), self.shape)


class Unit(NamedTuple):
    """What is fetched and entered in the ledger as one: segment `segment` of object `obj`."""

    obj: int
    segment: int

    @property
    def id(self) -> str:
        return f"{self.obj}-{self.segment}"

    @classmethod
    def of_entry(cls, subject: str) -> Unit:
        """The unit whose entry in the ledger has this subject."""
        obj, segment = subject.rsplit(".", 1)[1].split("-")
        return cls(int(obj), int(segment))


class FetchPlan(Message):
    """`plan.json`: every object and every volume of a run."""

    plan_version: int = PLAN_VERSION
    job: str
    revision: int
    source: str
    source_id: str
    objects: tuple[PlannedObject, ...]
    volumes: tuple[PlannedVolume, ...]
    description: str = ""
    modality: str = "unknown"
    licence: Licence = Licence()
    citation: tuple[str, ...] = ()
    caveats: tuple[Caveat, ...] = ()
    archive: dict[str, JsonValue] = {}
    download_url: str = ""
    raw_bytes: int = 0
    voxel_bytes: int = 0
    stored_bytes_estimate: int = 0
    planned_at: datetime
    software: str = ""

    @property
    def copied_bytes(self) -> int:
        """Bytes that are copied into the store: of objects that are not read in place."""
        return sum(o.bytes for o in self.objects if isinstance(o.location, Segments))

    def units(self) -> Iterator[Unit]:
        """Every unit, in the order it is fetched."""
        for obj, planned in enumerate(self.objects):
            for segment in range(planned.segments):
                yield Unit(obj, segment)

    def unit_bytes(self, unit: Unit) -> int:
        """Bytes of one unit."""
        start = unit.segment * SEGMENT_BYTES
        return min(self.objects[unit.obj].bytes, start + SEGMENT_BYTES) - start

    @cached_property
    def batches(self) -> list[tuple[Unit, ...]]:
        """The units of every fetch command, named by position: at most BATCH_OBJECTS and BATCH_BYTES each."""
        batches: list[tuple[Unit, ...]] = []
        batch: list[Unit] = []
        held = 0
        for unit in self.units():
            size = self.unit_bytes(unit)
            if batch and (len(batch) == BATCH_OBJECTS or held + size > BATCH_BYTES):
                batches.append(tuple(batch))
                batch, held = [], 0
            batch.append(unit)
            held += size
        if batch:
            batches.append(tuple(batch))
        return batches


class StoredRequest(Message):
    """`request.json`: claims a revision. `event_id` is of the message that claimed it, so that a redelivery finds its own."""

    request: IngestRequest
    event_id: str
    received_at: datetime
    purpose: str = ""
    """What it is wanted for, as whoever asked says (`policy.PURPOSE_HEADER`)."""
    revising: Revising | None = None
    """The change of metadata that claimed the revision, where nothing is fetched; `request` is that of the voxels."""


class ManifestObject(Message):
    """A raw object as it was stored and hashed."""

    path: str
    url: str
    location: Location
    bytes: int
    sha256: str
    version: str
    etag: str | None = None
    checksum: Checksum | None = None
    packed_in: Checksum | None = None


class Manifest(Message):
    """`manifest.json`: written once, when every object is stored and hashed."""

    job: str
    revision: int
    objects: tuple[ManifestObject, ...]
    archive: dict[str, JsonValue] = {}
    completed_at: datetime


class Commit(Message):
    """`commits/<revision>.json`: from here on this revision of a volume can be read."""

    volume: str
    revision: int
    digest: str
    """Of shards, their metadata and the occupancy index: the same voxels converted in the same way have the same one."""
    documents: dict[str, str] = {}
    """SHA-256 of what else is stored of the revision, by key: it names times and jobs, or holds rounded numbers."""
    job: str
    committed_at: datetime
    arrays: int | None = None
    """The revision of the same volume whose arrays these are, where only metadata is new; None: its own."""

    @property
    def arrays_of(self) -> int:
        """The revision below whose OME-Zarr the shards lie."""
        return self.revision if self.arrays is None else self.arrays


class Hold(Message):
    """`held/<revision>.json`: committed and readable by its number, but not current until it is released."""

    volume: str
    revision: int
    gates: tuple[str, ...]
    held_at: datetime
    rules: tuple[str, ...] = ()
    """Rules of the policy that hold it. Once all that is left are rules that look at the clock, and they let go, it ends."""
    purpose: str | None = None
    """What the rules were told it is for; None where nobody wrote that down."""


class Tombstone(Message):
    """`removed/<revision>.json`: this revision was removed by an operator. `record` is what its `record.json` said, so that it is
    still known what was there; None where it could not be read.
    """

    volume: str
    revision: int
    removed_at: datetime
    record: dict[str, JsonValue] | None = None


class LevelPlan(Message):
    """One level of a target pyramid. Shapes are voxels z, y, x; `task` is the box one command writes, whole shards."""

    shape: Shape3
    chunk: Shape3
    shard: Shape3
    task: Shape3
    scale: tuple[float, float, float]
    translation: tuple[float, float, float]
    factor: Shape3 = (1, 1, 1)
    """How many voxels of the level below one voxel of this level was made of, by axis: 1 or 2."""
    band: Shape3 | None = None
    """What a task holds in memory at once, whole shards; None: all of it."""
    fused: bool = False
    """Task n of the level below makes task n of this level in the same pass; done alone it makes the same bytes."""

    @property
    def grid(self) -> Shape3:
        """Tasks along z, y, x."""
        return grid_shape(self.shape, self.task)

    @property
    def tasks(self) -> int:
        """How many commands write this level."""
        return math.prod(self.grid)

    def box(self, n: int) -> Box:
        """What task `n` writes: computed, for a level may have a million of them. IndexError where it has no such task."""
        if not 0 <= n < self.tasks:
            raise IndexError(f"task {n} of {self.tasks}")
        _, rows, columns = self.grid
        (z, y), x = divmod(n // columns, rows), n % columns
        start = (z * self.task[0], y * self.task[1], x * self.task[2])
        whole = Box.at(start, self.task).overlap(Box.whole(self.shape))
        assert whole is not None
        return whole

    def boxes(self) -> Iterator[Box]:
        """What every task writes, in the order of their numbers (C order)."""
        return map(self.box, range(self.tasks))


class VolumePlan(Message):
    """How one volume is stored: dtype, codec, levels (0 = full resolution)."""

    volume: str
    dtype: str
    codec: Literal["zstd", "blosc", "none"]
    role: Role
    levels: tuple[LevelPlan, ...]
    window_bits: int = 0
    over_read: float = 1.0
    """Bytes decoded over bytes needed: how often, on average, a source strip or chunk is decoded."""
    memory_bytes: int = 0
    """What a converter's process is expected to hold at most while it works on this."""
    ready: tuple[tuple[int, int], ...] = ()
    """(units, tasks), rising: once so many units of the fetch plan are stored, from the first on and without a gap, so many tasks
    of level 0 can run. Empty: none before the manifest is written."""


class ConversionPlan(Message):
    """`conversion.json`: the target grids of a run, written once, before its first task."""

    plan_version: int = PLAN_VERSION
    job: str
    revision: int
    volumes: tuple[VolumePlan, ...]
    memory_bytes: int
    planned_at: datetime

    def volume(self, volume: str) -> VolumePlan:
        """The plan of one volume; KeyError where the run has no such volume."""
        for plan in self.volumes:
            if plan.volume == volume:
                return plan
        raise KeyError(volume)
