"""From a request to a stored plan: ask the archive, or take the plan of the revision before; then see whether there is room."""

from __future__ import annotations

from collections.abc import Callable

from emporter_contracts import storage
from emporter_contracts.commands import IngestRequest, PlanFetch
from emporter_contracts.plans import PLAN_VERSION, FetchPlan, PlannedObject, Segments
from emporter_contracts.previews import PlanSummary
from emporter_runtime.jobstore import JobStore, now
from emporter_runtime.objects import Objects
from emporter_runtime.plans import StoredPlans, required
from fetcher.planning import check_space, make_plan
from fetcher.policy import RequestRules
from fetcher.settings import FetcherSettings
from fetcher.sources.protocol import Source


class Resolver:
    """Resolves requests into plans. `reserved` tells how many bytes running jobs still will store, but for the job named."""

    def __init__(
        self,
        settings: FetcherSettings,
        objects: Objects,
        jobs: JobStore,
        plans: StoredPlans,
        sources: dict[str, Source],
        reserved: Callable[[str], int],
        rules: RequestRules,
    ) -> None:
        self._settings = settings
        self._objects = objects
        self._jobs = jobs
        self._plans = plans
        self._sources = sources
        self._reserved = reserved
        self._rules = rules

    async def plan(self, command: PlanFetch) -> FetchPlan:
        """The plan of a claimed revision.

        Raises PolicyDeniedError, InsufficientStorageError, and whatever the source or the readers raise.
        """
        claim = required(await self._plans.request(command.job, command.revision), "the request")
        request = claim.request
        plan = await self._reused(command, request) or await self.resolve(request, command.job, command.revision)
        if request.force == "fetch":
            plan = _fetched_anew(plan)
        await self._rules.at_plan(plan, request, claim.purpose)
        check_space(plan, await self.free(), self._reserved(command.job))
        return plan

    async def resolve(self, request: IngestRequest, job: str, revision: int) -> FetchPlan:
        """Ask the archive, reading headers only."""
        return await make_plan(request, job, revision, self._sources[request.source])

    async def summary(self, request: IngestRequest, job: str, purpose: str = "") -> PlanSummary:
        """What an ingest would do, without doing it. Raises as `plan` does, but for want of room."""
        plan = await self.resolve(request, job, 1)
        self._rules.check(plan, request, purpose)
        free = await self.free()
        status = await self._jobs.read(job)
        need = plan.stored_bytes_estimate + self._reserved(job)
        return PlanSummary(
            job=job,
            source=plan.source,
            objects=len(plan.objects),
            raw_bytes=plan.raw_bytes,
            copied_bytes=plan.copied_bytes,
            voxel_bytes=plan.voxel_bytes,
            stored_bytes_estimate=plan.stored_bytes_estimate,
            free_bytes=free,
            fits=free is None or need <= free,
            volumes=tuple(v.model_copy(update={"said": {}}) for v in plan.volumes),
            description=plan.description,
            licence=plan.licence,
            citation=plan.citation,
            caveats=plan.caveats,
            existing=status.state if status else None,
        )

    async def free(self) -> int | None:
        """Bytes the store can still take: its disk's, or its quota less what is stored; None where nobody knows."""
        quota = self._settings.store_quota_bytes
        if quota is None:
            return self._objects.free_bytes()
        stored = 0
        for bucket in storage.BUCKETS:
            async for info in self._objects.listing(bucket):
                stored += info.size
        return max(0, quota - stored)

    async def _reused(self, command: PlanFetch, request: IngestRequest) -> FetchPlan | None:
        """`force: convert`: the raw objects of the revision before, without a word to the archive."""
        if request.force != "convert" or command.revision == 1:
            return None
        before = await self._plans.plan(command.job, command.revision - 1)
        if before is None or before.plan_version != PLAN_VERSION:
            return None
        return before.model_copy(update={"revision": command.revision, "planned_at": now()})


def _fetched_anew(plan: FetchPlan) -> FetchPlan:
    """`force: fetch`: the same objects under names of their own, so that nothing stored before is taken for them."""

    def renamed(planned: PlannedObject) -> PlannedObject:
        if not isinstance(planned.location, Segments):
            return planned
        origin = storage.origin(planned.url, f"{planned.version}#{plan.job}.r{plan.revision}")
        return planned.model_copy(update={"location": Segments(origin=origin)})

    return plan.model_copy(update={"objects": tuple(renamed(o) for o in plan.objects)})
