"""What was seen: values for programs, printed for people by the command line."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, JsonValue

from emporter_contracts.commands import Select
from emporter_contracts.geometry import Index3, Shape3, VoxelSize
from emporter_contracts.plans import Caveat, Role


class _Seen(BaseModel):
    model_config = ConfigDict(frozen=True)


class VolumeSeen(_Seen):
    """One volume, as its headers say; shape, native chunk and start are voxels z, y, x."""

    format: str
    name: str = ""
    select: Select
    """What `--series`, `--channel`, `--time` and `--level` of an ingest would be for it alone."""
    axes: str = "zyx"
    shape: Shape3
    dtype: str
    voxel_size: VoxelSize
    """nm, and for each axis who said so."""
    native_chunk: Shape3
    """What one decode yields: a strip, a tile, a page, a chunk."""
    compression: str
    levels: int | None = None
    """Resolutions of its pyramid; None where the format has none, or does not say before it is read."""
    role: Role | None = None
    """None where only voxels could tell."""
    start: Index3 = (0, 0, 0)
    translation_nm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    caveats: tuple[Caveat, ...] = ()
    said: dict[str, JsonValue] = {}


class Unreadable(_Seen):
    """Why it can't become a volume as it stands, and what to do."""

    code: str
    message: str
    hint: str = ""


class Inspection(_Seen):
    """`volumes` is empty where `unreadable` says why."""

    what: str
    files: int
    bytes: int | None
    """Of all files; None for the root of a remote array, which nobody lists."""
    bytes_read: int
    """Of these, to tell what it is."""
    series: int = 0
    channels: int = 0
    times: int = 0
    """How many there are of each, counted over the volumes."""
    volumes: tuple[VolumeSeen, ...] = ()
    unreadable: Unreadable | None = None
