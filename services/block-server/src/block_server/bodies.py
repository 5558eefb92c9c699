"""JSON bodies of POST routes: models that are checked, and described in OpenAPI, in one place."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from block_server.arrays import Level, OpenVolume
from block_server.cropping import FARTHEST, Asked, Frame, Outside
from block_server.formats import BlockFormat, Dtype
from block_server.queries import LONGEST, LevelNumber, Query

MOST = 16_384
"""Boxes of one request: to prepare them takes a tenth of a second, in which nobody else is served."""
MOST_VOLUMES = 16
"""Volumes of one request: an image, its labels, and a few more."""

Voxel = Annotated[int, Field(ge=-FARTHEST, le=FARTHEST)]
Index = tuple[Voxel, Voxel, Voxel]
Extent = Annotated[int, Field(ge=1, le=FARTHEST)]
Extents = tuple[Extent, Extent, Extent]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Length = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Place = tuple[Finite, Finite, Finite]
Lengths = tuple[Length, Length, Length]


def _alike(lengths: float | Lengths) -> Lengths:
    return lengths if isinstance(lengths, tuple) else (lengths, lengths, lengths)


Size = Annotated[Length | Lengths, AfterValidator(_alike)]


class Boxes(Query):
    """Boxes of one shape. Axes z, y, x."""

    shape: Annotated[Extents, Field(description="voxels of every box")]
    origins: Annotated[list[Index] | None, Field(max_length=MOST, min_length=1, description="first voxels, of the level")] = None
    origins_nm: Annotated[
        list[Place] | None, Field(max_length=MOST, min_length=1, description="world: the voxels nearest to them")
    ] = None
    outside: Annotated[Outside, Field(description="what to give for voxels outside the volume")] = "error"

    @model_validator(mode="after")
    def _placed(self) -> Self:
        if (self.origins is None) == (self.origins_nm is None):
            raise ValueError("give origins or origins_nm, one of them")
        return self

    def places(self, frame: Frame = "voxel") -> list[Asked]:
        """Where the boxes are, as if each were asked for by itself."""
        if self.origins_nm is not None:
            return [Asked(None, self.shape, place, None, frame) for place in self.origins_nm]
        return [Asked(place, self.shape, None, None, frame) for place in self.origins or ()]


class LevelChoice(Query):
    """Which level: by number, or by a voxel size."""

    level: Annotated[LevelNumber | None, Field(description="level of the pyramid, 0 = full resolution, the default")] = None
    voxel_size_nm: Annotated[Size | None, Field(description="nm, one number or z,y,x: the coarsest level that is no coarser")] = (
        None
    )

    @model_validator(mode="after")
    def _once(self) -> Self:
        if self.level is not None and self.voxel_size_nm is not None:
            raise ValueError("level and voxel_size_nm say the same thing twice")
        return self

    def level_of(self, volume: OpenVolume) -> Level | None:
        """The level named; None where none is. Raises UnknownLevelError, VoxelSizeUnknownError."""
        if self.voxel_size_nm is not None:
            return volume.fitting_level(_alike(self.voxel_size_nm))
        return None if self.level is None else volume.level(self.level)


class BlocksBody(Boxes, LevelChoice):
    """Boxes of one volume."""

    frame: Annotated[Frame, Field(description="of origins; source: the archive's own index, full resolution")] = "voxel"
    format: Annotated[BlockFormat | None, Field(description="if absent, by Accept; else raw")] = None
    dtype: Annotated[Dtype | None, Field(description="other than the stored one; numbers stay what they are")] = None
    window: Annotated[str | None, Field(max_length=LONGEST, description="contrast: auto, full, or low,high")] = None

    @model_validator(mode="after")
    def _framed(self) -> Self:
        if self.frame == "source" and self.origins_nm is not None:
            raise ValueError("frame=source is about voxels, not nanometres")
        return self


class Member(LevelChoice):
    """One of several volumes. Without a level: full resolution of the first, of the others the level that fits the first's."""

    volume: Annotated[str, Field(max_length=200, description="`<volume>` or `<volume>@r<N>`")]
    name: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9_.@-]{1,100}$", description="its tensor; if absent, `volume`")] = None


class PlacesBody(Boxes):
    """Boxes of several volumes at the same places: shape and origins are in voxels of the first one's level."""

    volumes: Annotated[list[Member], Field(min_length=1, max_length=MOST_VOLUMES)]

    @model_validator(mode="after")
    def _named(self) -> Self:
        names = [member.name or member.volume for member in self.volumes]
        if len(set(names)) < len(names) or "__metadata__" in names:
            raise ValueError("two tensors of one name: give each volume a name of its own")
        return self
