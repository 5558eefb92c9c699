"""The seams: bytes in, voxels out.

A `ByteSource` is one raw object, readable by ranges; a `Reader` is a lazy 3-D volume over one or several of them.
Whoever has sources calls `discover` once and gets every volume they hold, headers read and no voxel touched; whoever has a
`FoundVolume` (or the plan that was stored of it) calls `open_volume` and reads boxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from emporter_contracts.acquisition import Acquisition
from emporter_contracts.commands import Select
from emporter_contracts.fills import Fill
from emporter_contracts.geometry import Box, ChunkGrid, Index3, Shape3, VoxelSize
from emporter_contracts.plans import Caveat, Role


class ByteSource(Protocol):
    """One raw object. `read` may be called from several threads at once.

    `name` is its path inside what the user asked for, with its suffix: it is what messages name.
    """

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int: ...

    def read(self, start: int, stop: int) -> bytes:
        """Exactly `stop - start` bytes, 0 <= start <= stop <= size; never short, never padded.

        Raises CorruptObjectError where the object ends early, and whatever the store or archive raises where it can't be reached.
        """


class Reader(Protocol):
    """A lazy 3-D volume. `read` may be called from several threads at once."""

    @property
    def shape(self) -> Shape3: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    @property
    def voxel_size(self) -> VoxelSize: ...

    @property
    def native(self) -> ChunkGrid: ...

    def read(self, box: Box) -> NDArray[Any]:
        """Voxels of `box`, a C-contiguous array of `box.shape` in native byte order.

        Raises CorruptObjectError naming the object; never pads, never guesses. Bytes read are proportional to the
        strips, tiles, pages or chunks that `box` touches.
        """


@dataclass(frozen=True, slots=True)
class Hints:
    """What the user said about content that does not say it itself."""

    select: Select = Select()
    axes: str | None = None
    rgb: Literal["luma", "split"] | None = None
    role: Literal["auto", "image", "labels"] = "auto"
    parameters: Mapping[str, JsonValue] = field(default_factory=dict)
    """Words that only one format knows, such as the `dataset` of an HDF5 file."""
    region: Box | None = None
    """What of the volume the sources hold, z, y, x from its first voxel, where an archive was asked for no more; None: all."""


@dataclass(frozen=True, slots=True)
class FoundVolume:
    """One volume that lies in some sources, as their headers say."""

    format: str
    """Name of the reader that opens it, such as `tiff`."""
    objects: tuple[int, ...]
    """Positions of its sources in the listing given to `discover`, in slice order."""
    series: str
    """Empty where the listing holds one volume; else a name such as `s0-c1-t0`, unique in it."""
    select: Select
    """What opens exactly this volume again."""
    shape: Shape3
    dtype: str
    """numpy name of the dtype in native byte order, such as `uint8`."""
    voxel_size: VoxelSize
    native: ChunkGrid
    role: Role = "image"
    axes: str | None = None
    rgb: Literal["luma", "split"] | None = None
    name: str = ""
    caveats: tuple[Caveat, ...] = ()
    parameters: Mapping[str, JsonValue] = field(default_factory=dict)
    """Those of the hints that open exactly this volume again."""
    said: dict[str, JsonValue] = field(default_factory=dict)
    """What the headers said, verbatim, fit for JSON."""
    start: Index3 = (0, 0, 0)
    """The archive's own index of the first voxel, z, y, x; not 0 where a format has offsets."""
    translation_nm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Where the centre of the archive's voxel 0 lies, z, y, x, as the headers say."""
    acquisition: Acquisition = Acquisition()
    region: Box | None = None
    """What of the volume the sources hold, from its first voxel; None: all. Outside of it a missing chunk is no fill value."""
    fill_value: Fill = 0
    """What voxels are that nobody stored; 0 where the format knows of none."""


class Format(Protocol):
    """One file format: a module of this package holds one."""

    @property
    def name(self) -> str: ...

    def claims(self, sources: Sequence[ByteSource]) -> bool:
        """Whether these sources, all of them, are of this format: by magic number and suffix, without reading voxels."""

    def discover(self, sources: Sequence[ByteSource], hints: Hints) -> list[FoundVolume]:
        """Every volume in them that `hints.select` does not exclude. Reads headers only. Raises ReaderError."""

    def open(self, sources: Sequence[ByteSource], found: FoundVolume) -> Reader:
        """The volume `found`; `sources` are those of `found.objects`, in that order. Raises ReaderError."""
