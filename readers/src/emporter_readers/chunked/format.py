"""The chunked formats as Formats. Sources are named by their paths below the root: `s0/.zarray`, `s0/3/1/0`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from emporter_contracts.commands import Select
from emporter_contracts.geometry import Box
from emporter_contracts.plans import Caveat, Role
from emporter_contracts.records import json_safe
from emporter_readers.array import RegionReader
from emporter_readers.bounds import require_few
from emporter_readers.chunked import n5, precomputed, zarr2, zarr3
from emporter_readers.chunked.axes import placed
from emporter_readers.chunked.decoding import check, fill_of
from emporter_readers.chunked.images import Image, n5_images, precomputed_images, zarr_images
from emporter_readers.chunked.reader import ChunkedReader
from emporter_readers.chunked.tree import Tree, read_document, under
from emporter_readers.errors import CorruptObjectError, ReaderError, UnsupportedContentError
from emporter_readers.protocol import ByteSource, FoundVolume, Hints, Reader
from emporter_readers.sampling import role_of
from emporter_readers.selecting import checked, matches, planes_along, selected, series_name, spoken

MOST_CHUNKS = 10**6
"""Of one volume: a list of them is what a plan holds."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One volume of an image."""

    image: Image
    reader: ChunkedReader

    @property
    def select(self) -> Select:
        return self.reader.select


@dataclass(frozen=True, slots=True)
class ChunkedFormat:
    """See the Format protocol. `marks` are names of objects by which a root is known."""

    name: str
    marks: tuple[str, ...]
    images: Callable[[Tree], list[Image]]
    looks_right: Callable[[ByteSource], bool] = lambda _: True

    def claims(self, sources: Sequence[ByteSource]) -> bool:
        return any(source.name.rpartition("/")[2] in self.marks and self.looks_right(source) for source in sources)

    def discover(self, sources: Sequence[ByteSource], hints: Hints) -> list[FoundVolume]:
        tree = Tree(sources)
        choices = self.choices(tree, hints)
        alone = len(choices) == 1
        return [self._found(tree, choice, hints, series=series_name(choice.select, alone=alone)) for choice in choices]

    def open(self, sources: Sequence[ByteSource], found: FoundVolume) -> Reader:
        tree = Tree(sources)
        hints = Hints(select=found.select, axes=found.axes, region=found.region)
        for choice in self.choices(tree, hints):
            if matches(choice.select, found.select):
                return checked(choice.reader, found)
        raise CorruptObjectError(f"{sources[0].name}: no longer holds {spoken(found.select)}", hint="plan the ingest again")

    def choices(self, tree: Tree, hints: Hints) -> list[Choice]:
        """Every volume that `hints.select` does not exclude, by metadata alone. Raises ReaderError."""
        images = self.images(tree)
        if not images:
            raise UnsupportedContentError("there is no array below this root", hint="name a folder that holds one")
        asked = hints.select.series
        numbered = [(k, image) for k, image in enumerate(images) if asked in (None, k)]
        if asked is None:
            require_few(len(images), images[0].path)
        wanted = hints.select.model_copy(update={"level": None})
        choices = [choice for k, image in numbered for choice in _volumes(tree, k, image, hints)]
        return selected(choices, wanted, images[0].path or self.name)

    def _found(self, tree: Tree, choice: Choice, hints: Hints, *, series: str) -> FoundVolume:
        reader, image = choice.reader, choice.image
        check(reader.array)
        box = hints.region or Box.whole(reader.shape)
        chunks = _stored_chunks(tree, reader, box)
        told: Role | None = hints.role if hints.role != "auto" else image.role
        sample = reader if hints.region is None else RegionReader(reader, box, reader.voxel_size)
        role, guessed = (told, ()) if told is not None else role_of(sample, hints)
        said = {**(image.said or {}), **reader.array.said}
        caveats = (*reader.placed.caveats, *reader.array.caveats, *_booleans(reader), *_missing(chunks, reader, box), *guessed)
        return FoundVolume(
            format=self.name,
            objects=tuple(tree.places([*self._documents(tree), *chunks])),
            series=series,
            select=choice.select,
            shape=reader.shape,
            dtype=reader.dtype.name,
            voxel_size=reader.voxel_size,
            native=reader.native,
            role=role,
            axes=hints.axes,
            name=image.name,
            caveats=caveats,
            said={name: json_safe(document) for name, document in said.items()},
            start=reader.level.start,
            translation_nm=reader.translation_nm,
            region=hints.region,
            fill_value=fill_of(reader.array),
        )

    def _documents(self, tree: Tree) -> list[str]:
        """Names of all metadata: without it, a volume could not be told from its neighbours again."""
        return [under(folder, mark) for mark in self.marks for folder in tree.folders_with(mark)]


