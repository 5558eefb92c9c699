"""DM3 and DM4 as a Format: the images of one file, or a series of files of one plane each as one volume."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from emporter_contracts.commands import Select
from emporter_contracts.geometry import AXES, VoxelSize
from emporter_contracts.plans import MAX_VOLUMES, Caveat
from emporter_readers.dm.images import TIME_UNITS, DmImage, true_images
from emporter_readers.dm.tags import looks_like_dm, read_tags
from emporter_readers.errors import AmbiguousContentError, CorruptObjectError, UnsupportedContentError
from emporter_readers.protocol import ByteSource, FoundVolume, Hints, Reader
from emporter_readers.raw import PARALLEL, RawBlock, RawReader, RawStack
from emporter_readers.sampling import role_of
from emporter_readers.selecting import matches, selected, series_name, spoken

SUFFIXES = (".dm3", ".dm4")
HEAD_BYTES = 32
SAME_SCALE = 1e-6
"""Relative; slices of one run repeat their calibration to the bit, and a float that was rewritten differs by less."""
SAY_AXES = "say axes: zyx, tyx or cyx"


@dataclass(frozen=True, slots=True)
class _Choice:
    """One volume of one file: an image, or one plane of it along time or channels."""

    image: DmImage
    select: Select
    plane: int | None = None
    """Of the third dimension, where it is not z."""
    caveats: tuple[Caveat, ...] = ()
    alone: bool = True
    """Whether the file holds no other."""

    def block(self, source: ByteSource) -> RawBlock:
        image = self.image
        assert image.dtype is not None
        rows, columns = image.axes[-2].size, image.axes[-1].size
        depth = image.outer.size if image.outer and self.plane is None else 1
        offset = image.offset + (self.plane or 0) * rows * columns * image.dtype.itemsize
        return RawBlock(source, offset, (depth, rows, columns), image.dtype)


class DmFormat:
    """See the Format protocol. Series are the images of a file; a third dimension of time gives one volume per time point."""

    name = "dm"

    def claims(self, sources: Sequence[ByteSource]) -> bool:
        # One look suffices for a folder of slices; each is looked at again when it is opened.
        return _is_dm(sources[0]) and all(_named_dm(source) or _is_dm(source) for source in sources[1:])

    def discover(self, sources: Sequence[ByteSource], hints: Hints) -> list[FoundVolume]:
        if len(sources) > 1:
            return [_stack(sources, hints)]
        choices = selected(_choices(sources[0], hints), hints.select, sources[0].name)
        return [_found(sources[0], choice, hints) for choice in choices]

    def open(self, sources: Sequence[ByteSource], found: FoundVolume) -> Reader:
        return _checked(_stack_reader(sources, found) if len(sources) > 1 else _reader(sources[0], found), found)


def _is_dm(source: ByteSource) -> bool:
    return looks_like_dm(source.read(0, min(HEAD_BYTES, source.size)))


def _named_dm(source: ByteSource) -> bool:
    return source.name.lower().endswith(SUFFIXES)


def _choices(source: ByteSource, hints: Hints) -> list[_Choice]:
    """Every volume of a file. Raises UnsupportedContentError for an image that can't be one, unless another one is selected."""
    images = true_images(read_tags(source), source.name, source.size)
    choices: list[_Choice] = []
    for number, image in enumerate(images):
        if hints.select.series not in (None, number):
            continue
        if image.refusal:
            others = f", or say select.series to take another of the {len(images)} images" if len(images) > 1 else ""
            raise UnsupportedContentError(image.refusal, hint=image.hint + others)
        choices.extend(_planes(number, image, hints, source.name))
    return choices if len(images) == 1 else [replace(choice, alone=False) for choice in choices]


def _planes(number: int, image: DmImage, hints: Hints, name: str) -> list[_Choice]:
    """The volumes of one image: itself, or each plane along a third dimension that is time or channels."""
    whole = Select(series=number, channel=0, time=0, level=0)
    axis, caveats = _third_axis(image, hints, name)
    if image.outer is None or axis == "z":
        return [_Choice(image, whole, caveats=caveats)]
    key = "time" if axis == "t" else "channel"
    wanted: int | None = getattr(hints.select, key)
    planes = range(image.outer.size) if wanted is None else range(wanted, min(wanted + 1, image.outer.size))
    if len(planes) > MAX_VOLUMES:
        raise AmbiguousContentError(
            f"{name}: holds {len(planes)} volumes along {key}", hint=f"say select.{key} to take one of them"
        )
    flat = replace(image, voxel_size=_with_depth(image.voxel_size, None))
    alone = image.outer.size == 1
    return [_Choice(flat, whole.model_copy(update={key: k}), k, caveats, alone) for k in planes]


def _third_axis(image: DmImage, hints: Hints, name: str) -> tuple[str, tuple[Caveat, ...]]:
    outer = image.outer
    if hints.axes is not None:
        letters = hints.axes.removesuffix("yx")
        if letters == hints.axes or letters not in (("z", "t", "c") if outer else ("", "z")):
            raise AmbiguousContentError(f"{name}: axes {hints.axes!r} do not fit {len(image.axes)} dimensions", hint=SAY_AXES)
        return letters, ()
    if outer is None or outer.nm is not None:
        return "z", ()
    if outer.unit.lower() in TIME_UNITS:
        return "t", ()
    evidence = f"the third dimension, of {outer.size} and unit {outer.unit!r}, is taken as z"
    return "z", (Caveat(code="axes_assumed", evidence=evidence),)


def _reader(source: ByteSource, found: FoundVolume) -> RawReader:
    for choice in _choices(source, Hints(select=found.select, axes=found.axes)):
        if matches(choice.select, found.select):
            return RawReader(choice.block(source), choice.image.voxel_size)
    raise CorruptObjectError(f"{source.name}: no longer holds {spoken(found.select)}", hint="plan the ingest again")


