"""HDF5 files in memory for tests, and what is read of them."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from emporter_readers.array import MemorySource
from emporter_readers.discover import discover
from emporter_readers.protocol import FoundVolume, Hints
from emporter_readers.testing import volumes_of


def voxels_of(shape: tuple[int, ...] = (9, 40, 33), dtype: str = "u2") -> NDArray[Any]:
    return np.random.default_rng(7).integers(0, 120, shape).astype(dtype)


def a_file(write: Callable[[Any], object], **options: Any) -> MemorySource:
    """A file filled by `write`, which is handed it open."""
    file = io.BytesIO()
    with h5py.File(file, "w", **options) as h5:
        write(h5)
    return MemorySource("a.h5", file.getvalue())


def holding(array: NDArray[Any], **options: Any) -> MemorySource:
    """A file of one dataset, /volume."""
    return a_file(lambda h5: h5.create_dataset("volume", data=array, **options))


def named(path: JsonValue, **hints: Any) -> Hints:
    return Hints(parameters={"dataset": path}, **hints)


def found_in(source: MemorySource, hints: Hints | None = None) -> FoundVolume:
    """The one volume of the file."""
    (found,) = discover([source], hints or Hints())
    return found


def read_from(source: MemorySource, hints: Hints | None = None) -> NDArray[Any]:
    """The voxels of the one volume of the file, axes z, y, x."""
    (array,) = volumes_of([source], hints).values()
    return array
