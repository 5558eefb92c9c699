"""Metadata-only revisions: what may be said anew of a volume whose voxels stay as they are, by whom, and why."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field, JsonValue, model_validator

from emporter_contracts.commands import Message

LEAST_NM, MOST_NM = 1e-3, 1e7
"""Of a voxel's edge: a picometre and a centimetre. Beyond them somebody mistook the unit."""
FARTHEST_NM = 1e12
"""Of an offset: a kilometre."""

Edge = Annotated[float, Field(ge=LEAST_NM, le=MOST_NM, allow_inf_nan=False)]
Place = Annotated[float, Field(ge=-FARTHEST_NM, le=FARTHEST_NM, allow_inf_nan=False)]
Line = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*$")]
Text = Annotated[str, Field(min_length=1, max_length=5000, pattern=r"^[^\x00]*$")]


class Changes(Message):
    """What is said anew; None leaves a field as it is. Lengths are nm, axes z, y, x; None among three: nobody knows."""

    voxel_size_nm: tuple[Edge | None, Edge | None, Edge | None] | None = None
    offset_nm: tuple[Place, Place, Place] | None = None
    """Where the centre of the first voxel of level 0 lies."""
    name: Line | None = None
    description: Text | None = None
    modality: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9 _.+-]{0,63}$")] | None = None
    licence: Line | None = None
    """An SPDX identifier, a URL, or words."""
    citation: Annotated[tuple[Line, ...], Field(min_length=1, max_length=20)] | None = None


class ReviseVolume(Message):
    """Body of `volume.revise`: `volume` may be pinned (`@r<N>`), and is then refused once another revision is current."""

    volume: Annotated[str, Field(max_length=160)]
    changes: Changes
    by: Line = "unknown"
    reason: Annotated[str, Field(max_length=500)] = ""

    @model_validator(mode="after")
    def _says_something(self) -> ReviseVolume:
        if not self.changes.model_dump(exclude_none=True):
            raise ValueError("nothing is to be changed: say voxel_size_nm, licence, …")
        return self


class Revised(Message):
    """Answer to `volume.revise`; `existing` where the volume says all of it already and nothing was made."""

    volume: str
    revision: int
    revises: int
    existing: bool = False
    held_by: tuple[str, ...] = ()
    """Gates and rules that keep it from becoming current."""


class Revising(Message):
    """Part of the claim of a revision: all that makes it, so that whoever finds the claim can finish it.

    `revises` is the revision whose metadata is changed, `arrays` the one whose shards are shown.
    """

    volume: str
    revises: int
    arrays: int
    changes: Changes
    by: str
    reason: str = ""
    at: datetime


class Correction(Message):
    """One metadata-only revision as a record tells it: what was said before, by whom, and what is said now, field by field."""

    revises: int
    arrays: int
    by: str
    reason: str = ""
    at: datetime
    before: dict[str, JsonValue] = {}
    after: dict[str, JsonValue] = {}
