"""Taking a request: which job it is, whether it runs already, which revision it claims (PROTOCOL sections 1 and 4).

A revision is claimed in the store before the message is acknowledged, and the claim keeps the message's id: whatever is
interrupted here is finished by the redelivery, and never begun a second time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from emporter_contracts import ids, storage, subjects
from emporter_contracts.commands import MAX_REQUEST_BYTES, Accepted, IngestRequest, PlanFetch
from emporter_contracts.errors import RefusedError
from emporter_contracts.jobs import JobState, JobStatus
from emporter_contracts.plans import FetchPlan, StoredRequest
from emporter_contracts.policy import PURPOSE_HEADER
from emporter_runtime.bus import Bus, Delivery
from emporter_runtime.jobstore import JobStore, now
from emporter_runtime.logging import get_logger
from emporter_runtime.objects import Objects
from emporter_runtime.policy.judging import Policy
from emporter_runtime.runs import last_generation
from emporter_runtime.sharing import corrected_since
from fetcher.policy import RequestRules

Planner = Callable[[IngestRequest, str, int], Awaitable[FetchPlan]]

log = get_logger(__name__)


class Intake:
    """Takes requests and controls; starts runs."""

    def __init__(
        self, bus: Bus, jobs: JobStore, objects: Objects, sources: set[str], planner: Planner, rules: RequestRules | None = None
    ) -> None:
        self._bus = bus
        self._jobs = jobs
        self._objects = objects
        self._sources = sources
        self._planner = planner
        self._rules = rules or RequestRules(Policy(), bus)

    async def take(self, request: IngestRequest, delivery: Delivery) -> Accepted:
        """Start the run a request asks for, or tell of the one there is. Raises RefusedError, PolicyDeniedError."""
        self.check(request, len(delivery.body))
        job = ids.job_id(request)
        claims = await self.claims(job)
        for revision, claim in claims.items():
            if claim.event_id == delivery.event_id:
                return await self._start(job, request, revision)
        await self._rules.at_arrival(request, delivery.headers.get(PURPOSE_HEADER, ""))
        # Revisions that only change metadata were never run, but their numbers are taken.
        runs = [revision for revision, claim in claims.items() if claim.revising is None]
        free = max(claims, default=0) + 1
        if not runs:
            return await self._claim(job, request, free, delivery)
        latest = max(runs)
        if ids.canonical(claims[latest].request) != ids.canonical(request):
            raise RefusedError(
                f"job {job} exists for another request", code="id_conflict", hint="this is a collision of hashes: change --name"
            )
        return await self._again(job, request, (latest, free), delivery)

    def check(self, request: IngestRequest, size: int) -> None:
        """Raises RefusedError for what no source could carry out."""
        if size > MAX_REQUEST_BYTES:
            raise RefusedError(
                f"the request has {size} bytes, more than {MAX_REQUEST_BYTES}", code="too_large", hint="put lists into files"
            )
        if request.source not in self._sources:
            known = ", ".join(sorted(self._sources))
            raise RefusedError(f"there is no source {request.source!r}", code="unknown_source", hint=f"one of: {known}")

    async def claims(self, job: str) -> dict[int, StoredRequest]:
        """The requests that claimed revisions of a job."""
        found: dict[int, StoredRequest] = {}
        for folder in await self._objects.folders(storage.RAW, storage.job_prefix(job)):
            revision = storage.run_revision(folder)
            body = await self._objects.find(storage.RAW, storage.request(job, revision)) if revision else None
            if revision is not None and body is not None:
                found[revision] = StoredRequest.model_validate_json(body)
        return found

    async def retry(self, job: str) -> Accepted:
        """Start an ended run again, where it stopped. Raises RefusedError."""
        status = await self._known(job)
        if status.state.running or status.state == JobState.COMPLETE:
            raise RefusedError(
                f"job {job} is {status.state}", code="not_retryable", hint="only failed or cancelled jobs are retried"
            )
        if await self._objects.exists(storage.RAW, storage.expired(job, status.revision)):
            hint = "what it had done was cleaned up; ingest it again with --force fetch"
            raise RefusedError(f"job {job} ended too long ago", code="expired", hint=hint)
        await self._require_newest(job, status.revision)
        claim = (await self.claims(job))[status.revision]
        started = await self._jobs.begin(job, claim.request, status.revision, status.generation + 1)
        try:
            # Whoever corrects looks for a run after the correction is claimed, so of two at once one sees the other.
            await self._require_newest(job, status.revision)
        except RefusedError:
            await self._jobs.cancel(job)
            raise
        await self._order_plan(started)
        return _accepted(started, existing=False)

    async def _require_newest(self, job: str, revision: int) -> None:
        """Raises RefusedError where a correction has a higher number: what a run of this one makes would never be current."""
        correction = await corrected_since(self._objects, job, revision)
        if correction is not None:
            raise RefusedError(
                f"{correction} corrected what was there before r{revision} was done: voxels of r{revision} would stay below it",
                code="superseded",
                hint="ingest it again with --force convert: what is fetched is not fetched again; then set again what was set",
            )

    async def cancel(self, job: str) -> Accepted:
        """End a run; queued commands are taken back as far as possible. Raises RefusedError."""
        status = await self._known(job)
        after = await self._jobs.cancel(job) if status.state.running else status
        assert after is not None
        if after.state != JobState.CANCELLED or not status.state.running:
            hint = "its volumes are being committed" if after.state == JobState.SAVING else "there is nothing left to cancel"
            raise RefusedError(f"job {job} is {after.state}", code="not_cancellable", hint=hint)
        for stream, wildcard in (
            ("FETCH", subjects.fetch_plan(job)),
            ("FETCH", subjects.fetch_batches(status.source, job)),
            ("FETCH", subjects.fetch_finish(job)),
            ("CONVERT", subjects.convert_plan(job)),
            ("CONVERT", subjects.convert_tasks(job)),
        ):
            try:
                await self._bus.js.purge_stream(stream, subject=wildcard)
            except Exception as error:  # noqa: BLE001  # best effort: a late command stops itself
                log.info("purge_left_out", subject=wildcard, error=repr(error))
        return _accepted(after, existing=False)

    async def pause(self, job: str) -> Accepted:
        """Let a run rest. Raises RefusedError where it is over, or is being committed."""
        await self._known(job)
        after = await self._jobs.pause(job)
        if after.waiting is None or after.waiting.reason != "paused":
            raise RefusedError(
                f"job {job} is {after.state}", code="not_pausable", hint="only a job that fetches or converts rests"
            )
        return _accepted(after, existing=False)

    async def resume(self, job: str) -> Accepted:
        """Let a paused run go on. Raises RefusedError where it is not paused."""
        status = await self._known(job)
        if status.waiting is None or status.waiting.reason != "paused":
            raise RefusedError(f"job {job} is not paused", code="not_paused", hint=f"it is {status.state}")
        return _accepted(await self._jobs.resume(job), existing=False)

    async def _known(self, job: str) -> JobStatus:
        status = await self._jobs.read(job)
        if status is None:
            raise RefusedError(f"there is no job {job[:140]}", code="unknown_job", hint="emporter jobs lists them")
        return status

    async def _again(self, job: str, request: IngestRequest, numbers: tuple[int, int], delivery: Delivery) -> Accepted:
        """The same request once more: tell what there is, or, with force or refresh, start a new revision.

        `numbers`: of the latest run, and the next that is free.
        """
        latest, free = numbers
        status = await self._jobs.read(job)
        wants_new = request.force != "no" or request.refresh
        if status is None:
            generation, ended = await last_generation(self._objects, job, latest)
            if ended is None:
                # Whoever claimed it is about to begin it, or was killed: beginning it twice begins it once.
                begun = await self._start(job, request, latest, generation)
                return begun.model_copy(update={"existing": True})
            if not wants_new:
                return Accepted(job=job, revision=latest, generation=ended.generation, state=ended.state, existing=True)
        elif status.state.running:
            if wants_new:
                raise RefusedError(
                    f"job {job} is running as r{status.revision}", code="running", hint=f"wait for it, or emporter cancel {job}"
                )
            return _accepted(status, existing=True)
        elif not wants_new or (request.force == "no" and not await self._changed(job, request, latest)):
            return _accepted(status, existing=True)
        return await self._claim(job, request, free, delivery)

    async def _changed(self, job: str, request: IngestRequest, latest: int) -> bool:
        """Whether the archive serves something else than what the latest revision was made of."""
        body = await self._objects.find(storage.RAW, storage.plan(job, latest))
        if body is None:
            return True
        before = FetchPlan.model_validate_json(body)
        after = await self._planner(request, job, latest + 1)
        return [(o.path, o.version, o.bytes) for o in before.objects] != [(o.path, o.version, o.bytes) for o in after.objects]

    async def _claim(self, job: str, request: IngestRequest, revision: int, delivery: Delivery) -> Accepted:
        purpose = delivery.headers.get(PURPOSE_HEADER, "").strip()
        claim = StoredRequest(request=request, event_id=delivery.event_id, received_at=now(), purpose=purpose)
        if not await self._objects.put_json(storage.RAW, storage.request(job, revision), claim):
            return await self.take(request, delivery)
        return await self._start(job, request, revision)

    async def _start(self, job: str, request: IngestRequest, revision: int, generation: int = 1) -> Accepted:
        """Begin a generation of a claimed revision; all of it may happen again."""
        status = await self._jobs.begin(job, request, revision, generation)
        if status.run == (revision, generation) and status.state == JobState.PENDING:
            await self._order_plan(status)
        return _accepted(status, existing=status.run != (revision, generation))

    async def _order_plan(self, status: JobStatus) -> None:
        command = PlanFetch(job=status.job, revision=status.revision, generation=status.generation)
        await self._bus.command(subjects.fetch_plan(status.job), command, "FETCH", "fetch.plan")


def _accepted(status: JobStatus, *, existing: bool) -> Accepted:
    return Accepted(job=status.job, revision=status.revision, generation=status.generation, state=status.state, existing=existing)
