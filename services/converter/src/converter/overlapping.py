"""A conversion that begins while its raw objects are still being fetched.

Units are fetched about in the order of the plan. So what a task of level 0 waits for is said by one number: how many units must
be stored, from the first on and without a gap. These numbers are laid down in the conversion plan, what is stored is read from
the ledger. Nothing here decides what is right: a volume is finished only after the manifest, when every object was stored and
checked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import TypeVar

from converter.sources import Awaited
from emporter_contracts import subjects
from emporter_contracts.errors import EmporterError
from emporter_contracts.plans import SEGMENT_BYTES, ConversionPlan, FetchPlan, PlannedVolume, Unit, VolumePlan
from emporter_readers.protocol import Reader
from emporter_readers.reaching import reach_of
from emporter_runtime.ledger import Ledger, Tail

STEPS = 1024
"""In which tasks become ready, at most: a plan of half a million tasks stays a small document."""
FIRST_LOOK_SECONDS = 0.1
"""Between the first two looks at a run that is being fetched: headers are there soon, and a small volume is then already planned
when the last of it comes.
"""
LOOK_SECONDS = 1.0
"""Between two later ones: what arrives is said to the fetcher's steward, not to ours."""
LONGEST_LOOK_SECONDS = 8.0
"""Where nothing arrives the looks become rarer, up to this: hundreds of jobs may stand in line before one archive."""
T = TypeVar("T")


def once_there(awaited: Awaited, work: Callable[[], T]) -> T | None:
    """What `work` gives, or None where it failed because it wanted bytes that are still on their way."""
    try:
        return work()
    except EmporterError:
        # Whatever a reader made of it: without those bytes its word does not count.
        if not awaited:
            raise
        return None


def with_readiness(conversion: ConversionPlan, plan: FetchPlan, readers: Mapping[str, Reader]) -> ConversionPlan:
    """The plan with the steps in which the tasks of each volume become ready."""
    planned = {volume.volume: volume for volume in plan.volumes}
    volumes = [v.model_copy(update={"ready": steps(plan, planned[v.volume], v, readers[v.volume])}) for v in conversion.volumes]
    return conversion.model_copy(update={"volumes": tuple(volumes)})


def steps(plan: FetchPlan, planned: PlannedVolume, volume: VolumePlan, reader: Reader) -> tuple[tuple[int, int], ...]:
    """(units, tasks) of VolumePlan.ready. A reader that can't tell where its voxels lie needs all objects of its volume."""
    first = first_units(plan)
    objects = {n: plan.objects[n] for n in planned.objects}
    # Two objects of one name: the later one counts, which is never too early.
    place = {objects[n].path: n for n in sorted(objects)}
    everything = max(first[n + 1] for n in objects)
    level = volume.levels[0]
    needed: list[int] = []
    for box in level.boxes():
        reach = reach_of(reader, box)
        if reach is None:
            return ((everything, level.tasks),)
        # Metadata was read when the reader was opened; a box of nothing but holes needs no more than that.
        needed.append(max((first[place[name]] + max(1, -(-stop // SEGMENT_BYTES)) for name, stop in reach), default=1))
    return thinned(list(accumulate(needed, max)))


def thinned(needed: list[int]) -> tuple[tuple[int, int], ...]:
    """Steps from what each task in turn needs, rising; of more than STEPS only some, none of them too early."""
    last = {units: task + 1 for task, units in enumerate(needed)}
    rising = sorted(last.items())
    if len(rising) <= STEPS:
        return tuple(rising)
    every = -(-len(rising) // STEPS)
    kept = rising[every - 1 :: every]
    return tuple(kept if kept[-1] == rising[-1] else [*kept, rising[-1]])


def first_units(plan: FetchPlan) -> list[int]:
    """The place of each object's first unit among all units, and behind the last object their number."""
    return list(accumulate((planned.segments for planned in plan.objects), initial=0))


class Arrivals:
    """Which units of a run's fetch are in the ledger, kept up by reading only what was entered since the last look."""

    def __init__(self, plan: FetchPlan, clock: Callable[[], float] = time.monotonic) -> None:
        self._first = first_units(plan)
        self._clock = clock
        self._began = self._arrived = clock()
        self._tail = Tail(subjects.raw_objects_stored(plan.job, plan.revision), self._begin, self._mark)

    def _begin(self) -> None:
        self._marks = bytearray(self._first[-1])
        self._unbroken = 0

    def _mark(self, subject: str) -> None:
        unit = Unit.of_entry(subject)
        self._marks[self._first[unit.obj] + unit.segment] = 1
        self._arrived = self._clock()

    async def catch_up(self, ledger: Ledger) -> None:
        """Tail.catch_up."""
        await self._tail.catch_up(ledger)

    @property
    def look_again(self) -> float:
        """Seconds until the next look is worth it: half as long as the run is looked at, or as nothing came."""
        now = self._clock()
        usual = min(max(FIRST_LOOK_SECONDS, (now - self._began) / 2), LOOK_SECONDS)
        return min(max(usual, (now - self._arrived) / 2), LONGEST_LOOK_SECONDS)

    @property
    def unbroken(self) -> int:
        """How many units are stored from the first on, without a gap."""
        gap = self._marks.find(0, self._unbroken)
        self._unbroken = len(self._marks) if gap < 0 else gap
        return self._unbroken


def ready_tasks(volume: VolumePlan, units: float) -> int:
    """How many tasks of level 0, from the first on, can run once the first `units` units are stored."""
    return max((tasks for needed, tasks in volume.ready if needed <= units), default=0)
