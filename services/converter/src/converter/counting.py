"""How much of a run's conversion is done, kept up with the ledger by reading only what was entered since the last look.

A byte per task is all that is held: a petabyte is half a million tasks a level. Nothing here is the truth: a process that starts,
or finds another ledger than it knew, counts once from the ledger's first entry on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from emporter_contracts import subjects
from emporter_contracts.jobs import Tally, VolumeProgress
from emporter_contracts.plans import ConversionPlan, LevelPlan, VolumePlan
from emporter_runtime.jobstore import tally
from emporter_runtime.ledger import Ledger, Tail

BITS = 8


class LevelCount:
    """Which tasks of one level are done."""

    def __init__(self, plan: LevelPlan, itemsize: int) -> None:
        self._plan = plan
        self._itemsize = itemsize
        self._marks = bytearray(plan.tasks)
        self._done = 0
        self._bytes = 0

    def mark(self, n: int) -> None:
        """Task `n` is done; said again it changes nothing."""
        if n < len(self._marks) and not self._marks[n]:
            self._marks[n] = 1
            self._done += 1
            self._bytes += self._plan.box(n).size * self._itemsize

    def undone(self) -> Iterator[int]:
        """Tasks that are not done, in order."""
        n = self._marks.find(0)
        while n >= 0:
            yield n
            n = self._marks.find(0, n + 1)

    @property
    def complete(self) -> bool:
        return self._done == len(self._marks)

    @property
    def tally(self) -> Tally:
        return tally(self._done, len(self._marks), self._bytes, math.prod(self._plan.shape) * self._itemsize)


class RunCount:
    """All levels of all volumes of one run."""

    def __init__(self, plan: ConversionPlan) -> None:
        self._plan = plan
        self._tail = Tail(subjects.convert_dones(plan.job, plan.revision), self._begin, self._mark)

    def _begin(self) -> None:
        self.levels = {v.volume: [LevelCount(level, _itemsize(v)) for level in v.levels] for v in self._plan.volumes}

    def _mark(self, subject: str) -> None:
        volume, level, n = subject.split(".")[-3:]
        self.levels[volume][int(level)].mark(int(n))

    async def catch_up(self, ledger: Ledger) -> None:
        """Tail.catch_up."""
        await self._tail.catch_up(ledger)

    async def confirmed(self, ledger: Ledger) -> bool:
        """Tail.confirmed."""
        return await self._tail.confirmed(ledger)

    @property
    def complete(self) -> bool:
        return all(level.complete for levels in self.levels.values() for level in levels)

    @property
    def progress(self) -> tuple[VolumeProgress, ...]:
        return tuple(
            VolumeProgress(volume=volume, levels=tuple(level.tally for level in levels)) for volume, levels in self.levels.items()
        )


def _itemsize(volume: VolumePlan) -> int:
    return int("".join(c for c in volume.dtype if c.isdigit())) // BITS
