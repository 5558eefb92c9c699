"""MRC as a Format: the volumes of one file, or a series of files of one section each as one volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from emporter_contracts.commands import Select
from emporter_contracts.geometry import VoxelSize
from emporter_contracts.plans import MAX_VOLUMES, Caveat
from emporter_readers.errors import AmbiguousContentError, CorruptObjectError
from emporter_readers.mrc.header import HEADER_BYTES, MrcHeader, is_mrc, may_be_mrc, read_header
from emporter_readers.protocol import ByteSource, FoundVolume, Hints, Reader
from emporter_readers.raw import RawBlock, RawReader, RawStack
from emporter_readers.sampling import role_of
from emporter_readers.selecting import checked, matches, planes_along, selected, series_name, spoken, third_axis
from emporter_readers.stacking import Slice, all_slices, opened_stack, order_assumed, require_series_axes, stack_of, with_depth

SUFFIXES = (".mrc", ".mrcs", ".map", ".ccp4", ".rec", ".st", ".ali", ".preali")


@dataclass(frozen=True, slots=True)
class _Choice:
    """One volume: `sections` of the file from section `first` on."""

    header: MrcHeader
    select: Select
    first: int
    sections: int
    voxel_size: VoxelSize
    caveats: tuple[Caveat, ...] = ()

    def reader(self, source: ByteSource) -> RawReader:
        header = self.header
        _, rows, columns = header.stored
        offset = header.offset + self.first * rows * columns * header.dtype.itemsize
        block = RawBlock(source, offset, (self.sections, rows, columns), header.dtype)
        return RawReader(block, self.voxel_size, header.order)


class MrcFormat:
    """See the Format protocol. Series are the volumes of a stack of volumes."""

    name = "mrc"

    def claims(self, sources: Sequence[ByteSource]) -> bool:
        # One look suffices for a folder of sections; each is looked at again when it is opened.
        return _is_mrc(sources[0]) and all(_named_mrc(source) or _is_mrc(source) for source in sources[1:])

    def discover(self, sources: Sequence[ByteSource], hints: Hints) -> list[FoundVolume]:
        name = sources[0].name
        if len(sources) > 1:
            return [_stack(sources, hints)]
        header = read_header(sources[0])
        choices = _choices(header, hints)
        alone = header.volumes == 1 and len(choices) == 1
        return [
            _described(choice.reader(sources[0]), choice, hints, series=series_name(choice.select, alone=alone))
            for choice in selected(choices, hints.select, name)
        ]

    def open(self, sources: Sequence[ByteSource], found: FoundVolume) -> Reader:
        if len(sources) > 1:
            return checked(opened_stack(sources, _slice, found.voxel_size), found)
        for choice in _choices(read_header(sources[0]), Hints(select=found.select, axes=found.axes)):
            if matches(choice.select, found.select):
                return checked(choice.reader(sources[0]), found)
        raise CorruptObjectError(f"{sources[0].name}: no longer holds {spoken(found.select)}", hint="plan the ingest again")


def _is_mrc(source: ByteSource) -> bool:
    head = source.read(0, min(HEADER_BYTES, source.size))
    return is_mrc(head) or (_named_mrc(source) and may_be_mrc(head))


def _named_mrc(source: ByteSource) -> bool:
    return source.name.lower().endswith(SUFFIXES)


def _choices(header: MrcHeader, hints: Hints) -> list[_Choice]:
    sections = header.stored[0]
    whole = Select(series=0, channel=0, time=0, level=0)
    axis = third_axis(hints.axes, stacked=sections > 1, name=header.name)
    if axis in ("t", "c"):
        if header.volumes > 1 or header.order[0] != 0:
            raise AmbiguousContentError(
                f"{header.name}: its header says which axis is z", hint="leave axes out, or say axes: zyx"
            )
        flat = with_depth(header.voxel_size, None)
        planes = planes_along(axis, sections, hints.select, header.name)
        return [_Choice(header, whole.model_copy(update=selects), k, 1, flat) for k, selects in planes]
    each = sections // header.volumes
    caveats = _assumed(header) if axis is None else ()
    return [
        _Choice(header, whole.model_copy(update={"series": k}), k * each, each, header.voxel_size, caveats)
        for k in _series(header, hints)
    ]


def _series(header: MrcHeader, hints: Hints) -> range:
    asked = hints.select.series
    if asked is not None:
        return range(asked, min(asked + 1, header.volumes))
    if header.volumes > MAX_VOLUMES:
        raise AmbiguousContentError(
            f"{header.name}: holds {header.volumes} volumes", hint="say select.series to take one of them"
        )
    return range(header.volumes)


def _assumed(header: MrcHeader) -> tuple[Caveat, ...]:
    if not header.image_stack:
        return ()
    evidence = f"the header says {header.stored[0]} images (space group 0), which are taken as z"
    return (Caveat(code="axes_assumed", evidence=evidence),)


def _described(reader: RawReader | RawStack, choice: _Choice, hints: Hints, *, series: str = "", objects: int = 1) -> FoundVolume:
    role, guessed = role_of(reader, hints)
    return FoundVolume(
        format=MrcFormat.name,
        objects=tuple(range(objects)),
        series=series,
        select=choice.select,
        shape=reader.shape,
        dtype=reader.dtype.name,
        voxel_size=reader.voxel_size,
        native=reader.native,
        role=role,
        axes=hints.axes,
        caveats=(*choice.caveats, *guessed),
        said=choice.header.said,
    )


def _stack(sources: Sequence[ByteSource], hints: Hints) -> FoundVolume:
    """A series of files, each one section: all headers are read, and must agree. What lies between them nobody says."""
    require_series_axes(hints.axes, sources[0].name)
    slices = all_slices(sources, _slice)
    header = read_header(sources[0])
    size = with_depth(header.voxel_size, None)
    assumed = order_assumed(sources, hints.axes)
    choice = _Choice(header, Select(series=0, channel=0, time=0, level=0), 0, 1, size, assumed)
    selected([choice], hints.select, sources[0].name)
    return _described(stack_of(slices, size), choice, hints, objects=len(sources))


def _slice(source: ByteSource) -> Slice:
    """The one section of a file that is a slice of a volume."""
    header = read_header(source)
    if header.stored[0] != 1 or header.order != (0, 1, 2):
        raise AmbiguousContentError(
            f"{source.name}: holds {header.stored[0]} sections, and is one of several files", hint="ingest each file by itself"
        )
    return Slice(RawBlock(source, header.offset, header.stored, header.dtype), header.voxel_size)
