"""TIFF as a Format: from headers to volumes, and back to the one that was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from emporter_contracts.acquisition import Acquisition
from emporter_contracts.commands import Select
from emporter_contracts.geometry import VoxelSize
from emporter_contracts.plans import Caveat
from emporter_readers.bounds import require_few
from emporter_readers.errors import AmbiguousContentError, CorruptObjectError, UnsupportedContentError
from emporter_readers.protocol import ByteSource, FoundVolume, Hints, Reader
from emporter_readers.sampling import role_of, sample_boxes
from emporter_readers.selecting import matches, series_name, spoken
from emporter_readers.tiff.axes import Placed, placed
from emporter_readers.tiff.colours import SAY_RGB, is_grey
from emporter_readers.tiff.file import PARALLEL
from emporter_readers.tiff.headers import Headers
from emporter_readers.tiff.ome import is_ome, names_others, ome_series
from emporter_readers.tiff.pages import MAY_BE_LOSSY, RGB, YCBCR, Layout, Page
from emporter_readers.tiff.reader import Samples, TiffReader
from emporter_readers.tiff.series import Series, file_series
from emporter_readers.tiff.slices import LazySlices, own_series, require_alike, single_page

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SUFFIXES = (".tif", ".tiff", ".btf", ".tf2", ".tf8")
EVERYTHING = Select()


@dataclass(frozen=True, slots=True)
class _Choice:
    """One volume: series `s`, channel `c` (of pages, then of samples), time `t`, resolution level `level`."""

    series: Series
    placed: Placed
    samples: Samples
    select: Select

    @property
    def channel(self) -> int:
        """Of pages."""
        per_page = self.series.layout.samples if isinstance(self.samples, int) else 1
        return (self.select.channel or 0) // per_page

    @property
    def acquisition(self) -> Acquisition:
        """Of this channel; nothing where the file's own account has no such one."""
        said = self.series.acquisitions
        return said[self.channel] if self.channel < len(said) else Acquisition()

    @property
    def pages(self) -> Sequence[Page]:
        planes = self.placed.planes(self.channel, self.select.time or 0)
        if planes == list(range(len(self.series.pages))):
            return self.series.pages  # which may read them when they are first asked for
        return [self.series.pages[k] for k in planes]


class TiffFormat:
    """See the Format protocol. `select.channel` counts channels of pages, each with its samples where these are split."""

    name = "tiff"

    def claims(self, sources: Sequence[ByteSource]) -> bool:
        # One look suffices for a folder of ten thousand slices; each is looked at again when it is opened.
        return _magic(sources[0]) and all(source.name.lower().endswith(SUFFIXES) or _magic(source) for source in sources[1:])

    def discover(self, sources: Sequence[ByteSource], hints: Hints) -> list[FoundVolume]:
        files = _headers(sources)
        series = _all_series(files, sources)
        wanted = [k for k in range(len(series)) if hints.select.series in (None, k)]
        everything = [choice for k in wanted for choice in _choices(k, series, hints, files[0].name)]
        chosen = [choice for choice in everything if matches(choice.select, hints.select)]
        if not chosen:
            raise AmbiguousContentError(
                f"{files[0].name}: holds nothing that {spoken(hints.select)} selects",
                hint=f"it holds {len(everything)} volumes in {len(series)} series; leave the selection out to see them",
            )
        require_few(len(chosen), files[0].name)
        level = hints.select.level or 0
        return [_found(sources, files, choice, hints, level, alone=len(series) == len(everything) == 1) for choice in chosen]

    def open(self, sources: Sequence[ByteSource], found: FoundVolume) -> Reader:
        files, series = _opened_series(sources, found)
        hints = Hints(select=found.select, axes=found.axes, rgb=found.rgb)
        number = found.select.series or 0
        for choice in _choices(number, series, hints, files[0].name) if number < len(series) else ():
            if matches(choice.select, found.select):
                return _opened(sources, files, choice, found)
        raise CorruptObjectError(f"{files[0].name}: no longer holds {spoken(found.select)}", hint="plan the ingest again")


