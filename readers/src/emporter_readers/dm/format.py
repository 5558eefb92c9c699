"""DM3 and DM4 as a Format: the images of one file, or a series of files of one plane each as one volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from emporter_contracts.commands import Select
from emporter_contracts.plans import Caveat
from emporter_readers.dm.images import TIME_UNITS, DmImage, true_images
from emporter_readers.dm.tags import looks_like_dm, read_tags
from emporter_readers.errors import AmbiguousContentError, CorruptObjectError, UnsupportedContentError
from emporter_readers.protocol import ByteSource, FoundVolume, Hints, Reader
from emporter_readers.raw import RawBlock, RawReader, RawStack
from emporter_readers.sampling import role_of
from emporter_readers.selecting import checked, matches, planes_along, selected, series_name, spoken, third_axis
from emporter_readers.stacking import (
    Slice,
    all_slices,
    opened_stack,
    order_assumed,
    require_series_axes,
    same_length,
    stack_of,
    with_depth,
)

SUFFIXES = (".dm3", ".dm4")
HEAD_BYTES = 32


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
        if len(sources) == 1:
            return checked(_reader(sources[0], found), found)
        hints = Hints(select=found.select)
        return checked(opened_stack(sources, lambda source: _slice(source, hints), found.voxel_size), found)


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
    flat = replace(image, voxel_size=with_depth(image.voxel_size, None))
    alone = image.outer.size == 1
    planes = planes_along(axis, image.outer.size, hints.select, name)
    return [_Choice(flat, whole.model_copy(update=selects), k, caveats, alone) for k, selects in planes]


def _third_axis(image: DmImage, hints: Hints, name: str) -> tuple[str, tuple[Caveat, ...]]:
    outer = image.outer
    said = third_axis(hints.axes, stacked=outer is not None, name=name)
    if said is not None or outer is None or outer.nm is not None:
        return said or "z", ()
    if outer.unit.lower() in TIME_UNITS:
        return "t", ()
    evidence = f"the third dimension, of {outer.size} and unit {outer.unit!r}, is taken as z"
    return "z", (Caveat(code="axes_assumed", evidence=evidence),)


def _reader(source: ByteSource, found: FoundVolume) -> RawReader:
    for choice in _choices(source, Hints(select=found.select, axes=found.axes)):
        if matches(choice.select, found.select):
            return RawReader(choice.block(source), choice.image.voxel_size)
    raise CorruptObjectError(f"{source.name}: no longer holds {spoken(found.select)}", hint="plan the ingest again")


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
    require_series_axes(hints.axes, sources[0].name)
    (first,) = selected([_only(sources[0], hints)], hints.select, sources[0].name)
    slices = all_slices(sources, lambda source: _slice(source, hints))
    depth, caveats = _slice_depth(slices)
    if depth is None:
        caveats = (*caveats, *order_assumed(sources, hints.axes))
    reader = stack_of(slices, with_depth(slices[0].voxel_size, depth))
    return _described(reader, first, hints, objects=len(sources), caveats=caveats)


def _slice_depth(slices: Sequence[Slice]) -> tuple[float | None, tuple[Caveat, ...]]:
    """What every slice says of its own thickness; unknown where they differ."""
    said = [other.voxel_size.nm[0] for other in slices]
    if all(same_length(nm, said[0]) for nm in said):
        return said[0], ()
    thicknesses = sorted({"unknown" if nm is None else f"{nm:g} nm" for nm in said})
    evidence = "slices are said to be of different thickness: " + ", ".join(thicknesses[:8])
    return None, (Caveat(code="voxel_size_unknown", evidence=evidence),)


def _slice(source: ByteSource, hints: Hints) -> Slice:
    choice = _only(source, hints)
    return Slice(choice.block(source), choice.image.voxel_size)


def _only(source: ByteSource, hints: Hints) -> _Choice:
    """The one 2-D image of a file that is a slice of a volume."""
    # What a request says of axes, time and channel is about the whole series; a slice has y and x.
    choices = _choices(source, Hints(select=Select(series=hints.select.series)))
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
