"""A box read by several threads at once, in pieces that cut no cell of the source in two."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.memory import PIECE_BYTES
from emporter_contracts.geometry import Box, Index3, Shape3
from emporter_readers.array import RegionReader
from emporter_readers.protocol import Reader

Stop = Callable[[], None]
"""Raises once the work is no longer wanted."""


class Reading:
    """A box that is being read in pieces of about `piece_bytes`; `stop` is called before each."""

    def __init__(
        self, reader: Reader, box: Box, dtype: np.dtype[Any], pool: ThreadPoolExecutor, stop: Stop, piece_bytes: int = PIECE_BYTES
    ) -> None:
        self._voxels = np.empty(box.shape, dtype)
        z, y, x = (-a for a in box.start)

        def read(piece: Box) -> None:
            stop()
            self._voxels[piece.moved((z, y, x)).slices()] = reader.read(piece)

        offset = reader.region.start if isinstance(reader, RegionReader) else (0, 0, 0)
        parts = pieces(box, reader.native.cell, offset, piece_bytes // dtype.itemsize)
        self._parts = [pool.submit(read, piece) for piece in parts]

    def result(self) -> NDArray[Any]:
        """The voxels of the box, once all are there. Raises what the reader or `stop` raised first."""
        all_of(self._parts)
        return self._voxels


def pieces(box: Box, cell: Shape3, offset: Index3, voxels: int) -> Iterator[Box]:
    """`box` cut along cells of a source, laid from `-offset`, about `voxels` each: no cell is in two pieces of one box."""
    shape = list(cell)
    for axis in (2, 1, 0):
        while shape[axis] < box.shape[axis] and 2 * shape[0] * shape[1] * shape[2] <= voxels:
            shape[axis] *= 2
    for piece in box.moved(offset).tiles((shape[0], shape[1], shape[2])):
        yield piece.moved((-offset[0], -offset[1], -offset[2]))


def all_of(futures: list[Future[None]]) -> None:
    """Wait for all, or for the first error, which is raised."""
    done, _ = wait(futures, return_when=FIRST_EXCEPTION)
    for future in done:
        future.result()
