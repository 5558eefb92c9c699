"""HDF5 as a Format: one dataset, named by `parameters: {"dataset": "/path"}` where the file holds several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from emporter_contracts.commands import Select
from emporter_contracts.geometry import VoxelSize, to_nm
from emporter_contracts.plans import MAX_VOLUMES, Caveat
from emporter_readers.errors import AmbiguousContentError, CorruptObjectError
from emporter_readers.filling import fill_said
from emporter_readers.hdf5.dataset import SAY_DATASET, Dataset
from emporter_readers.hdf5.isolated import inspected
from emporter_readers.hdf5.reader import ChunkReader, View, reader_of
from emporter_readers.protocol import ByteSource, FoundVolume, Hints, Reader
from emporter_readers.sampling import role_of
from emporter_readers.selecting import checked, matches, planes_along, selected, series_name, spoken

MAGIC = b"\x89HDF\r\n\x1a\n"
USER_BLOCKS = (512, 1024, 2048, 4096)
"""Where the file may begin, behind bytes of somebody else's."""
SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5", ".nxs", ".ilp")


class Hdf5Format:
    """See the Format protocol. Channels and times are the planes along axes of these names."""

    name = "hdf5"

    def claims(self, sources: Sequence[ByteSource]) -> bool:
        return all(_is_hdf5(source) for source in sources)

    def discover(self, sources: Sequence[ByteSource], hints: Hints) -> list[FoundVolume]:
        source = _only(sources)
        dataset = _dataset(source, hints.parameters.get("dataset"))
        letters, caveats = _axes(dataset, hints.axes, source.name)
        choices = [
            _found(source, dataset, view, select, hints, caveats) for view, select in _views(dataset, letters, hints, source.name)
        ]
        return selected(choices, hints.select, source.name)

    def open(self, sources: Sequence[ByteSource], found: FoundVolume) -> Reader:
        source = _only(sources)
        dataset = _dataset(source, found.parameters.get("dataset"))
        letters, _ = _axes(dataset, found.axes, source.name)
        for view, select in _views(dataset, letters, Hints(select=found.select), source.name):
            if matches(select, found.select):
                return checked(reader_of(source, dataset, view, _voxel_size(dataset)), found)
        raise CorruptObjectError(f"{source.name}: no longer holds {spoken(found.select)}", hint="plan the ingest again")


def _is_hdf5(source: ByteSource) -> bool:
    starts = (0, *USER_BLOCKS) if source.name.lower().endswith(SUFFIXES) else (0,)
    return any(source.size >= at + 8 and source.read(at, at + 8) == MAGIC for at in starts)


def _only(sources: Sequence[ByteSource]) -> ByteSource:
    if len(sources) > 1:
        raise AmbiguousContentError(f"{sources[0].name}: is one of {len(sources)} HDF5 files", hint="ingest each file by itself")
    return sources[0]


def _dataset(source: ByteSource, path: Any) -> Dataset:
    """The dataset at `path`; where none is named, the only one that could be a volume."""
    if path is not None and not isinstance(path, str):
        raise AmbiguousContentError(f"{source.name}: {path!r} is no path of a dataset", hint=SAY_DATASET)
    return inspected(source, path)


def _axes(dataset: Dataset, said: str | None, name: str) -> tuple[str, tuple[Caveat, ...]]:
    """A letter for each axis of the dataset, `-` for one of length 1 that nobody names."""
    shape = dataset.shape
    label = f"{name}, dataset {dataset.path}"
    if said is not None:
        return _fitted(said, shape, label), ()
    if dataset.labels:
        return dataset.labels, ()
    surplus = len(shape) - 3
    letters = ["?"] * len(shape)
    for k, n in enumerate(shape):
        if surplus > 0 and n == 1:
            letters[k], surplus = "-", surplus - 1
    if surplus > 0:
        raise AmbiguousContentError(
            f"{label}: does not name its {len(shape)} axes {list(shape)}",
            hint="say axes, a letter for each of them, such as: tzyx",
        )
    names = iter("zyx"[-letters.count("?") :])
    joined = "".join(next(names) if letter == "?" else letter for letter in letters)
    evidence = f"axes {list(shape)} of {dataset.path} are taken as {joined}"
    return joined, (Caveat(code="axes_assumed", evidence=evidence),)


