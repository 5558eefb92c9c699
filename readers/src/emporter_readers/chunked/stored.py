"""One array as it is stored: its grid of chunks, where each of them lies, and the document its decoder needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal, Protocol

import numpy as np

from emporter_contracts.plans import Caveat
from emporter_readers.chunked.packing import Unpack
from emporter_readers.chunked.tree import Document
from emporter_readers.chunked.values import Shape
from emporter_readers.protocol import ByteSource

Cell = tuple[int, ...]
"""Index of a chunk in its grid, slowest axis first."""
Driver = Literal["zarr", "zarr3", "n5", "neuroglancer_precomputed"]
Lookup = Callable[[str], ByteSource | None]
"""An object by its name below the root, None where there is none."""


class Layout(Protocol):
    """Where chunks lie: an object each, or many in one shard. Cells are in the order of the array as read, slowest first."""

    def names(self, cell: Cell) -> tuple[str, ...]:
        """The objects a chunk may lie in, the likeliest last."""

    def read(self, cell: Cell, lookup: Lookup) -> bytes | None:
        """The encoded chunk, None where it is not stored. Raises CorruptObjectError."""


@dataclass(frozen=True, slots=True)
class Single:
    """One object per chunk."""

    name_of: Callable[[Cell], str]

    def names(self, cell: Cell) -> tuple[str, ...]:
        return (self.name_of(cell),)

    def read(self, cell: Cell, lookup: Lookup) -> bytes | None:
        source = lookup(self.name_of(cell))
        return None if source is None else source.read(0, source.size)


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array of any number of axes, slowest first: what stores the fastest first is turned round here.

    The decoder is tensorstore's `driver` over the metadata `document` (under `document_name`) and the chunks under `key_of`;
    both speak of plain chunks, whatever shards they came from.
    """

    path: str
    shape: Shape
    chunk: Shape
    dtype: np.dtype[Any]
    driver: Driver
    layout: Layout
    document_name: str
    document: Document
    key_of: Callable[[Cell], str]
    axes: tuple[str, ...] | None = None
    """Names of the axes where the array says them, slowest first."""
    fastest_first: bool = False
    """Whether the decoder's axes are the reverse of ours."""
    unpack: Unpack | None = None
    """What lies around a chunk and is not the decoder's to open."""
    fill_unknown: bool = False
    """Whether nobody can say what a chunk that is not stored would hold."""
    caveats: tuple[Caveat, ...] = ()
    attributes: Document = field(default_factory=dict)
    said: dict[str, Document] = field(default_factory=dict)
    """The documents that describe it, verbatim, by name."""

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.path or "the array"

    def names(self, cell: Cell) -> tuple[str, ...]:
        """The objects a chunk may lie in; one of them is enough."""
        return self.layout.names(cell)

    def object_name(self, cell: Cell) -> str:
        """What messages call the object of a chunk."""
        return self.names(cell)[-1]

    def cells(self, start: Shape, stop: Shape) -> Iterator[Cell]:
        """Every chunk that shares a voxel with a box of the array's own axes, in C order."""
        return product(*(range(a // c, -(-b // c)) for a, b, c in zip(start, stop, self.chunk, strict=True)))
