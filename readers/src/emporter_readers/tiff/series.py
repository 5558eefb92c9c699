"""Series: which pages of a file make one image, and along which axes they lie.

Three dresses are told by the description of a page, and a plain file by the pages alone: ImageJ, tifffile's own JSON, and
runs of pages that look alike. OME has a module of its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import tifffile

from emporter_contracts.acquisition import Acquisition
from emporter_contracts.geometry import VoxelSize
from emporter_contracts.plans import Caveat
from emporter_readers.errors import CorruptObjectError
from emporter_readers.tiff.headers import Headers
from emporter_readers.tiff.pages import Cell, Layout, Page
from emporter_readers.tiff.voxels import imagej_voxel_size, tag_voxel_size

IMAGEJ_ORDERS = {"czt": "tzc", "ctz": "ztc", "zct": "tcz", "ztc": "ctz", "tcz": "zct", "tzc": "czt"}
"""Axes of an ImageJ hyperstack, slowest first, by its `order` (fastest first)."""
UNNAMED = "i"
"""An axis of pages that nobody names."""
REWRITE = "if other software carried the description over, save the file anew without it"


@dataclass(frozen=True, slots=True)
class Series:
    """Pages in C order of `axes`, letters of `zcti` with `sizes`; depth, y, x and samples of a page are in its layout."""

    axes: str
    sizes: tuple[int, ...]
    pages: Sequence[Page]
    voxel_size: VoxelSize = VoxelSize()
    name: str = ""
    caveats: tuple[Caveat, ...] = ()
    said: dict[str, Any] = field(default_factory=dict)
    acquisitions: tuple[Acquisition, ...] = ()
    """By channel of pages, where the file says any."""

    @property
    def layout(self) -> Layout:
        return self.pages[0].layout


class ContiguousPages(Sequence[Page]):
    """Pages without a directory of their own: their pixels follow those of `first` without a gap."""

    def __init__(self, first: Page, count: int) -> None:
        layout = first.layout
        self._first = replace(first, layout=replace(layout, cell=Cell(layout.depth, layout.length, layout.width)))
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, k: Any) -> Any:
        if isinstance(k, slice):
            return [self[n] for n in range(*k.indices(self._count))]
        if not 0 <= k < self._count:
            raise IndexError(k)
        length = self._first.layout.page_bytes
        label = f"{self._first.label.removesuffix('page 0')}plane {k}"
        return replace(self._first, offsets=(self._first.offsets[0] + k * length,), counts=(length,), label=label)


def file_series(headers: Headers, size: int) -> list[Series]:
    """The series of one file of `size` bytes that is not OME. Raises CorruptObjectError."""
    pages = _whole_pages(headers.pages)
    first = pages[0]
    if imagej := _imagej(first.description):
        return [_imagej_series(imagej, pages, size, headers.name)]
    if _shaped(first) is not None:
        return _shaped_series(pages, size)
    return [_plain_series(list(run)) for _, run in groupby(pages, key=lambda page: page.layout.image)]


def _whole_pages(pages: list[Page]) -> list[Page]:
    """Without thumbnails, lower resolutions and masks. A page as large as the image is none, whatever it is marked as."""
    first = next((page for page in pages if not page.reduced), pages[0])
    return [page for page in pages if not page.reduced or page.layout.image == first.layout.image]


def _plain_series(pages: list[Page]) -> Series:
    first = pages[0]
    return Series(UNNAMED, (len(pages),), pages, voxel_size=tag_voxel_size(first.said), said=first.said)


def _imagej(description: str) -> dict[str, Any]:
    if not description.startswith(("ImageJ=", "SCIFIO=")):
        return {}
    meta: dict[str, Any] = tifffile.tifffile.imagej_description_metadata(description)
    return meta


def _imagej_series(meta: dict[str, Any], pages: list[Page], size: int, name: str) -> Series:
    first = pages[0]
    counts = {axis: _count(meta, key, name) for axis, key in (("t", "frames"), ("z", "slices"), ("c", "channels"))}
    if counts["c"] == first.layout.samples:
        counts["c"] = 1  # composite colours, declared as channels and stored as samples
    images = _count(meta, "images", name)
    planes = math.prod(counts.values())
    if images == 1:
        images = max(planes, len(pages))
    axes = IMAGEJ_ORDERS.get(str(meta.get("order", "czt")).lower(), "tzc")
    sizes = tuple(counts[axis] for axis in axes)
    if planes == 1 and images > 1:
        axes, sizes = UNNAMED, (images,)
    if math.prod(sizes) != images:
        raise CorruptObjectError(f"{name}: ImageJ says {images} images, and {counts} of slices, channels and frames")
    if len(pages) == 1 < images:
        series: Sequence[Page] = _following(first, images, size, "ImageJ")
    else:
        series = _alike(pages, images, "ImageJ")
    said = {**first.said, "ImageJ": {key: value for key, value in meta.items() if isinstance(value, str | int | float)}}
    return Series(axes, sizes, series, voxel_size=imagej_voxel_size(meta, first.said), said=said)


def _count(meta: dict[str, Any], key: str, name: str) -> int:
    value = meta.get(key, 1)
    if not isinstance(value, int) or value < 1:
        raise CorruptObjectError(f"{name}: its ImageJ description says {key}={value}", hint=REWRITE)
    return int(value)


def _shaped(page: Page) -> dict[str, Any] | None:
    """What tifffile notes of the array it wrote, as JSON: `shape` and perhaps `axes`, `truncated`, `name`."""
    if not page.description.startswith('{"shape":'):
        return None
    try:
        meta = json.loads(page.description)
    except (ValueError, RecursionError):
        meta = None
    shape = meta.get("shape") if isinstance(meta, dict) else None
    if not isinstance(shape, list) or not shape or not all(isinstance(n, int) and n > 0 for n in shape):
        raise CorruptObjectError(f"{page.label}: its description of an array is damaged", hint=REWRITE)
    return dict(meta)


def _shaped_series(pages: list[Page], size: int) -> list[Series]:
    found: list[Series] = []
    start = 0
    while start < len(pages):
        meta = _shaped(pages[start])
        if meta is None:
            run = next(list(run) for _, run in groupby(pages[start:], key=lambda page: page.layout.image))
            found.append(_plain_series(run))
            start += len(run)
            continue
        series, used = _one_shaped(meta, pages[start:], size)
        found.append(series)
        start += used
        if start < len(pages) and not _shaped(pages[start]) and pages[start].layout.image == series.layout.image:
            raise CorruptObjectError(
                f"{pages[start].label}: is one more than the {used} pages of shape {meta['shape']} before it", hint=REWRITE
            )
    return found


def _one_shaped(meta: dict[str, Any], pages: list[Page], size: int) -> tuple[Series, int]:
    first = pages[0]
    shape = tuple(meta["shape"])
    inner = _page_shape(first.layout)
    pixels = math.prod(inner)
    count = math.prod(shape) // pixels
    squeezed = tuple(n for n in shape if n > 1)
    within = tuple(n for n in inner if n > 1)
    if count * pixels != math.prod(shape) or squeezed[len(squeezed) - len(within) :] != within:
        raise CorruptObjectError(f"{first.label}: of shape {list(inner)}, is said to be part of {list(shape)}", hint=REWRITE)
    outer = shape[: len(shape) - _inner_axes(shape, inner)]
    names = str(meta.get("axes", ""))
    names = names[: len(outer)] if len(names) == len(shape) else ""
    axes = "".join(axis if axis in "zct" else UNNAMED for axis in names.lower()) or UNNAMED * len(outer)
    alone = len(pages) == 1 or _shaped(pages[1]) is not None
    if count > 1 and (meta.get("truncated") or alone):
        members: Sequence[Page] = _following(first, count, size, "the description")
        used = 1
    else:
        members, used = _alike(pages[:count], count, "the description"), count
    said = {**first.said, "shaped": {"shape": list(shape), "axes": str(meta.get("axes", ""))}}
    name = str(meta.get("name", ""))
    return Series(axes, outer, members, voxel_size=tag_voxel_size(first.said), name=name, said=said), used


def _inner_axes(shape: tuple[int, ...], inner: tuple[int, ...]) -> int:
    """How many trailing axes of `shape` lie in a page."""
    left = math.prod(inner)
    for used, n in enumerate(reversed(shape), start=1):
        left //= n
        if left <= 1 and used >= 2:
            return used
    return len(shape)


def _page_shape(layout: Layout) -> tuple[int, ...]:
    inner = (layout.depth, layout.length, layout.width)
    return (layout.samples, *inner) if layout.planar else (*inner, layout.samples)


def _following(first: Page, count: int, size: int, who: str) -> ContiguousPages:
    """`count` planes stored one after the other behind one directory, as ImageJ does beyond 4 GB."""
    if not first.contiguous or first.layout.depth > 1:
        raise CorruptObjectError(f"{first.label}: {who} says {count} images, the file holds one page", hint=REWRITE)
    stop = first.offsets[0] + count * first.layout.page_bytes
    if stop > size:
        raise CorruptObjectError(
            f"{first.label}: {count} images end at byte {stop}, the file at {size}",
            hint="the file is truncated; fetch it again",
        )
    return ContiguousPages(first, count)


def _alike(pages: list[Page], count: int, who: str) -> list[Page]:
    if len(pages) != count:
        raise CorruptObjectError(f"{pages[0].label}: {who} says {count} images, the file holds {len(pages)} pages", hint=REWRITE)
    for page in pages:
        if page.layout.image != pages[0].layout.image:
            raise CorruptObjectError(f"{page.label}: differs in shape or dtype from {pages[0].label} of the same stack")
    return pages
