"""The operator's rules, asked before anything is fetched: when a request arrives, and again when its plan is made."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from emporter_contracts import ids
from emporter_contracts.commands import IngestRequest
from emporter_contracts.plans import FetchPlan
from emporter_runtime.bus import Bus
from emporter_runtime.jobstore import now
from emporter_runtime.policy.facts import Asker, embargo_of, of_plan, of_request
from emporter_runtime.policy.judging import Judgement, Policy, tell
from emporter_runtime.policy.saying import say


class RequestRules:
    """The rules of point `request`; what they decide is logged, and told to the catalog."""

    def __init__(self, policy: Policy, bus: Bus, clock: Callable[[], datetime] = now) -> None:
        self._policy = policy
        self._bus = bus
        self._clock = clock

    async def at_arrival(self, request: IngestRequest, purpose: str) -> None:
        """Before there is a job. Raises PolicyDeniedError, RefusedError for a purpose or an embargo that is none."""
        asker, judgement = self._arrived(request, purpose)
        job = ids.job_id(request)
        tell("request", judgement, job=job, purpose=asker.purpose)
        await say(self._bus, self._policy, judgement, "request", asker, job)
        judgement.require(f"{request.source} {request.source_id}")

    async def at_plan(self, plan: FetchPlan, request: IngestRequest, purpose: str) -> None:
        """Once headers say what it is, and the archive under which licence. Raises PolicyDeniedError."""
        asker, judgement = self._planned(plan, request, purpose)
        tell("request", judgement, job=plan.job, revision=plan.revision, purpose=asker.purpose)
        await say(self._bus, self._policy, judgement, "request", asker, plan.job, plan.revision)
        judgement.require(plan.job)

    def check(self, plan: FetchPlan, request: IngestRequest, purpose: str) -> None:
        """What both would say, of a dry run: nothing is told. Raises PolicyDeniedError, RefusedError."""
        for _, judgement in (self._arrived(request, purpose), self._planned(plan, request, purpose)):
            judgement.require(f"{request.source} {request.source_id}")

    def _arrived(self, request: IngestRequest, purpose: str) -> tuple[Asker, Judgement]:
        asker = Asker.of(request, purpose)
        return asker, self._policy.at_arrival(of_request(asker, embargo_of(request), self._clock()))

    def _planned(self, plan: FetchPlan, request: IngestRequest, purpose: str) -> tuple[Asker, Judgement]:
        asker, until, at = Asker.of(request, purpose), embargo_of(request), self._clock()
        return asker, self._policy.at_plan([of_plan(plan, volume, asker, until, at) for volume in plan.volumes])