def _checked(reader: RawReader | RawStack, found: FoundVolume) -> Reader:
    if reader.shape == found.shape and reader.dtype.name == found.dtype:
        return reader
    raise CorruptObjectError(
        f"{found.name or 'the image'}: is {list(reader.shape)} {reader.dtype}, was planned as {list(found.shape)} {found.dtype}",
        hint="the file has changed; plan the ingest again",
    )


def _found(source: ByteSource, choice: _Choice, hints: Hints) -> FoundVolume:
    reader = RawReader(choice.block(source), choice.image.voxel_size)
    return _described(reader, choice, hints, objects=1)


def _described(
    reader: RawReader | RawStack, choice: _Choice, hints: Hints, *, objects: int, caveats: tuple[Caveat, ...] = ()
) -> FoundVolume:
    role, guessed = role_of(reader, hints)
    return FoundVolume(
        format=DmFormat.name,
        objects=tuple(range(objects)),
        series=series_name(choice.select, alone=choice.alone or objects > 1),
        select=choice.select,
        shape=reader.shape,
        dtype=reader.dtype.name,
        voxel_size=reader.voxel_size,
        native=reader.native,
        role=role,
        axes=hints.axes,
        name=choice.image.name,
        caveats=(*choice.image.caveats, *choice.caveats, *caveats, *guessed),
        said=choice.image.said,
    )


def _stack(sources: Sequence[ByteSource], hints: Hints) -> FoundVolume:
    """A series of files, each one slice: all headers are read, and must agree."""
    if hints.axes not in (None, "zyx", "yx"):
        raise AmbiguousContentError(f"{sources[0].name}: axes {hints.axes!r} do not fit a series of slices", hint="say axes: zyx")
    with ThreadPoolExecutor(PARALLEL) as pool:
        slices = list(pool.map(lambda source: _slice(source, hints), sources))
    (first,) = selected(slices[:1], hints.select, sources[0].name)
    for source, other in zip(sources, slices, strict=True):
        _require_alike(sources[0], first, source, other)
    depth, caveats = _slice_depth(slices)
    together = _with_depth(first.image.voxel_size, depth)
    # Read here only to guess its role from a few slices, whose headers are known already.
    known = {z: other.block(source) for z, (source, other) in enumerate(zip(sources, slices, strict=True))}
    reader = RawStack(sources, lambda source: _slice(source, hints).block(source), known[0], together, known)
    return _described(reader, first, hints, objects=len(sources), caveats=caveats)


def _slice_depth(slices: Sequence[_Choice]) -> tuple[float | None, tuple[Caveat, ...]]:
    """What every slice says of its own thickness; unknown where they differ."""
    said = [other.image.voxel_size.nm[0] for other in slices]
    if all(_same(nm, said[0]) for nm in said):
        return said[0], ()
    thicknesses = sorted({"unknown" if nm is None else f"{nm:g} nm" for nm in said})
    evidence = "slices are said to be of different thickness: " + ", ".join(thicknesses[:8])
    return None, (Caveat(code="voxel_size_unknown", evidence=evidence),)


def _with_depth(size: VoxelSize, nm: float | None) -> VoxelSize:
    return VoxelSize(nm=(nm, *size.nm[1:]), said_by=(None if nm is None else "file", *size.said_by[1:]))


def _stack_reader(sources: Sequence[ByteSource], found: FoundVolume) -> RawStack:
    hints = Hints(select=found.select)
    first = _slice(sources[0], hints)

    def locate(source: ByteSource) -> RawBlock:
        other = _slice(source, hints)
        _require_alike(sources[0], first, source, other)
        return other.block(source)

    return RawStack(sources, locate, first.block(sources[0]), found.voxel_size)


def _slice(source: ByteSource, hints: Hints) -> _Choice:
    """The one 2-D image of a file that is a slice of a volume."""
    # What a request says of axes, time and channel is about the whole series; a slice has y and x.
    choices = _choices(source, Hints(select=Select(series=hints.select.series), role=hints.role))
    if len(choices) != 1:
        raise AmbiguousContentError(
            f"{source.name}: holds {len(choices)} images, a series of files needs one of each",
            hint="say select.series, or ingest this file by itself",
        )
    outer = choices[0].image.outer
    if outer is not None:
        raise AmbiguousContentError(
            f"{source.name}: is a stack of {outer.size} planes, and one of several files", hint="ingest each file by itself"
        )
    return choices[0]


def _require_alike(first: ByteSource, wanted: _Choice, source: ByteSource, other: _Choice) -> None:
    ours, theirs = _spoken(wanted), _spoken(other)
    # Byte order may differ: it says nothing of the image.
    alike = ours == theirs and all(
        _same(a, b) for a, b in zip(wanted.image.voxel_size.nm[1:], other.image.voxel_size.nm[1:], strict=True)
    )
    if alike:
        return
    raise CorruptObjectError(
        f"{source.name}: is {_with_scale(other)}, {first.name} is {_with_scale(wanted)}",
        hint="slices of one volume have one shape, dtype and pixel size; leave the odd file out",
    )


def _spoken(choice: _Choice) -> str:
    image = choice.image
    assert image.dtype is not None
    return f"{' x '.join(str(axis.size) for axis in image.axes)} {image.dtype.newbyteorder('=')}"


def _with_scale(choice: _Choice) -> str:
    sizes = zip(AXES[1:], choice.image.voxel_size.nm[1:], strict=True)
    scale = ", ".join(f"{axis} {'unknown' if nm is None else f'{nm:g} nm'}" for axis, nm in sizes)
    return f"{_spoken(choice)} ({scale})"


def _same(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=SAME_SCALE)
