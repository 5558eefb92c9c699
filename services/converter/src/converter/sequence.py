"""What is wrong with the order of slices: lost, repeated, exchanged and displaced ones, by their index z.

All from correlations of each slice with the three before it. Where neighbours have little in common nothing is judged.
A finding must stand out of the slices around it; tissue changes faster here and slower there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median

from converter.quality_policy import QualityPolicy
from converter.rises import AROUND, Rises
from converter.slices import SliceFacts

STANDS_OUT = 1.4
"""Times the largest step around it that an unusual step has to be."""
DEVIATIONS = 8.0
"""Robust deviations (1.4826 MAD) that it has to be above the usual step, and that the rise of a gap has to be: of 22 real stacks
and views of them without a gap none showed 6."""
DOUBTFUL = 5.0
"""From which on a gap is suspected."""
DISPLACED = 3.0
"""From which on a rise that goes once a shift is undone is one: two things then speak for it."""
EXCHANGED = 0.85
"""Share of the step to a neighbour that the step to the slice past it is at most where the two are exchanged."""
UNDONE = 0.6
"""Share of a step that may be left once a shift is undone: more, and it is no shift."""
LEAST_SHIFT = 2.0
"""Voxels: less is the drift of a good alignment."""


@dataclass(slots=True)
class SequenceFindings:
    """Slices by what is wrong with them. `missing` and `doubtful` name the slice after the gap; `swapped` both of a pair."""

    judged: bool = False
    why_not: str = ""
    missing: list[int] = field(default_factory=list)
    doubtful: list[int] = field(default_factory=list)
    duplicated: list[int] = field(default_factory=list)
    swapped: list[int] = field(default_factory=list)
    shifted: list[int] = field(default_factory=list)
    jump: list[int] = field(default_factory=list)
    shifts: dict[int, tuple[float, float]] = field(default_factory=dict)


def look_at_order(facts: SliceFacts, policy: QualityPolicy) -> SequenceFindings:
    """Every finding, each slice under one heading at most."""
    found = SequenceFindings()
    n = len(facts.mean)
    found.duplicated = [z for z in range(1, n) if facts.crc32c[z] == facts.crc32c[z - 1] and not facts.constant[z]]
    one = [v for v in facts.likeness[0] if v is not None]
    if n < policy.fewest_slices or len(one) < n // 2:
        found.why_not = f"fewer than {policy.fewest_slices} slices that show something"
        return found
    if median(one) < policy.least_likeness:
        found.why_not = f"neighbouring slices are unlike each other (median correlation {median(one):.2f})"
        return found
    found.judged = True
    _Order(facts, found).look()
    return found


class _Order:
    """Steps between slices: 0 the same, 1 nothing in common."""

    def __init__(self, facts: SliceFacts, found: SequenceFindings) -> None:
        self._facts = facts
        self._found = found
        self._n = len(facts.mean)
        self._steps = [[math.nan if v is None else 1.0 - v for v in lag] for lag in facts.likeness]
        self._rises = Rises(self._steps, found.duplicated)
        self._told: set[int] = set()

    def look(self) -> None:
        self._swaps()
        odd = {z for z in range(1, self._n) if z not in self._told and self._stands_out(z)}
        for z in range(1, self._n):
            if z in self._told:
                continue
            if z in odd and z + 1 in odd:
                self._odd_one(z)
            elif self._is_shift(z) and self._rises.lone(z) >= DISPLACED and (z in odd or self._rises.gap(z) >= DOUBTFUL):
                self._tell(self._found.shifted, z)
            elif self._rises.gap(z) >= DOUBTFUL:
                self._tell(self._found.missing if self._rises.gap(z) >= DEVIATIONS else self._found.doubtful, z)

    def _odd_one(self, z: int) -> None:
        """The steps to z and from z are both unusual."""
        if not self._returns(z):
            self._tell(self._found.jump, z)
            return
        shifted = self._is_shift(z) and self._rises.pair(z) >= DISPLACED
        self._tell(self._found.shifted if shifted else self._found.jump, z)
        self._told.add(z + 1)

    def _tell(self, findings: list[int], z: int) -> None:
        findings.append(z)
        self._told.add(z)
        if findings is self._found.shifted:
            self._found.shifts[z] = self._facts.shift[z]

    def _swaps(self) -> None:
        """Z and z + 1 are exchanged where both neighbours of the pair are more like the one farther away."""
        one, two = self._steps[0], self._steps[1]
        for z in range(1, self._n - 2):
            if two[z + 1] < EXCHANGED * one[z] and two[z + 2] < EXCHANGED * one[z + 2]:
                self._found.swapped += [z, z + 1]
                self._told |= {z, z + 1, z + 2}

    def _returns(self, z: int) -> bool:
        """Whether the slices before and after z go on as if z were not there."""
        return self._steps[1][z + 1] < 0.85 * min(self._steps[0][z], self._steps[0][z + 1])

    def _is_shift(self, z: int) -> bool:
        aligned = self._facts.aligned[z]
        dy, dx = self._facts.shift[z]
        around = [math.hypot(*self._facts.shift[k]) for k in self._neighbours(z)]
        far = math.hypot(dy, dx) >= max(LEAST_SHIFT, 3 * median(around) if around else 0)
        return far and aligned is not None and 1.0 - aligned < UNDONE * self._steps[0][z]

    def _stands_out(self, z: int) -> bool:
        step = self._steps[0][z]
        around = self._around(z)
        if not math.isfinite(step) or len(around) < 4:
            return False
        usual, deviation = self._usual(z)
        return step > usual + DEVIATIONS * deviation and step > STANDS_OUT * sorted(around)[-2 if len(around) > 8 else -1]

    def _usual(self, z: int) -> tuple[float, float]:
        around = self._around(z)
        middle = median(around)
        return middle, 1.4826 * median(abs(v - middle) for v in around)

    def _around(self, z: int) -> list[float]:
        return [v for k in self._neighbours(z) if math.isfinite(v := self._steps[0][k])]

    def _neighbours(self, z: int) -> Iterator[int]:
        """Slices whose steps do not reach over z."""
        for k in range(max(1, z - AROUND), min(self._n, z + AROUND + 1)):
            if not z - 1 <= k <= z + 2:
                yield k
