"""The seam every archive fills: what is there, its bytes by ranges, and how politely they are had."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import JsonValue

from emporter_contracts.acquisition import Acquisition
from emporter_contracts.commands import IngestRequest, Select
from emporter_contracts.geometry import Box, VoxelSize
from emporter_contracts.plans import Caveat, Licence, PlannedObject, Role
from emporter_readers.protocol import ByteSource
from fetcher.gate import Gate


@dataclass(frozen=True, slots=True)
class Context:
    """The run a listing is made for."""

    job: str
    revision: int


@dataclass(frozen=True, slots=True)
class Claims:
    """What the archive's API says of a volume besides its voxel size: compared with the files, which count."""

    shape: tuple[int | None, int | None, int | None] = (None, None, None)
    """z, y, x; None where it does not say."""
    dtype: str | None = None
    """numpy name."""


@dataclass(frozen=True, slots=True)
class Part:
    """Objects the archive itself says belong together, and what it says of the volumes in them."""

    objects: tuple[int, ...]
    """Positions in the listing, in slice order."""
    name: str = ""
    """Empty where the listing has one part; else unique in it, and part of the volume ids."""
    voxel_size: VoxelSize = VoxelSize()
    """What the archive's API or page says, nm, z y x; the files themselves are asked first."""
    role: Role | None = None
    labels_of: str | None = None
    """Volume id of the image these labels belong to."""
    select: Select = Select()
    """Which of the volumes in the objects is meant, where the archive says; what the request says comes first."""
    claims: Claims = Claims()
    acquisition: Acquisition = Acquisition()
    """What the archive says; the files themselves are asked first."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What one request stands for in one archive. `parts` is empty where the archive does not group its objects."""

    objects: tuple[PlannedObject, ...]
    download_url: str
    parts: tuple[Part, ...] = ()
    description: str = ""
    modality: str = "unknown"
    licence: Licence = Licence()
    citation: tuple[str, ...] = ()
    caveats: tuple[Caveat, ...] = ()
    region: Box | None = None
    """What of its one array was listed, counted from its first voxel, where that is not all of it."""
    archive: dict[str, JsonValue] = field(default_factory=dict)
    """What the archive said, verbatim."""


class Source(Protocol):
    """One archive. All methods belong to the event loop; what `open` gives is read from worker threads."""

    name: str
    gate: Gate
    """What this process holds in memory, shared by all its sources."""
    connections: int
    """Objects fetched at once by one process: the archive's politeness."""

    async def resolve(self, request: IngestRequest, context: Context, /) -> Listing:
        """Every object the request stands for, with size and version. Raises FetcherError, TransientError or RefusedError."""

    def open(self, planned: PlannedObject) -> ByteSource:
        """An object for reading its headers, without copying it. Reads raise SourceChangedError for another version."""

    def fetch(self, planned: PlannedObject, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Bytes `start` to `stop` (exclusive) in order, in pieces of any size; exactly these or an error.

        Raises SourceChangedError where the object is no longer the planned version, RangesIgnoredError where it can only be
        had whole. Close it (`aclosing`) when it is not read to its end.
        """

    async def close(self) -> None:
        """Let go of connections."""
