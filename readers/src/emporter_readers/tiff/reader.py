"""Boxes of voxels out of the strips and tiles that hold them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from operator import add
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from emporter_contracts.geometry import Box, ChunkGrid, Shape3, VoxelSize
from emporter_readers.bounds import require_within
from emporter_readers.protocol import ByteSource
from emporter_readers.reaching import Reach, whole
from emporter_readers.tiff.colours import combined
from emporter_readers.tiff.decoding import decode_segment, raw_pixels
from emporter_readers.tiff.file import PARALLEL
from emporter_readers.tiff.pages import Layout, Page
from emporter_readers.tiff.slices import LazySlices

MOST_READ_BYTES = 16 * 2**20
"""Of one ranged read: the request's cost has vanished by then."""
IN_FLIGHT_BYTES = 2 * MOST_READ_BYTES
"""Of reads at a time, with PARALLEL at most: they hide each other's latency, and are what a read holds beside its result."""
GAP_BYTES = 8 * 1024
"""Between two ranges that are read as one: less than a request costs, and more than the directory that lies between two pages."""

Samples = Literal["grey", "luma"] | int
"""What becomes of the samples of a pixel: one of them by index, their common value, or their luma."""


class _Piece(NamedTuple):
    """Bytes of one page that fill `target` of the result: rows of an uncompressed strip, or a whole segment."""

    source: int
    start: int
    stop: int
    page: Page
    segment: int
    rows: tuple[int, int] | None
    """Rows of the strip, where only these are read; None for a whole segment."""
    target: Box
    """Where it lies in the volume, padding of edge tiles included, z counted in the volume."""
    sample: int
    """First sample it holds."""


