"""The convert stage's counting and moving on: from a stored fetch plan to committed volumes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import takewhile
from operator import gt
from typing import TypeVar

from converter.counting import RunCount
from converter.overlapping import Arrivals, ready_tasks
from emporter_contracts import subjects
from emporter_contracts.commands import ConvertTask, FinishVolume, PlanConversion, RunIdentity
from emporter_contracts.events import LevelComplete, VolumeComplete
from emporter_contracts.jobs import JobState, JobStatus, VolumeProgress
from emporter_contracts.plans import ConversionPlan
from emporter_runtime.bus import Bus
from emporter_runtime.commits import read_commit
from emporter_runtime.jobstore import JobStore
from emporter_runtime.ledger import Ledger, outstanding
from emporter_runtime.objects import Objects
from emporter_runtime.plans import StoredPlans
from emporter_runtime.stewarding import MAX_OUTSTANDING, next_commands

COUNTS_KEPT = 64
"""Runs whose counts a process keeps, oldest out first: what is dropped is counted again."""
PATIENCE_TO_PLAN = 1.25
"""By how much more must be stored before a plan is tried again that wanted what was not there: few tries, none far too late."""
ALL = math.inf
"""Units stored where the manifest is written: more than any plan asks for."""
Run = tuple[str, int, int]
"""Job, revision and generation."""
T = TypeVar("T")


class ConvertSteward:
    """Looks at a job: the conversion plan, tasks level by level, the finishes; each step may be repeated by anyone."""

    def __init__(self, bus: Bus, jobs: JobStore, ledger: Ledger, objects: Objects, plans: StoredPlans) -> None:
        self._bus = bus
        self._jobs = jobs
        self._ledger = ledger
        self._objects = objects
        self._plans = plans
        self._counts: dict[Run, RunCount] = {}
        self._arrivals: dict[Run, Arrivals] = {}
        self._try_again_at: dict[Run, float] = {}

    async def look(self, status: JobStatus) -> float | None:
        """Do for this job whatever its conversion needs next; when to look again, though nothing is said until then."""
        if status.state == JobState.SAVING:
            await self._finish(status)
        if status.state != JobState.PROCESSING:
            return None
        stored = await self._stored(status)
        plan = await self._plans.conversion(status.job, status.revision)
        if plan is None:
            await self._plan(status, stored)
        elif stored > 0:
            await self._convert(status, plan, stored)
        arrivals = self._arrivals.get((status.job, *status.run))
        return arrivals.look_again if arrivals is not None else None

    async def _stored(self, status: JobStatus) -> float:
        """Units of the fetch that are stored, from the first on and without a gap; ALL once the manifest says so."""
        run = (status.job, *status.run)
        if await self._plans.manifest(status.job, status.revision) is not None:
            self._arrivals.pop(run, None)
            self._try_again_at.pop(run, None)
            return ALL
        plan = await self._plans.plan(status.job, status.revision)
        if plan is None:
            return 0
        arrivals = kept(self._arrivals, run, lambda: Arrivals(plan))
        await arrivals.catch_up(self._ledger)
        return arrivals.unbroken

    async def _plan(self, status: JobStatus, stored: float) -> None:
        """Have the conversion planned, as soon as headers and sample may be there."""
        run, subject = (status.job, *status.run), subjects.convert_plan(status.job)
        if stored < self._try_again_at.get(run, 1) or await outstanding(self._bus, "CONVERT", subject):
            return
        if stored != ALL:
            kept(self._try_again_at, run, lambda: 0.0)
            self._try_again_at[run] = max(stored + 1, stored * PATIENCE_TO_PLAN)
        await self._bus.command(subject, PlanConversion.of(status), "CONVERT", "convert.plan")

    async def _convert(self, status: JobStatus, plan: ConversionPlan, stored: float) -> None:
        # Queued before done: a task that moves between the two looks is then in one of them at least.
        queued = await outstanding(self._bus, "CONVERT", subjects.convert_tasks(plan.job))
        count = kept(self._counts, (status.job, *status.run), lambda: RunCount(plan))
        await count.catch_up(self._ledger)
        await self._say_levels(status, count.progress)
        status = await self._jobs.progress(status, volumes=count.progress)
        if stored == ALL and count.complete and await count.confirmed(self._ledger):
            saving = await self._jobs.move(status, JobState.SAVING)
            await self._finish(saving)
            return
        for volume, levels in count.levels.items():
            level = next((k for k, held in enumerate(levels) if not held.complete), None)
            if level is not None:
                undone = levels[level].undone()
                if level == 0 and stored != ALL:
                    undone = takewhile(partial(gt, ready_tasks(plan.volume(volume), stored)), undone)
                queued |= await self._queue(status, volume, level, undone, queued)

    async def _queue(self, status: JobStatus, volume: str, level: int, undone: Iterator[int], queued: set[str]) -> set[str]:
        """Queue tasks of one level as far as there is room; their subjects."""
        tasks = (subjects.convert_task(status.job, volume, level, n) for n in undone)
        chosen = next_commands(tasks, set(), queued, MAX_OUTSTANDING)
        await asyncio.gather(*(self._order_task(status, subject, volume, level) for subject in chosen))
        return set(chosen)

    async def _order_task(self, status: JobStatus, subject: str, volume: str, level: int) -> None:
        n = int(subject.rsplit(".", 1)[1])
        command = ConvertTask.of(status, volume=volume, level=level, n=n)
        await self._bus.command(subject, command, "CONVERT", "convert.task", volume, level, n)

    async def _say_levels(self, status: JobStatus, progress: tuple[VolumeProgress, ...]) -> None:
        """Say which levels are complete now and were not before."""
        before = {v.volume: v.levels for v in status.volumes}
        for volume in progress:
            said = before.get(volume.volume, ())
            for level, held in enumerate(volume.levels):
                if held.done < held.total or (level < len(said) and said[level].done == said[level].total > 0):
                    continue
                fact = LevelComplete.of(status, volume=volume.volume, level=level)
                subject = subjects.level_complete(volume.volume, status.revision, level)
                await self._bus.say_once(subject, fact, "EVENTS", "convert.level.complete", volume.volume, level)

    async def _finish(self, status: JobStatus) -> None:
        if status.state != JobState.SAVING:
            return
        volumes = []
        for volume in status.volumes:
            commit = await read_commit(self._objects, volume.volume, status.revision)
            if commit is None:
                await self._order_finish(status, volume.volume)
            else:
                await say_complete(self._bus, status, volume.volume, commit.digest)
            volumes.append(volume.model_copy(update={"committed": commit is not None}))
        status = await self._jobs.progress(status, volumes=tuple(volumes))
        if all(volume.committed for volume in volumes):
            await self._jobs.move(status, JobState.COMPLETE)

    async def _order_finish(self, status: JobStatus, volume: str) -> None:
        subject = subjects.convert_finish(status.job, volume)
        if not await outstanding(self._bus, "CONVERT", subject):
            command = FinishVolume.of(status, volume=volume)
            await self._bus.command(subject, command, "CONVERT", "convert.finish", volume)


def kept(known: dict[Run, T], run: Run, begin: Callable[[], T]) -> T:
    """What this process knows of a run; of a run it doesn't know, what it begins with."""
    if run not in known:
        while len(known) >= COUNTS_KEPT:
            known.pop(next(iter(known)))
        known[run] = begin()
    return known[run]


async def say_complete(bus: Bus, run: RunIdentity, volume: str, digest: str) -> None:
    """Say once for ever that a revision of a volume can be read."""
    fact = VolumeComplete.of(run, volume=volume, digest=digest)
    subject = subjects.volume_complete(volume, fact.revision)
    await bus.say_once(subject, fact, "EVENTS", "convert.volume.complete", volume)