def _opened_series(sources: Sequence[ByteSource], found: FoundVolume) -> tuple[list[Headers], list[Series]]:
    """As much of the files as opening one volume takes: of slices of one plane each, the first."""
    if len(sources) > 1 and found.shape[0] == len(sources) and not found.select.level:
        first = Headers(sources[0], 0)
        page = None if _spread(first) else single_page(first, sources[0])
        if page is not None and page.layout.depth == 1:
            # The voxel size is the plan's: it was agreed upon by all of them.
            slices = LazySlices(sources, page)
            return [first], [Series(axes="z", sizes=(len(slices),), pages=slices, voxel_size=found.voxel_size)]
    files = _headers(sources)
    return files, _all_series(files, sources)


def _spread(headers: Headers) -> bool:
    """Whether a file is OME and speaks of planes in other files."""
    return is_ome(headers.pages[0].description) and names_others(headers)


def _opened(sources: Sequence[ByteSource], files: Sequence[Headers], choice: _Choice, found: FoundVolume) -> TiffReader:
    reader = _reader(sources, files, choice, found.select.level or 0)
    if reader.shape != found.shape or reader.dtype.name != found.dtype:
        raise CorruptObjectError(
            f"{files[0].name}: is {list(reader.shape)} {reader.dtype.name}, was planned as {list(found.shape)} {found.dtype}",
            hint="the file has changed; plan the ingest again",
        )
    return reader


def _magic(source: ByteSource) -> bool:
    return source.size >= 8 and source.read(0, 4) in MAGIC


def _headers(sources: Sequence[ByteSource]) -> list[Headers]:
    if len(sources) == 1:
        return [Headers(sources[0], 0)]
    with ThreadPoolExecutor(PARALLEL) as pool:
        return list(pool.map(Headers, sources, range(len(sources))))


def _all_series(files: Sequence[Headers], sources: Sequence[ByteSource]) -> list[Series]:
    if any(is_ome(headers.pages[0].description) for headers in files):
        found = ome_series(files)
        if found is not None:
            return found
    if len(files) == 1:
        return file_series(files[0], sources[0].size)
    return [_stacked([_part(headers, source) for headers, source in zip(files, sources, strict=True)], files)]


def _part(headers: Headers, source: ByteSource) -> Series:
    """The one series of a file that is a part of a stack."""
    series = own_series(headers, source)
    if len(series) != 1:
        raise AmbiguousContentError(
            f"{headers.name}: holds {len(series)} images, a stack needs files of one each",
            hint="ingest this file by itself, or leave it out",
        )
    if any(size > 1 and axis not in "zi" for axis, size in zip(series[0].axes, series[0].sizes, strict=True)):
        raise AmbiguousContentError(
            f"{headers.name}: holds channels or times, and is one of several files", hint="ingest each file by itself"
        )
    return series[0]


def _stacked(parts: list[Series], files: Sequence[Headers]) -> Series:
    """Files one behind the other along z, in the order given."""
    first = parts[0]
    for part, headers in zip(parts, files, strict=True):
        require_alike(part.layout, first.layout, headers.name, files[0].name)
    pages = [page for part in parts for page in part.pages]
    caveats = [Caveat(code="axes_assumed", evidence=f"{len(parts)} files are taken as one volume along z, in the order given")]
    voxel_size = first.voxel_size
    odd = next((headers.name for part, headers in zip(parts, files, strict=True) if part.voxel_size != voxel_size), None)
    if odd is not None:
        evidence = f"{odd} says another voxel size than {files[0].name}, so neither is believed"
        caveats.append(Caveat(code="archive_disagrees", evidence=evidence))
        voxel_size = VoxelSize()
    return Series(axes="z", sizes=(len(pages),), pages=pages, voxel_size=voxel_size, caveats=tuple(caveats), said=first.said)


def _choices(number: int, everything: Sequence[Series], hints: Hints, name: str) -> Iterator[_Choice]:
    series = everything[number]
    layout = series.layout
    if layout.refusal:
        others = f", or say select.series to take another of the {len(everything)} series" if len(everything) > 1 else ""
        raise UnsupportedContentError(f"{series.pages[0].label}: {layout.refusal}", hint=layout.hint + others)
    axes = placed(series, hints.axes, name)
    samples: list[Samples] = _samples(layout, hints, series.pages[0].label)
    for channel in range(axes.size("c") * len(samples)):
        for time in range(axes.size("t")):
            select = Select(series=number, channel=channel, time=time, level=hints.select.level or 0)
            yield _Choice(series, axes, samples[channel % len(samples)], select)