def _volumes(tree: Tree, number: int, image: Image, hints: Hints) -> list[Choice]:
    """One for each channel and time of an image."""
    level = image.at(hints.select.level)
    array = level.array
    axes = placed(array.shape, level.space.names or array.axes, hints.axes, array.name)
    times = planes_along("t", axes.size("t"), hints.select, array.name)
    channels = planes_along("c", axes.size("c"), hints.select, array.name)
    require_few(len(times) * len(channels), array.name)
    level_number = hints.select.level or 0
    return [
        Choice(image, ChunkedReader(level, axes, _select(number, channel, time, level_number), tree.source, hints.region))
        for time, _ in times
        for channel, _ in channels
    ]


def _select(series: int, channel: int, time: int, level: int) -> Select:
    return Select(series=series, channel=channel, time=time, level=level)


def _stored_chunks(tree: Tree, reader: ChunkedReader, box: Box) -> list[str]:
    """Names of the objects of `box` that are there, in the order of the voxels. Raises UnsupportedContentError where none is."""
    if not box.within(Box.whole(reader.shape)):
        raise CorruptObjectError(f"{reader.array.name}: has {list(reader.shape)} voxels, planned was {box}")
    if reader.chunks(box) > MOST_CHUNKS:
        raise UnsupportedContentError(
            f"{reader.array.name}: {reader.chunks(box)} chunks are too many for one ingest", hint="choose a region"
        )
    there = (name for cell in reader.cells(box) for name in reader.array.names(cell) if tree.source(name) is not None)
    names = list(dict.fromkeys(there))
    if not names:
        raise UnsupportedContentError(
            f"{reader.array.name}: none of its chunks is there, all of it would be fill value",
            hint="is the folder complete, and is something stored in this region?",
        )
    return names


def _missing(stored: list[str], reader: ChunkedReader, box: Box) -> tuple[Caveat, ...]:
    """Objects the array's grid has and the archive does not: read as fill value, which must be known to the user."""
    here = set(stored)
    expected = {reader.array.names(cell) for cell in reader.cells(box)}
    absent = sum(1 for names in expected if not here.intersection(names))
    if not absent:
        return ()
    fill = reader.array.document.get("fill_value", 0)
    evidence = f"{absent} of {len(expected)} chunk objects are not stored; their voxels are the fill value {fill}"
    return (Caveat(code="chunks_missing", evidence=evidence),)


def _booleans(reader: ChunkedReader) -> tuple[Caveat, ...]:
    if reader.array.dtype.kind != "b":
        return ()
    return (Caveat(code="bool_as_uint8", evidence=f"{reader.array.name} is of dtype bool"),)


def _is_n5(source: ByteSource) -> bool:
    document = _document(source)
    return document is not None and (
        n5.is_dataset(document) or "n5" in document or "multiScales" in document or "axes" in document
    )


def _is_precomputed(source: ByteSource) -> bool:
    document = _document(source)
    return document is not None and precomputed.is_info(document)


def _document(source: ByteSource) -> dict[str, object] | None:
    try:
        return read_document(source)
    except ReaderError:
        return None


ZARR = ChunkedFormat("zarr", (zarr3.NODE, zarr2.ARRAY, zarr2.GROUP, zarr2.ATTRIBUTES, zarr2.CONSOLIDATED), zarr_images)
N5 = ChunkedFormat("n5", (n5.ATTRIBUTES,), n5_images, _is_n5)
PRECOMPUTED = ChunkedFormat("precomputed", (precomputed.INFO,), precomputed_images, _is_precomputed)
