"""Which box of a volume a request means."""

from __future__ import annotations

import random
from collections.abc import Iterator

from emporter_contracts.commands import MAX_VOXELS_PER_AXIS, IngestRequest
from emporter_contracts.geometry import Box, Index3, Shape3
from fetcher.errors import RegionOutsideError


def region_of(request: IngestRequest, shape: Shape3, start: Index3, name: str) -> Box:
    """The voxels asked for, counted from the first; `start` is the archive's own index of that one.

    Raises RegionOutsideError with the shape there is.
    """
    if any(not 1 <= n <= MAX_VOXELS_PER_AXIS for n in shape):
        raise RegionOutsideError(f"{name} claims to have {list(shape)} voxels")
    asked = request.random_region or request.region
    if asked is None:
        return Box.whole(shape)
    if any(b > n for b, n in zip(asked.shape, shape, strict=True)):
        raise _outside(list(asked.shape), shape, start)
    if request.region is None:
        assert request.random_region is not None
        return Box.at(random_origin(shape, asked.shape, request.random_region.seed), asked.shape)
    box = request.region.box()
    z, y, x = (a - b for a, b in zip(box.start, start, strict=True))
    inside = Box.at((z, y, x), box.shape)
    if not inside.within(Box.whole(shape)):
        raise _outside([f"{a}:{b}" for a, b in zip(box.start, box.stop, strict=True)], shape, start)
    return inside


def random_origins(shape: Shape3, box: Shape3, seed: int) -> Iterator[Index3]:
    """Where random boxes of `box` voxels begin in a volume of `shape`, z, y, x: every valid place is as likely.

    One `random.Random(seed).random()` by axis, in the order z, y, x, times the number of places, rounded down. Of Python's
    generator only this method promises the same numbers in every version.
    """
    drawn = random.Random(seed)
    while True:
        z, y, x = (min(int(drawn.random() * (n - b + 1)), n - b) for n, b in zip(shape, box, strict=True))
        yield (z, y, x)


def random_origin(shape: Shape3, box: Shape3, seed: int) -> Index3:
    """The first of `random_origins`."""
    return next(random_origins(shape, box, seed))


def _outside(asked: list[int] | list[str], shape: Shape3, start: Index3) -> RegionOutsideError:
    since = f" from {list(start)} on" if any(start) else ""
    return RegionOutsideError(
        f"region {','.join(map(str, asked))} leaves the volume, which has {list(shape)} voxels (z, y, x){since}",
        hint="choose a region inside it; emporter ingest --plan shows the shape",
    )
