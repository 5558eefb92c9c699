"""TIFF files in memory for tests, and what is found in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emporter_readers.array import MemorySource
from emporter_readers.discover import discover
from emporter_readers.protocol import Hints
from emporter_readers.testing import tiff_bytes


def counting(*shape: int, dtype: str = "uint16") -> NDArray[Any]:
    """Every voxel differs from every other."""
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def a_file(array: NDArray[Any], name: str = "a.tif", **options: Any) -> MemorySource:
    return MemorySource(name, tiff_bytes(array, **options))


def same(volumes: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]) -> None:
    """Assert that both hold the same series, voxel for voxel."""
    assert volumes.keys() == expected.keys()
    for series, array in expected.items():
        np.testing.assert_array_equal(volumes[series], array, strict=True)


def caveats(sources: Sequence[MemorySource], hints: Hints | None = None) -> list[set[str]]:
    """The codes of the caveats of each volume found."""
    return [{caveat.code for caveat in volume.caveats} for volume in discover(sources, hints or Hints())]
