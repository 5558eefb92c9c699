"""The fetch stage's counting and moving on: from an accepted request to a complete manifest."""

from __future__ import annotations

from emporter_contracts import storage, subjects
from emporter_contracts.commands import FetchBatch, FinishFetch, JobCommand, PlanFetch
from emporter_contracts.events import RawPlanReady
from emporter_contracts.jobs import JobState, JobStatus, VolumeProgress
from emporter_contracts.plans import FetchPlan
from emporter_runtime.bus import Bus, event_id
from emporter_runtime.jobstore import JobStore, tally
from emporter_runtime.ledger import Ledger, outstanding
from emporter_runtime.objects import Objects
from emporter_runtime.plans import StoredPlans
from emporter_runtime.stewarding import next_commands
from fetcher.counting import RunCount

COUNTS_KEPT = 64
"""Runs whose counts a process keeps, oldest out first: what is dropped is counted again."""


class FetchSteward:
    """Looks at a job: plans, batches, the manifest; each step may be repeated by anyone."""

    def __init__(self, bus: Bus, jobs: JobStore, ledger: Ledger, objects: Objects, plans: StoredPlans) -> None:
        self._bus = bus
        self._jobs = jobs
        self._ledger = ledger
        self._objects = objects
        self._plans = plans
        self._counts: dict[tuple[str, int, int], RunCount] = {}

    async def look(self, status: JobStatus) -> None:
        """Do for this job whatever its fetch needs next."""
        if status.state not in (JobState.PENDING, JobState.PROCESSING):
            return
        plan = await self._plans.plan(status.job, status.revision)
        if plan is None:
            await self._order(status, subjects.fetch_plan(status.job), PlanFetch, "fetch.plan")
            return
        if status.state == JobState.PENDING:
            status = await self._ready(status, plan)
        if await self._objects.exists(storage.RAW, storage.manifest(status.job, status.revision)):
            await self._all_fetched(status, plan)
            return
        await self._fetch(status, plan)

    async def _ready(self, status: JobStatus, plan: FetchPlan) -> JobStatus:
        ready = RawPlanReady.of(
            status, objects=len(plan.objects), bytes=plan.raw_bytes, volumes=tuple(v.volume for v in plan.volumes)
        )
        await self._bus.publish(subjects.raw_plan_ready(status.job), ready, event_id(ready, "raw.plan.ready"), "EVENTS")
        caveats = sorted({c.code for c in plan.caveats} | {c.code for v in plan.volumes for c in v.caveats})
        return await self._jobs.move(
            status,
            JobState.PROCESSING,
            fetch=tally(0, sum(o.segments for o in plan.objects), 0, plan.raw_bytes),
            volumes=tuple(VolumeProgress(volume=v.volume) for v in plan.volumes),
            planned_bytes=plan.stored_bytes_estimate,
            caveats=tuple(caveats),
        )

    async def _fetch(self, status: JobStatus, plan: FetchPlan) -> None:
        # Queued before done: a unit that moves between the two looks is then in one of them at least.
        queued = await outstanding(self._bus, "FETCH", subjects.fetch_batches(plan.source, plan.job))
        count = self._count(status, plan)
        await count.catch_up(self._ledger)
        await self._jobs.progress(status, fetch=count.tally)
        if count.complete and await count.confirmed(self._ledger):
            await self._order(status, subjects.fetch_finish(status.job), FinishFetch, "fetch.finish")
            return
        numbers = {subjects.fetch_batch(plan.source, plan.job, n): n for n in count.incomplete()}
        for subject in next_commands(numbers, set(), queued):
            command = FetchBatch.of(status, source=plan.source, n=numbers[subject])
            await self._bus.command(subject, command, "FETCH", "fetch.batch", numbers[subject])

    def _count(self, status: JobStatus, plan: FetchPlan) -> RunCount:
        """What this process knows of a run; of a run it doesn't know, nothing yet."""
        run = (status.job, *status.run)
        if run not in self._counts:
            while len(self._counts) >= COUNTS_KEPT:
                self._counts.pop(next(iter(self._counts)))
            self._counts[run] = RunCount(plan)
        return self._counts[run]

    async def _all_fetched(self, status: JobStatus, plan: FetchPlan) -> None:
        units = sum(o.segments for o in plan.objects)
        whole = tally(units, units, plan.raw_bytes, plan.raw_bytes)
        if status.fetch != whole:
            await self._jobs.progress(status, fetch=whole)

    async def _order(self, status: JobStatus, subject: str, command: type[JobCommand], kind: str) -> None:
        """Queue a command unless it is queued."""
        if not await outstanding(self._bus, "FETCH", subject):
            await self._bus.command(subject, command.of(status), "FETCH", kind)