def _samples(layout: Layout, hints: Hints, label: str) -> list[Samples]:
    if layout.samples == 1:
        return [0]
    if layout.photometric not in (RGB, YCBCR) or layout.samples < 3 or hints.rgb == "split":
        return list(range(layout.samples))
    if layout.samples > 4:
        raise UnsupportedContentError(f"{label}: {layout.samples} samples per pixel", hint="say rgb: split for a volume of each")
    if hints.rgb == "luma" and layout.dtype.kind != "f" and (layout.dtype.kind != "u" or layout.dtype.itemsize > 4):
        raise UnsupportedContentError(f"{label}: luma is not defined for {layout.dtype}", hint="say rgb: split")
    return ["luma" if hints.rgb == "luma" else "grey"]


def _reader(sources: Sequence[ByteSource], files: Sequence[Headers], choice: _Choice, level: int) -> TiffReader:
    pages = choice.pages
    size = choice.series.voxel_size
    if level:
        full = pages[0].layout
        if level > len(pages[0].children):
            raise AmbiguousContentError(
                f"{pages[0].label}: has no resolution level {level}", hint=f"its levels are 0 to {len(pages[0].children)}"
            )
        pages = [files[page.source].child(page, level) for page in pages]
        size = _coarser(size, full, pages[0].layout)
        _require_alike(pages, full)
    return TiffReader(sources=sources, pages=pages, samples=choice.samples, voxel_size=size)


def _require_alike(pages: list[Page], full: Layout) -> None:
    first = pages[0].layout
    same_kind = (first.dtype, first.samples, first.depth) == (full.dtype, full.samples, full.depth)
    for page in pages:
        if page.layout.image != first.image or not same_kind:
            raise CorruptObjectError(f"{page.label}: differs in shape or dtype from the other pages of its level")


def _coarser(size: VoxelSize, full: Layout, low: Layout) -> VoxelSize:
    """Voxel size of a lower resolution: the same extent over fewer pixels."""
    factors = (1.0, full.length / low.length, full.width / low.width)
    nm = tuple(None if n is None else n * f for n, f in zip(size.nm, factors, strict=True))
    return VoxelSize.model_validate({"nm": nm, "said_by": size.said_by})


def _found(
    sources: Sequence[ByteSource], files: Sequence[Headers], choice: _Choice, hints: Hints, level: int, *, alone: bool
) -> FoundVolume:
    reader = _reader(sources, files, choice, level)
    role, guessed = role_of(reader, hints)
    select = choice.select
    series = choice.series
    return FoundVolume(
        format=TiffFormat.name,
        objects=tuple(range(len(sources))),
        series=series_name(select, alone=alone),
        select=select,
        shape=reader.shape,
        dtype=reader.dtype.name,
        voxel_size=reader.voxel_size,
        native=reader.native,
        role=role,
        axes=hints.axes,
        rgb=hints.rgb,
        name=series.name,
        caveats=(*series.caveats, *choice.placed.caveats, *_caveats(reader, level), *guessed),
        said=series.said,
        acquisition=choice.acquisition,
    )


def _caveats(reader: TiffReader, level: int) -> Iterator[Caveat]:
    layout = reader.layout
    if layout.bits == 1:
        yield Caveat(code="bool_as_uint8", evidence="1 bit per pixel, kept as 0 and 1")
    if layout.compression in MAY_BE_LOSSY:
        yield Caveat(code="lossy", evidence=f"TIFF compression {layout.compression}, which may have lost detail")
    if level:
        yield Caveat(code="resampled", evidence=f"resolution level {level} of the file's own pyramid")
    if reader.samples == "luma":
        yield Caveat(code="rgb_luma", evidence="ITU-R BT.601 luma of red, green and blue, rounded")
    if reader.samples == "grey":
        _require_grey(reader)
        left_out = ", its opacity left out" if layout.samples > 3 else ""
        yield Caveat(code="rgb_as_grey", evidence=f"RGB whose colours are equal{left_out}; checked at every read")


def _require_grey(reader: TiffReader) -> None:
    for box in sample_boxes(reader.shape):
        if not is_grey(reader.stored(box)):
            raise AmbiguousContentError(f"{reader.pages[0].label}: is coloured", hint=SAY_RGB)
