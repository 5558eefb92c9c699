"""Files of one plane each: opened when a voxel of theirs is first asked for, since a task touches a few of ten thousand."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from emporter_readers.errors import CorruptObjectError
from emporter_readers.protocol import ByteSource
from emporter_readers.tiff.file import PARALLEL
from emporter_readers.tiff.headers import Headers
from emporter_readers.tiff.ome import is_ome, ome_series
from emporter_readers.tiff.pages import Layout, Page
from emporter_readers.tiff.series import Series, file_series

ODD = "slices of one volume have one shape and dtype; leave the odd file out"


class LazySlices(Sequence[Page]):
    """The page of every source, in order. Any number of threads may ask: at worst two of them read the same header."""

    def __init__(self, sources: Sequence[ByteSource], first: Page) -> None:
        self._sources = sources
        self._pages = {0: first}

    def __len__(self) -> int:
        return len(self._sources)

    def __getitem__(self, k: Any) -> Any:
        if not isinstance(k, slice):
            return self._page(range(len(self))[k])
        numbers = range(*k.indices(len(self)))
        if all(number in self._pages for number in numbers):
            return [self._pages[number] for number in numbers]
        with ThreadPoolExecutor(PARALLEL) as pool:
            return list(pool.map(self._page, numbers))

    def _page(self, number: int) -> Page:
        if number not in self._pages:
            page = single_page(Headers(self._sources[number], number), self._sources[number])
            if page is None:
                raise CorruptObjectError(f"{self._sources[number].name}: no longer holds one plane", hint="plan the ingest again")
            require_alike(page.layout, self._pages[0].layout, self._sources[number].name, self._sources[0].name)
            self._pages[number] = page
        return self._pages[number]


def single_page(headers: Headers, source: ByteSource) -> Page | None:
    """The page of a file that holds one plane and nothing else."""
    series = own_series(headers, source)
    return series[0].pages[0] if len(series) == len(series[0].pages) == 1 else None


def own_series(headers: Headers, source: ByteSource) -> list[Series]:
    """What one file holds by itself."""
    ome = ome_series([headers]) if is_ome(headers.pages[0].description) else None
    return ome or file_series(headers, source.size)


def require_alike(layout: Layout, first: Layout, name: str, first_name: str) -> None:
    """Raises CorruptObjectError naming the file that is not like the first."""
    if layout.image != first.image:
        raise CorruptObjectError(f"{name}: is {_described(layout)}, {first_name} is {_described(first)}", hint=ODD)


def _described(layout: Layout) -> str:
    samples = f" x {layout.samples} samples" if layout.samples > 1 else ""
    depth = f"{layout.depth} x " if layout.depth > 1 else ""
    return f"{depth}{layout.length} x {layout.width}{samples} {layout.dtype}"
