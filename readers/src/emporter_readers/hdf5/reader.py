"""Boxes of voxels out of the chunks of a dataset, whatever the order of its axes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emporter_contracts.geometry import Box, ChunkGrid, Shape3, VoxelSize
from emporter_readers.array import ArrayReader
from emporter_readers.bounds import require_within
from emporter_readers.errors import CorruptObjectError, UnsupportedContentError
from emporter_readers.hdf5.dataset import UNWRITTEN, Chunks, Dataset
from emporter_readers.hdf5.filters import decoded
from emporter_readers.protocol import ByteSource, Reader
from emporter_readers.raw import PARALLEL, RawBlock, RawReader, for_each

DECODING_BYTES = 256 * 2**20
"""Of chunks decoded at the same time; where two are more than that, they are decoded one by one."""
MAX_CHUNK_BYTES = 2**31
"""Of one chunk: it has to be decoded whole."""

Part = tuple[slice, ...]


@dataclass(frozen=True, slots=True)
class View:
    """How a dataset is one volume: for each of its axes z, y or x, or the index at which it is taken."""

    axes: tuple[str | int, ...]

    @property
    def spatial(self) -> str:
        """The axes that are left, in the order of the dataset, z first where there is none."""
        letters = "".join(axis for axis in self.axes if isinstance(axis, str))
        return letters if "z" in letters else f"z{letters}"

    @property
    def order(self) -> tuple[int, int, int]:
        """For z, y, x their place among the axes that are left."""
        z, y, x = (self.spatial.index(axis) for axis in "zyx")
        return (z, y, x)

    def sizes(self, shape: tuple[int, ...]) -> Shape3:
        """Of a shape of the dataset, its lengths along z, y, x; 1 where there is no such axis."""
        named = {axis: n for axis, n in zip(self.axes, shape, strict=True) if isinstance(axis, str)}
        return (named.get("z", 1), named["y"], named["x"])

    def part(self, box: Box) -> Part:
        """The box as slices of the dataset."""
        wanted: Mapping[str, slice] = dict(zip("zyx", box.slices(), strict=True))
        return tuple(wanted[axis] if isinstance(axis, str) else slice(axis, axis + 1) for axis in self.axes)

    def turned(self, values: NDArray[Any]) -> NDArray[Any]:
        """A part of the dataset as axes z, y, x in C order."""
        kept = values[tuple(slice(None) if isinstance(axis, str) else 0 for axis in self.axes)]
        kept = kept[np.newaxis] if kept.ndim == 2 else kept
        return np.ascontiguousarray(kept.transpose(self.order))


@dataclass(frozen=True, slots=True)
class ChunkReader:
    """A Reader of a chunked dataset. Each chunk that a box touches is read and decoded, and nothing kept."""

    source: ByteSource
    dataset: Dataset
    chunks: Chunks
    view: View
    voxel_size: VoxelSize

    @property
    def shape(self) -> Shape3:
        return self.view.sizes(self.dataset.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.dataset.dtype.newbyteorder("=")

    @property
    def native(self) -> ChunkGrid:
        cell, shape = self.view.sizes(self.chunks.shape), self.shape
        return ChunkGrid((min(cell[0], shape[0]), min(cell[1], shape[1]), min(cell[2], shape[2])))

    def read(self, box: Box) -> NDArray[Any]:
        require_within(box, self.shape, self.source.name)
        part = self.view.part(box)
        values = np.empty([one.stop - one.start for one in part], self.dtype)
        touched = [range(one.start // n, -(-one.stop // n)) for one, n in zip(part, self.chunks.shape, strict=True)]
        cells = list(product(*touched))
        size = math.prod(self.chunks.shape) * self.dtype.itemsize
        at_once = max(1, min(PARALLEL, DECODING_BYTES // size))
        for_each(range(len(cells)), lambda k: self._place(cells[k], part, values), at_once)
        return self.view.turned(values)

    def _place(self, cell: tuple[int, ...], part: Part, values: NDArray[Any]) -> None:
        starts = [at * n for at, n in zip(cell, self.chunks.shape, strict=True)]
        into: list[slice] = []
        out: list[slice] = []
        for start, n, wanted in zip(starts, self.chunks.shape, part, strict=True):
            first, last = max(start, wanted.start), min(start + n, wanted.stop)
            into.append(slice(first - wanted.start, last - wanted.start))
            out.append(slice(first - start, last - start))
        stored = self._decoded(cell)
        values[tuple(into)] = self.dataset.fill if stored is None else stored[tuple(out)]

    def _decoded(self, cell: tuple[int, ...]) -> NDArray[Any] | None:
        """Values of one chunk; None where it was never written."""
        offset, length = int(self.chunks.offsets[cell]), int(self.chunks.sizes[cell])
        if offset == UNWRITTEN:
            return None
        label = f"{self.source.name}, dataset {self.dataset.path}: chunk {list(cell)}"
        if offset + length > self.source.size:
            raise CorruptObjectError(
                f"{label} reaches byte {offset + length} of {self.source.size}", hint="the file is truncated; fetch it again"
            )
        size = math.prod(self.chunks.shape) * self.dtype.itemsize
        data = self.source.read(offset, offset + length)
        try:
            data = decoded(data, self.dataset.filters, int(self.chunks.masks[cell]), size)
        except (RuntimeError, ValueError, TypeError, OverflowError) as error:  # every codec has exceptions of its own
            raise CorruptObjectError(f"{label} can't be decoded ({error})", hint="the file is damaged; fetch it again") from error
        values: NDArray[Any] = np.frombuffer(data, self.dataset.dtype).reshape(self.chunks.shape)
        return values


def reader_of(source: ByteSource, dataset: Dataset, view: View, voxel_size: VoxelSize) -> Reader:
    """Raises CorruptObjectError where the values can't lie in the file, UnsupportedContentError where they lie interleaved."""
    label = f"{source.name}, dataset {dataset.path}"
    if dataset.values is not None:
        values = dataset.values.astype(dataset.dtype, copy=False)[tuple(_whole(axis) for axis in view.axes)]
        array = view.turned(values)
        return ArrayReader(array, voxel_size, ChunkGrid(view.sizes(dataset.shape)))
    if dataset.chunks is not None:
        if not 0 < math.prod(dataset.chunks.shape) * dataset.dtype.itemsize <= MAX_CHUNK_BYTES:
            raise UnsupportedContentError(
                f"{label}: has chunks of more than {MAX_CHUNK_BYTES} bytes", hint="rewrite it with smaller ones"
            )
        return ChunkReader(source, dataset, dataset.chunks, view, voxel_size)
    block = _block(source, dataset, view, label)
    if block.stop > source.size:
        raise CorruptObjectError(
            f"{label}: reaches byte {block.stop} of {source.size}", hint="the file is truncated; fetch it again"
        )
    return RawReader(block, voxel_size, view.order)


def _whole(axis: str | int) -> slice:
    return slice(None) if isinstance(axis, str) else slice(axis, axis + 1)


def _block(source: ByteSource, dataset: Dataset, view: View, label: str) -> RawBlock:
    """Where the volume lies in a dataset stored in one piece."""
    assert dataset.offset is not None
    offset, stride = 0, math.prod(dataset.shape)
    inside = False
    for axis, n in zip(view.axes, dataset.shape, strict=True):
        stride //= n
        inside = inside or (isinstance(axis, str) and n > 1)
        if isinstance(axis, int):
            if inside and n > 1:
                raise UnsupportedContentError(
                    f"{label}: has its channels or times interleaved", hint="rewrite it in chunks, by h5repack -l CHUNK=..."
                )
            offset += axis * stride
    sizes = [n for axis, n in zip(view.axes, dataset.shape, strict=True) if isinstance(axis, str)]
    deep, down, across = sizes if len(sizes) == 3 else (1, *sizes)
    return RawBlock(source, dataset.offset + offset * dataset.dtype.itemsize, (deep, down, across), dataset.dtype)
