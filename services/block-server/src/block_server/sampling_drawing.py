"""From open places to boxes: draws in order, takes those with enough foreground, reads voxels only where counts don't tell."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import islice

import numpy as np

from block_server.sampling import Ground, Int64s, below
from block_server.sampling_errors import UnsatisfiableSampleError
from block_server.sampling_foreground import Foreground, Uncounted
from emporter_contracts.geometry import Index3
from emporter_contracts.training import SampleRequest

BATCH = 512
"""Places judged together by the counts; which boxes come out does not depend on it."""
MOST_TRIED = 2**15
"""Places judged by the counts before it is said that there are too few: some seconds at most."""
CHECKED_AT_ONCE = 8
"""Boxes whose voxels are counted at the same time."""

Count = Callable[[Index3], Awaitable[int]]
"""How many voxels of foreground the box at a place holds, counted."""


def most_checked(n: int, voxels: int) -> int:
    """Boxes of `voxels` that are read and counted for a sample of `n` before it is said that there are too few: some seconds."""
    return max(n + 16, min(2**14, 2**31 // voxels))


@dataclass(frozen=True, slots=True)
class Drawn:
    """`origins` (n, 3) in the order they were drawn; `possible` places were open, `tried` of them looked at."""

    origins: Int64s
    possible: int
    tried: int


async def drawn(request: SampleRequest, ground: Ground | None, foreground: Foreground | Uncounted | None, count: Count) -> Drawn:
    """The first `n` places drawn that do. Raises UnsatisfiableSampleError, and what `count` raises."""
    total = 0 if ground is None else ground.total
    if ground is None or total < request.n:
        raise _too_few(request, total, f"only {total} such boxes" if total else "no such box")
    places = islice(below(total, request.seed), MOST_TRIED)
    if foreground is None:
        return Drawn(ground.places(list(islice(places, request.n))), total, request.n)
    drawing = _Drawing(request.n, foreground, count)
    while batch := list(islice(places, BATCH)):
        await drawing.look_at(ground.places(batch))
        if len(drawing.taken) == request.n:
            return Drawn(np.array(drawing.taken, np.int64), total, drawing.tried)
        if drawing.over:
            break
    remedy = f"; or {foreground.remedy}" if isinstance(foreground, Uncounted) else ""
    raise _too_few(request, total, f"only {len(drawing.taken)} found among {drawing.tried} of {total} places", remedy)


class _Drawing:
    """Takes places in the order they come until `n` are taken or most_checked were counted."""

    def __init__(self, n: int, foreground: Foreground | Uncounted, count: Count) -> None:
        self._n = n
        self._most = most_checked(n, math.prod(foreground.shape))
        self._foreground = foreground
        self._count = count
        self.taken: list[Index3] = []
        self.tried = 0
        self.checked = 0

    @property
    def over(self) -> bool:
        return len(self.taken) == self._n or self.checked == self._most

    async def look_at(self, origins: Int64s) -> None:
        """The next places, (N, 3)."""
        low, high = await asyncio.to_thread(self._foreground.bounds, origins)
        wanted, before = self._foreground.wanted, self.tried
        hopeful = np.flatnonzero(high >= wanted).tolist()
        for first in range(0, len(hopeful), CHECKED_AT_ONCE):
            some = {at: _index(origins[at]) for at in hopeful[first : first + CHECKED_AT_ONCE]}
            doubtful = [at for at in some if low[at] < wanted]
            counts = dict(zip(doubtful, await asyncio.gather(*(self._count(some[at]) for at in doubtful)), strict=True))
            for at, place in some.items():
                self.tried = before + at + 1
                self.checked += at in counts
                if counts.get(at, wanted) >= wanted:
                    self.taken.append(place)
                if self.over:
                    return
        self.tried = before + len(origins)


def _index(place: Int64s) -> Index3:
    z, y, x = place.tolist()
    return (z, y, x)


def _too_few(request: SampleRequest, total: int, found: str, remedy: str = "") -> UnsatisfiableSampleError:
    shape = ",".join(map(str, request.shape))
    share = f" with at least {request.min_foreground:g} foreground" if request.min_foreground else ""
    part = f" in the {request.split.part} part" if request.split is not None else ""
    smaller = "a smaller shape, fewer boxes, or less left out"
    advice = f"a lower min_foreground, {smaller}" if request.min_foreground and total else smaller
    return UnsatisfiableSampleError(f"{request.n} boxes of {shape}{share}{part}: {found}", hint=f"ask for {advice}{remedy}")