@dataclass(frozen=True, slots=True)
class TiffReader:
    """A Reader of planes `pages` in z order. Nothing is kept between reads, so any number of threads may read at once."""

    sources: Sequence[ByteSource]
    pages: Sequence[Page]
    """In z order; each holds `layout.depth` planes."""
    samples: Samples
    voxel_size: VoxelSize

    @property
    def layout(self) -> Layout:
        return self.pages[0].layout

    @property
    def shape(self) -> Shape3:
        layout = self.layout
        return (len(self.pages) * layout.depth, layout.length, layout.width)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.layout.dtype

    @property
    def native(self) -> ChunkGrid:
        """A tile, a strip; a row where rows can be read one by one, because nothing is compressed."""
        layout = self.layout
        if layout.raw and not layout.tiled:
            return ChunkGrid((1, 1, layout.width))
        depth, rows, columns = layout.cell
        return ChunkGrid((depth, rows, columns))

    def reach(self, box: Box) -> Iterator[Reach]:
        depth = self.layout.depth
        numbers = range(box.start[0] // depth, -(-box.stop[0] // depth))
        if isinstance(self.pages, LazySlices):
            # Where its pixels lie only the file itself can say.
            yield from (whole(self.sources[number]) for number in numbers)
            return
        for page in self.pages[numbers.start : numbers.stop]:
            yield Reach(self.sources[page.source].name, max(map(add, page.offsets, page.counts)))

    def read(self, box: Box) -> NDArray[Any]:
        name = self.sources[self.pages[0].source].name
        require_within(box, self.shape, name)
        voxels = self.stored(box)
        return voxels[..., 0] if isinstance(self.samples, int) else combined(voxels, self.samples, name)

    def stored(self, box: Box) -> NDArray[Any]:
        """The samples of every voxel of `box`, as they are stored, along a last axis; one of them where one was chosen."""
        layout = self.layout
        single = isinstance(self.samples, int)
        voxels = np.empty((*box.shape, 1 if single else layout.samples), layout.dtype)
        with ThreadPoolExecutor(PARALLEL) as pool:
            for batch in _batches(_runs(self._pieces(box))):
                reads = map(self._fetched, batch) if len(batch) == 1 else pool.map(self._fetched, batch)
                for run, data in zip(batch, reads, strict=True):
                    for piece in run:
                        self._place(piece, data[piece.start - run[0].start : piece.stop - run[0].start], box, voxels)
        return voxels

    def _fetched(self, run: list[_Piece]) -> memoryview:
        return memoryview(self.sources[run[0].source].read(run[0].start, run[-1].stop))

    def _pieces(self, box: Box) -> Iterator[_Piece]:
        depth = self.layout.depth
        first = box.start[0] // depth
        for number, page in enumerate(self.pages[first : -(-box.stop[0] // depth)], start=first):
            planes, *_ = page.layout.grid
            wanted = [self.samples] if planes > 1 and isinstance(self.samples, int) else range(planes)
            for plane in wanted:
                yield from _page_pieces(page, plane, number * depth, box)

    def _place(self, piece: _Piece, data: memoryview, box: Box, voxels: NDArray[Any]) -> None:
        layout = piece.page.layout
        if piece.rows is not None:
            pixels = raw_pixels(layout, data, (1, piece.rows[1] - piece.rows[0], layout.width, layout.interleaved))
        elif layout.raw:
            down = piece.segment // layout.grid[3] % layout.grid[2]
            pixels = raw_pixels(layout, data, layout.segment_shape(down))
        else:
            pixels = decode_segment(piece.page, piece.segment, data)
        overlap = piece.target.overlap(box)
        if overlap is None:
            return
        part = pixels[overlap.moved(_negative(piece.target.start)).slices()]
        into = voxels[overlap.moved(_negative(box.start)).slices()]
        if isinstance(self.samples, int):
            into[..., 0] = part[..., 0 if layout.planar else self.samples]
        elif layout.planar:
            into[..., piece.sample] = part[..., 0]
        else:
            into[...] = part


def _page_pieces(page: Page, plane: int, z: int, box: Box) -> Iterator[_Piece]:
    """What of sample plane `plane` of `page`, whose first plane is `z` of the volume, lies in `box`."""
    layout = page.layout
    _, deep, down, across = layout.grid
    cell = layout.cell
    inside = Box((max(box.start[0], z), *box.start[1:]), (min(box.stop[0], z + layout.depth), *box.stop[1:]))
    ranges = [
        range((a - base) // c, -(-(b - base) // c))
        for a, b, base, c in zip(inside.start, inside.stop, (z, 0, 0), cell, strict=True)
    ]
    for d in ranges[0]:
        for y in ranges[1]:
            for x in ranges[2]:
                segment = ((plane * deep + d) * down + y) * across + x
                target = Box.at((z + d * cell.depth, y * cell.rows, x * cell.columns), layout.segment_shape(y)[:3])
                yield from _segment_pieces(page, segment, target, plane, inside)


def _segment_pieces(page: Page, segment: int, target: Box, sample: int, box: Box) -> Iterator[_Piece]:
    layout = page.layout
    offset = page.offsets[segment]
    if not layout.raw or layout.tiled:
        yield _Piece(page.source, offset, offset + page.counts[segment], page, segment, None, target, sample)
        return
    z0, y0, _ = target.start
    first, last = max(box.start[1], y0), min(box.stop[1], target.stop[1])
    step = max(1, MOST_READ_BYTES // layout.row_bytes)
    for row in range(first, last, step):
        end = min(row + step, last)
        start, stop = (offset + (n - y0) * layout.row_bytes for n in (row, end))
        rows = Box((z0, row, 0), (z0 + 1, end, layout.width))
        yield _Piece(page.source, start, stop, page, segment, (row - y0, end - y0), rows, sample)


def _runs(pieces: Iterator[_Piece]) -> Iterator[list[_Piece]]:
    """Pieces that lie close to each other, to be read at once; in the order given, so that memory stays bounded."""
    run: list[_Piece] = []
    for piece in pieces:
        if run and not _joins(run, piece):
            yield run
            run = []
        run.append(piece)
    if run:
        yield run


def _joins(run: list[_Piece], piece: _Piece) -> bool:
    last = run[-1]
    near = piece.source == last.source and 0 <= piece.start - last.stop <= GAP_BYTES
    return near and piece.stop - run[0].start <= MOST_READ_BYTES


def _batches(runs: Iterator[list[_Piece]]) -> Iterator[list[list[_Piece]]]:
    """Runs that are read at the same time."""
    batch: list[list[_Piece]] = []
    held = 0
    for run in runs:
        size = run[-1].stop - run[0].start
        if batch and (len(batch) == PARALLEL or held + size > IN_FLIGHT_BYTES):
            yield batch
            batch, held = [], 0
        batch.append(run)
        held += size
    if batch:
        yield batch


def _negative(start: tuple[int, int, int]) -> tuple[int, int, int]:
    return (-start[0], -start[1], -start[2])
