"""The behaviour of every Reader as a test suite: an implementation inherits `ReaderSuite` and provides the fixture `case`."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from emporter_contracts.geometry import Box, Shape3
from emporter_readers.array import MemorySource
from emporter_readers.discover import discover, open_volume
from emporter_readers.errors import OutsideVolumeError
from emporter_readers.protocol import ByteSource, Hints, Reader
from emporter_readers.reaching import reach_of


@dataclass(frozen=True, slots=True)
class ReaderCase:
    """A reader and what it must read: `voxels`, axes z, y, x."""

    reader: Reader
    voxels: NDArray[Any]
    sources: Sequence[MemorySource] = ()
    """What it reads from; empty where it reads from memory."""
    cell_bytes: int = 0
    """The most bytes that reading one native cell may cost."""


class ReaderSuite:
    """What any Reader promises."""

    def test_it_says_the_shape_and_dtype_of_its_voxels(self, case: ReaderCase) -> None:
        assert tuple(case.reader.shape) == case.voxels.shape
        assert np.dtype(case.reader.dtype) == case.voxels.dtype.newbyteorder("=")
        assert case.reader.dtype.isnative

    def test_the_whole_volume_is_read_voxel_for_voxel(self, case: ReaderCase) -> None:
        _same(case.reader.read(Box.whole(case.reader.shape)), case.voxels)

    def test_any_box_is_that_box_of_the_volume(self, case: ReaderCase) -> None:
        for box in random_boxes(case.reader.shape, 40):
            _same(case.reader.read(box), case.voxels[box.slices()])

    def test_every_corner_is_read_alone(self, case: ReaderCase) -> None:
        depth, height, width = case.reader.shape
        for z in {0, depth - 1}:
            for y in {0, height - 1}:
                for x in {0, width - 1}:
                    voxel = case.reader.read(Box.at((z, y, x), (1, 1, 1)))
                    _same(voxel, case.voxels[z : z + 1, y : y + 1, x : x + 1])

    def test_boxes_are_contiguous_in_c_order_and_native_byte_order(self, case: ReaderCase) -> None:
        for box in random_boxes(case.reader.shape, 5):
            voxels = case.reader.read(box)
            assert voxels.flags.c_contiguous
            assert voxels.dtype.isnative

    def test_what_was_read_belongs_to_the_caller(self, case: ReaderCase) -> None:
        box = Box.whole(case.reader.shape)
        case.reader.read(box)[...] = 0
        _same(case.reader.read(box), case.voxels)

    def test_many_threads_read_at_once(self, case: ReaderCase) -> None:
        boxes = list(random_boxes(case.reader.shape, 64))
        with ThreadPoolExecutor(8) as pool:
            for box, voxels in zip(boxes, pool.map(case.reader.read, boxes), strict=True):
                _same(voxels, case.voxels[box.slices()])

    def test_a_box_that_leaves_the_volume_is_refused(self, case: ReaderCase) -> None:
        depth, height, width = case.reader.shape
        outside = [
            Box((0, 0, 0), (depth + 1, height, width)),
            Box((0, 0, 0), (depth, height + 1, width)),
            Box((0, 0, 0), (depth, height, width + 1)),
            Box((-1, 0, 0), (depth, height, width)),
            Box.at((depth, height, width), (1, 1, 1)),
        ]
        for box in outside:
            with pytest.raises(OutsideVolumeError, match="leaves the volume"):
                case.reader.read(box)

    def test_bytes_read_are_proportional_to_the_cells_a_box_touches(self, case: ReaderCase) -> None:
        if not case.sources:
            pytest.skip("reads from memory: there are no bytes to count")
        for box in random_boxes(case.reader.shape, 20):
            before = sum(source.bytes_read for source in case.sources)
            case.reader.read(box)
            read = sum(source.bytes_read for source in case.sources) - before
            assert 0 < read <= cells_touched(box, case.reader.native.cell) * case.cell_bytes

    def test_a_box_needs_no_byte_it_did_not_say_it_would(self, case: ReaderCase) -> None:
        if not case.sources or reach_of(case.reader, Box.whole(case.reader.shape)) is None:
            pytest.skip("reads from memory, or can't tell where its voxels lie")
        for box in random_boxes(case.reader.shape, 20):
            said: dict[str, int] = {}
            for name, stop in reach_of(case.reader, box) or ():
                said[name] = max(stop, said.get(name, 0))
            for source in case.sources:
                source.furthest = 0
            case.reader.read(box)
            beyond = [source.name for source in case.sources if source.furthest > said.get(source.name, 0)]
            assert not beyond, f"{box} touched {beyond}"


def random_boxes(shape: Shape3, count: int) -> Iterator[Box]:
    """`count` boxes anywhere in a volume of `shape`, always the same."""
    rng = np.random.default_rng(20)
    for _ in range(count):
        starts = [int(rng.integers(0, n)) for n in shape]
        stops = [int(rng.integers(a + 1, n + 1)) for a, n in zip(starts, shape, strict=True)]
        yield Box((starts[0], starts[1], starts[2]), (stops[0], stops[1], stops[2]))


def cells_touched(box: Box, cell: Shape3) -> int:
    """How many cells, laid from the origin, share a voxel with `box`."""
    return math.prod(-(-b // c) - a // c for a, b, c in zip(box.start, box.stop, cell, strict=True))


def _same(read: NDArray[Any], expected: NDArray[Any]) -> None:
    assert read.shape == expected.shape
    assert read.dtype == expected.dtype.newbyteorder("=")
    # Compared as bytes, so that NaN equals itself and -0.0 differs from 0.0.
    assert read.tobytes() == expected.astype(read.dtype).tobytes()


def tiff_bytes(array: NDArray[Any], **options: Any) -> bytes:
    """A TIFF file of `array`, written by tifffile; grey unless `photometric` says otherwise."""
    file = io.BytesIO()
    tifffile.imwrite(file, array, **{"photometric": "minisblack", **options})
    return file.getvalue()


def volumes_of(sources: Sequence[ByteSource], hints: Hints | None = None) -> dict[str, NDArray[Any]]:
    """Every volume in `sources`, whole, by the name of its series."""
    found = discover(sources, hints or Hints())
    readers = {volume.series: open_volume([sources[k] for k in volume.objects], volume) for volume in found}
    return {series: reader.read(Box.whole(reader.shape)) for series, reader in readers.items()}