def _fitted(said: str, shape: tuple[int, ...], label: str) -> str:
    """What a request says of axes, spread over those of the dataset."""
    if len(set(said)) != len(said) or not {"y", "x"} <= set(said):
        raise AmbiguousContentError(f"{label}: axes {said!r} do not name y and x, each axis once", hint="such as axes: zyx")
    if len(said) == len(shape):
        return said
    if len(said) != len([n for n in shape if n > 1]):
        raise AmbiguousContentError(f"{label}: axes {said!r} do not fit shape {list(shape)}", hint="say a letter for each axis")
    letters = iter(said)
    return "".join("-" if n == 1 else next(letters) for n in shape)


def _views(dataset: Dataset, letters: str, hints: Hints, name: str) -> Iterator[tuple[View, Select]]:
    """Every channel and time that is selected."""
    whole = Select(series=0, channel=0, time=0, level=0)
    sizes = dict(zip(letters, dataset.shape, strict=True))
    along = [planes_along(axis, sizes.get(axis, 1), hints.select, name) for axis in "ct"]
    if len(along[0]) * len(along[1]) > MAX_VOLUMES:
        raise AmbiguousContentError(
            f"{name}: holds {len(along[0]) * len(along[1])} volumes", hint="say select.channel or select.time"
        )
    for (channel, by_channel), (time, by_time) in product(*along):
        at = {"c": channel, "t": time, "-": 0}
        yield View(tuple(at.get(axis, axis) for axis in letters)), whole.model_copy(update=by_channel | by_time)


def _voxel_size(dataset: Dataset) -> VoxelSize:
    """The attribute `element_size_um`, z, y, x in micrometres, as ilastik and the HDF5 plugin of Fiji write it."""
    attributes = dataset.said["attributes"]
    assert isinstance(attributes, dict)
    said = attributes.get("element_size_um")
    if not isinstance(said, list) or len(said) not in (2, 3):
        return VoxelSize()
    nm = [to_nm(float(n), "um") if isinstance(n, int | float) else None for n in said]
    z, y, x = nm if len(nm) == 3 else (None, *nm)
    return VoxelSize.said("file", (z, y, x))


def _found(
    source: ByteSource, dataset: Dataset, view: View, select: Select, hints: Hints, caveats: tuple[Caveat, ...]
) -> FoundVolume:
    reader = reader_of(source, dataset, view, _voxel_size(dataset))
    role, guessed = role_of(reader, hints)
    alone = all(isinstance(axis, str) or n == 1 for axis, n in zip(view.axes, dataset.shape, strict=True))
    return FoundVolume(
        format=Hdf5Format.name,
        objects=(0,),
        series=series_name(select, alone=alone),
        select=select,
        shape=reader.shape,
        dtype=reader.dtype.name,
        voxel_size=reader.voxel_size,
        native=reader.native,
        role=role,
        axes=hints.axes,
        name=dataset.path.strip("/"),
        parameters={"dataset": dataset.path},
        caveats=(*caveats, *_caveats(reader, dataset), *guessed),
        said=dataset.said,
        fill_value=fill_said(dataset.fill),
    )


def _caveats(reader: Reader, dataset: Dataset) -> Iterator[Caveat]:
    if dataset.is_bool:
        yield Caveat(code="bool_as_uint8", evidence="HDF5 booleans, kept as 0 and 1")
    if isinstance(reader, ChunkReader) and reader.chunks.missing:
        evidence = (
            f"{reader.chunks.missing} of {reader.chunks.offsets.size} chunks were never written: they read as {dataset.fill}"
        )
        yield Caveat(code="chunks_missing", evidence=evidence)
