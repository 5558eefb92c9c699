"""Files of one uncompressed plane each as one volume: all must be alike, and the odd one out is named."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from emporter_contracts.geometry import AXES, VoxelSize
from emporter_contracts.plans import Caveat
from emporter_readers.errors import AmbiguousContentError, CorruptObjectError
from emporter_readers.protocol import ByteSource
from emporter_readers.raw import PARALLEL, RawBlock, RawStack

SAME_SCALE = 1e-6
"""Relative; slices of one run repeat their calibration to the bit, and a float that was rewritten differs by less."""


@dataclass(frozen=True, slots=True)
class Slice:
    """One plane, and what its file says of its voxels."""

    block: RawBlock
    voxel_size: VoxelSize

    def __str__(self) -> str:
        _, rows, columns = self.block.shape
        sizes = zip(AXES[1:], self.voxel_size.nm[1:], strict=True)
        scale = ", ".join(f"{axis} {'unknown' if nm is None else f'{nm:g} nm'}" for axis, nm in sizes)
        return f"{rows} x {columns} {self.block.dtype.name} ({scale})"


SliceOf = Callable[[ByteSource], Slice]


def all_slices(sources: Sequence[ByteSource], slice_of: SliceOf) -> list[Slice]:
    """The slice of every source, in order. Raises what `slice_of` raises, and CorruptObjectError naming one that is not like
    the first.
    """
    with ThreadPoolExecutor(PARALLEL) as pool:
        slices = list(pool.map(slice_of, sources))
    for other in slices:
        _require_alike(slices[0], other)
    return slices


def stack_of(slices: Sequence[Slice], voxel_size: VoxelSize) -> RawStack:
    """A reader of slices whose headers are known."""
    known = {z: found.block for z, found in enumerate(slices)}
    return RawStack([block.source for block in known.values()], _unknown, known[0], voxel_size, known)


def opened_stack(sources: Sequence[ByteSource], slice_of: SliceOf, voxel_size: VoxelSize) -> RawStack:
    """A reader that reads the header of a slice when one of its voxels is first asked for."""
    first = slice_of(sources[0])

    def locate(source: ByteSource) -> RawBlock:
        other = slice_of(source)
        _require_alike(first, other)
        return other.block

    return RawStack(sources, locate, first.block, voxel_size)


def require_series_axes(axes: str | None, name: str) -> None:
    """What a request says of axes must fit slices along z. Raises AmbiguousContentError."""
    if axes not in (None, "zyx", "yx"):
        raise AmbiguousContentError(f"{name}: axes {axes!r} do not fit a series of slices", hint="say axes: zyx")


def order_assumed(sources: Sequence[ByteSource], axes: str | None) -> tuple[Caveat, ...]:
    """What is to be said of a volume of several files whose order nobody but their names tells."""
    if axes is not None or len(sources) == 1:
        return ()
    evidence = f"{len(sources)} files are taken as one volume along z, in the order given"
    return (Caveat(code="axes_assumed", evidence=evidence),)


def same_length(a: float | None, b: float | None) -> bool:
    """Whether two lengths, None where unknown, are one."""
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=SAME_SCALE)


def with_depth(size: VoxelSize, nm: float | None) -> VoxelSize:
    """`size` with what the file says of z."""
    return VoxelSize(nm=(nm, *size.nm[1:]), said_by=(None if nm is None else "file", *size.said_by[1:]))


def _unknown(source: ByteSource) -> RawBlock:
    raise CorruptObjectError(f"{source.name}: is no slice of this volume")


def _require_alike(first: Slice, other: Slice) -> None:
    # Byte order may differ: it says nothing of the image.
    same_kind = first.block.shape == other.block.shape and first.block.dtype.name == other.block.dtype.name
    if same_kind and all(same_length(a, b) for a, b in zip(first.voxel_size.nm[1:], other.voxel_size.nm[1:], strict=True)):
        return
    raise CorruptObjectError(
        f"{other.block.source.name}: is {other}, {first.block.source.name} is {first}",
        hint="slices of one volume have one shape, dtype and pixel size; leave the odd file out",
    )
