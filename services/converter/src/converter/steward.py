"""The convert stage's counting and moving on: from a complete manifest to committed volumes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from converter.counting import RunCount
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


class ConvertSteward:
    """Looks at a job: the conversion plan, tasks level by level, the finishes; each step may be repeated by anyone."""

    def __init__(self, bus: Bus, jobs: JobStore, ledger: Ledger, objects: Objects, plans: StoredPlans) -> None:
        self._bus = bus
        self._jobs = jobs
        self._ledger = ledger
        self._objects = objects
        self._plans = plans
        self._counts: dict[tuple[str, int, int], RunCount] = {}

    async def look(self, status: JobStatus) -> None:
        """Do for this job whatever its conversion needs next."""
        if status.state == JobState.SAVING:
            await self._finish(status)
            return
        if status.state != JobState.PROCESSING or await self._plans.manifest(status.job, status.revision) is None:
            return
        plan = await self._plans.conversion(status.job, status.revision)
        if plan is None:
            subject = subjects.convert_plan(status.job)
            if not await outstanding(self._bus, "CONVERT", subject):
                await self._bus.command(subject, PlanConversion.of(status), "CONVERT", "convert.plan")
            return
        await self._convert(status, plan)

    async def _convert(self, status: JobStatus, plan: ConversionPlan) -> None:
        # Queued before done: a task that moves between the two looks is then in one of them at least.
        queued = await outstanding(self._bus, "CONVERT", subjects.convert_tasks(plan.job))
        count = self._count(status, plan)
        await count.catch_up(self._ledger)
        await self._say_levels(status, count.progress)
        status = await self._jobs.progress(status, volumes=count.progress)
        if count.complete and await count.confirmed(self._ledger):
            saving = await self._jobs.move(status, JobState.SAVING)
            await self._finish(saving)
            return
        for volume, levels in count.levels.items():
            level = next((k for k, held in enumerate(levels) if not held.complete), None)
            if level is not None:
                queued |= await self._queue(status, volume, level, levels[level].undone(), queued)

    def _count(self, status: JobStatus, plan: ConversionPlan) -> RunCount:
        """What this process knows of a run; of a run it doesn't know, nothing yet."""
        run = (status.job, *status.run)
        if run not in self._counts:
            while len(self._counts) >= COUNTS_KEPT:
                self._counts.pop(next(iter(self._counts)))
            self._counts[run] = RunCount(plan)
        return self._counts[run]

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


async def say_complete(bus: Bus, run: RunIdentity, volume: str, digest: str) -> None:
    """Say once for ever that a revision of a volume can be read."""
    fact = VolumeComplete.of(run, volume=volume, digest=digest)
    subject = subjects.volume_complete(volume, fact.revision)
    await bus.say_once(subject, fact, "EVENTS", "convert.volume.complete", volume)
