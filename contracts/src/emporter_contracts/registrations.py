"""A volume that is read where it lies, without a copy: what it is, and by what one tells that it changed."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from emporter_contracts.commands import Index3, Message, Select, Shape3
from emporter_contracts.geometry import VoxelSize
from emporter_contracts.plans import Role

PREFIX = "registered-"
"""What the names of these volumes begin with: no source has that name, so none of them is ever an ingest's."""


class SourceDocument(Message):
    """A metadata document below the root, by name, as it was when the volume was registered."""

    name: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class RegisteredLevel(Message):
    """One level: voxels z, y, x, `number` as the source counts its levels; scale and translation in nm (1.0 a voxel of level 0
    where the voxel size is unknown); `factor` is how many level-0 voxels one of its voxels spans.
    """

    number: Annotated[int, Field(ge=0)]
    shape: Shape3
    chunk: Shape3
    scale: tuple[float, float, float]
    translation: tuple[float, float, float]
    factor: Shape3


class Registration(Message):
    """`registration.json`: written before the commit, whose digest is this document's SHA-256.

    `root` is an http(s)://, s3:// or gs:// folder, or `file-root:<name>/<folder>`; it holds no credentials. An object whose
    source says that it was changed after `as_of` (of the source's own clock, where it tells the time) is not the object that was
    registered.
    """

    volume: str
    revision: Annotated[int, Field(ge=1)]
    root: str
    format: Literal["zarr", "n5", "precomputed"]
    select: Select
    axes: str | None = None
    shape: Shape3
    dtype: str
    role: Role
    voxel_size: VoxelSize
    source_start: Index3 = (0, 0, 0)
    levels: Annotated[tuple[RegisteredLevel, ...], Field(min_length=1)]
    documents: Annotated[tuple[SourceDocument, ...], Field(min_length=1)]
    as_of: datetime
    registered_at: datetime
