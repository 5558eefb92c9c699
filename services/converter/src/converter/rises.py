"""By how much the step from one slice to the next rises above the steps beside it, and whether slices are lost there.

A step is 1 less the correlation of two slices. Its logarithm is compared with that of the steps just before and just after,
because tissue changes faster here and slower there, but seldom from one slice to the next. How much that comparison varies along
the stack is what a rise is measured by: a stack of uneven slices has to show more than an even one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from statistics import median

AROUND = 10
"""Slices before and after that are usual for one."""
TOLD_APART = 0.15
"""What a step over two slices has to be above a step over one (logarithm), or lost slices do not show at all: in very fine steps,
and where noise is most of what changes."""
OF_A_SLICE = 0.6
"""Share of that by which the step over a gap rises at least."""
OF_THE_NEXT = 0.3
"""The same of steps over two slices that reach over the gap: they rise less, and are noisier."""
SMALLEST = 1e-6
"""A step below is as good as none: single precision ends there."""
FEWEST = 4
"""Rises that a deviation is taken of."""


class Rises:
    """Over the steps of a stack: `steps[k][z]` from z - k - 1 to z, NaN where there is none. `copies` are not looked at."""

    def __init__(self, steps: Sequence[Sequence[float]], copies: Collection[int]) -> None:
        self._n = len(steps[0])
        self._logs = [[_log(math.nan if z in copies else step) for z, step in enumerate(lag)] for lag in steps]
        self._lone = [self._rise(0, z) for z in range(self._n)]
        self._pair = [
            _mean((self._at(0, z), self._at(0, z + 1))) - _mean((self._at(0, z - 1), self._at(0, z + 2))) for z in range(self._n)
        ]
        self._lone_deviation, self._pair_deviation = _deviation(self._lone), _deviation(self._pair)
        self._more = _median(self._at(1, z) - self._at(0, z) for z in range(self._n))

    def lone(self, z: int) -> float:
        """Of the one step to z, in robust deviations; 0 where there is nothing to compare."""
        return self._in_deviations(self._lone, self._lone_deviation, z)

    def pair(self, z: int) -> float:
        """Of the steps to z and from z, as where z alone is odd."""
        return self._in_deviations(self._pair, self._pair_deviation, z)

    def gap(self, z: int) -> float:
        """`lone`, where the steps over z are those of lost slices; otherwise 0."""
        rise, next_rise = self._lone[z], self._rise(1, z)
        if not math.isfinite(rise) or not math.isfinite(next_rise) or not self._more >= TOLD_APART:
            return 0.0
        # Farther slices are less alike over a gap too; where they are not, the slices themselves are odd.
        if min(self._farther(z)) < self._at(0, z):
            return 0.0
        one, two, three = (self._beside(lag, z) for lag in range(3))
        if rise < OF_A_SLICE * max(self._more, _or_zero(two - one)) or next_rise < OF_THE_NEXT * _or_zero(three - two):
            return 0.0
        return self.lone(z)

    def _farther(self, z: int) -> list[float]:
        """The steps over two slices that reach over the front of z."""
        return [v for v in (self._at(1, z), self._at(1, z + 1)) if math.isfinite(v)] or [math.inf]

    def _rise(self, lag: int, z: int) -> float:
        """Of the steps that reach over the front of z above the nearest ones that do not."""
        if lag == 0 and not all(math.isfinite(self._at(0, k)) for k in (z - 1, z + 1)):
            return math.nan
        return _mean(self._at(lag, z + k) for k in range(lag + 1)) - self._beside(lag, z)

    def _beside(self, lag: int, z: int) -> float:
        return _mean((self._at(lag, z - 1), self._at(lag, z + lag + 1)))

    def _at(self, lag: int, z: int) -> float:
        return self._logs[lag][z] if 0 <= z < self._n else math.nan

    def _in_deviations(self, rises: Sequence[float], usual: float, z: int) -> float:
        """By the `usual` deviation of the stack or that of the slices around, whichever is greater."""
        near = [rises[k] for k in range(max(1, z - AROUND), min(self._n, z + AROUND + 1)) if abs(k - z) > 1]
        deviation = max(usual, _deviation(near))
        return _or_zero(rises[z] / deviation) if deviation > 0 else 0.0


def _log(step: float) -> float:
    return math.log(max(step, SMALLEST)) if math.isfinite(step) else math.nan


def _known(values: Iterable[float]) -> list[float]:
    return [v for v in values if math.isfinite(v)]


def _mean(values: Iterable[float]) -> float:
    known = _known(values)
    return sum(known) / len(known) if known else math.nan


def _median(values: Iterable[float]) -> float:
    known = _known(values)
    return median(known) if known else math.nan


def _deviation(values: Iterable[float]) -> float:
    """1.4826 times the median distance from the median; infinite where there are too few."""
    known = _known(values)
    if len(known) < FEWEST:
        return math.inf
    middle = median(known)
    return 1.4826 * median(abs(v - middle) for v in known)


def _or_zero(value: float) -> float:
    return value if math.isfinite(value) else 0.0
