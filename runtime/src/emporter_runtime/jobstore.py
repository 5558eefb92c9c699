"""The state of jobs: the last message on `status.<job>`, and nobody but this module writes it (PROTOCOL section 4).

Every change reads the last state, decides, and publishes on the condition that nobody wrote in between; where somebody did, it
decides anew. A decision is a pure function from the state that is to the state that shall be, or None for no change.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import nats.errors
from nats.js.errors import APIError, NotFoundError

from emporter_contracts import storage, subjects
from emporter_contracts.commands import IngestRequest, JobCommand, Refusal
from emporter_contracts.jobs import JobState, JobStatus, Tally, Waiting, check_move
from emporter_contracts.plans import FetchPlan
from emporter_runtime.bus import WRONG_LAST_SEQUENCE, Bus
from emporter_runtime.errors import StoppedError, TransientError
from emporter_runtime.logging import get_logger
from emporter_runtime.objects import Objects
from emporter_runtime.pacing import begun_anew, carried, counted
from emporter_runtime.runs import RunNote

RETRY_SECONDS = (5.0, 300.0)
"""First and longest wait before a unit that met a transient failure is tried again; doubled while it stays so."""

log = get_logger(__name__)

Decision = Callable[[JobStatus | None], JobStatus | None]


@dataclass(frozen=True, slots=True)
class _Last:
    """The last message on a status subject; sequence 0 where there is none."""

    status: JobStatus | None
    sequence: int
    event_id: str


def now() -> datetime:
    """The time, UTC, to the microsecond."""
    return datetime.now(UTC)


class JobStore:
    """Reads and changes the state of jobs."""

    def __init__(self, bus: Bus, objects: Objects) -> None:
        self._bus = bus
        self._objects = objects
        self._writer = secrets.token_hex(4)

    async def read(self, job: str) -> JobStatus | None:
        """The state of a job, None where there never was one. Raises TransientError while the bus is away."""
        return (await self._last(job)).status

    async def current(self, command: JobCommand) -> JobStatus:
        """The state of the run a command is about. Raises StoppedError where that run is not, or no longer, to be worked on."""
        status = await self.read(command.job)
        if status is None or status.run != (command.revision, command.generation):
            raise StoppedError(f"run r{command.revision}.{command.generation} of {command.job} is not the current one")
        if not status.state.running:
            raise StoppedError(f"job {command.job} is {status.state}")
        if status.waiting is not None and status.waiting.reason == "paused":
            raise StoppedError(f"job {command.job} is paused")
        return status

    async def begin(self, job: str, request: IngestRequest, revision: int, generation: int) -> JobStatus:
        """Start a run: `pending`, from nothing or from an ended run. A second call for the same run changes nothing."""
        note = RunNote(job=job, revision=revision, generation=generation, at=now(), state=JobState.PENDING)
        await self._objects.put_json(storage.RAW, storage.generation(job, revision, generation), note)

        def decide(last: JobStatus | None) -> JobStatus | None:
            if last is not None and last.run >= (revision, generation):
                return None
            if last is not None:
                check_move(last, JobState.PENDING)
            return JobStatus(
                job=job,
                source=request.source,
                source_id=request.source_id,
                revision=revision,
                generation=generation,
                version=1,
                state=JobState.PENDING,
                created_at=last.created_at if last else now(),
                updated_at=now(),
            )

        return await self._change(job, decide)

    async def move(self, run: JobStatus, to: JobState, **fields: Any) -> JobStatus:
        """Move the run of `run` to another state; nothing happens where it is there already or is no longer the current run."""

        def decide(last: JobStatus | None) -> JobStatus | None:
            if last is None or last.run != run.run or last.state == to or not last.state.running:
                return None
            check_move(last, to)
            done = not to.running
            return last.model_copy(
                update={"state": to, "waiting": None, "ended_at": now() if done else None, "progressed_at": now(), **fields}
            )

        status = await self._change(run.job, decide)
        await self.note_end(status)
        return status

    async def progress(self, run: JobStatus, **fields: Any) -> JobStatus:
        """Write tallies of a running run; an end of waiting where they grew."""

        def decide(last: JobStatus | None) -> JobStatus | None:
            if last is None or last.run != run.run or not last.state.running:
                return None
            changed = carried(last, last.model_copy(update=fields))
            if changed == last:
                return None
            # A wait goes on until its time is over: what other units do meanwhile does not make an archive ready sooner.
            over = last.waiting is not None and last.waiting.next_try is not None and last.waiting.next_try <= now()
            at = now()
            paced = begun_anew(changed) if over else counted(last, changed, at)
            return paced.model_copy(update={"progressed_at": at, "waiting": None if over else last.waiting})

        return await self._change(run.job, decide)

    async def wait(self, command: JobCommand, cause: TransientError) -> None:
        """The run can't go on now: say why and when it is tried again, or fail it when its patience is at an end."""
        status = await self.current(command)
        since = status.waiting.since if status.waiting else now()
        patience = timedelta(seconds=self._bus.settings.patience_seconds)
        if now() - (status.progressed_at or status.created_at) > patience and now() - since > patience:
            why = f"{cause.message}; no progress for {patience}"
            await self.fail(command, Refusal(code=cause.code, message=why, hint=cause.hint or "emporter retry when it is back"))
            return
        first, longest = RETRY_SECONDS
        delay = cause.retry_after if cause.retry_after is not None else min(longest, max(first, (now() - since).total_seconds()))
        waiting = Waiting(reason=cause.reason, since=since, next_try=now() + timedelta(seconds=delay), message=cause.message)

        def decide(last: JobStatus | None) -> JobStatus | None:
            if last is None or last.run != status.run or not last.state.running:
                return None
            if last.waiting is not None and last.waiting.reason == "paused":
                return None
            return last.model_copy(update={"waiting": waiting})

        await self._change(command.job, decide)

    async def fail(self, command: JobCommand, error: Refusal) -> None:
        """End the run as failed, unless all its volumes are committed: then it is complete."""
        status = await self.read(command.job)
        if status is None or status.run != (command.revision, command.generation) or not status.state.running:
            return
        if status.state == JobState.SAVING and await self._all_committed(status):
            await self.move(status, JobState.COMPLETE)
            return
        await self.move(status, JobState.FAILED, error=error)

    async def cancel(self, job: str) -> JobStatus | None:
        """End a run as cancelled, where it may be; the state after it, None where there is no such job."""

        def decide(last: JobStatus | None) -> JobStatus | None:
            if last is None or last.state not in (JobState.PENDING, JobState.PROCESSING):
                return None
            return last.model_copy(update={"state": JobState.CANCELLED, "waiting": None, "ended_at": now()})

        if await self.read(job) is None:
            return None
        status = await self._change(job, decide)
        await self.note_end(status)
        return status

    async def pause(self, job: str) -> JobStatus:
        """Let a run rest: workers stop, stewards queue nothing, until `resume`. Nothing that is done is lost."""

        def decide(last: JobStatus | None) -> JobStatus | None:
            if last is None or last.state not in (JobState.PENDING, JobState.PROCESSING):
                return None
            return last.model_copy(update={"waiting": Waiting(reason="paused", since=now(), message="paused by an operator")})

        return await self._change(job, decide)

    async def resume(self, job: str) -> JobStatus:
        """Let a paused run go on."""

        def decide(last: JobStatus | None) -> JobStatus | None:
            if last is None or last.waiting is None or last.waiting.reason != "paused":
                return None
            return begun_anew(last).model_copy(update={"waiting": None, "progressed_at": now()})

        return await self._change(job, decide)

    async def note_end(self, status: JobStatus) -> None:
        """Leave word in the store that a run ended, so that a wiped bus does not start it again."""
        if status.state.running:
            return
        note = RunNote(
            job=status.job,
            revision=status.revision,
            generation=status.generation,
            at=status.ended_at or now(),
            state=status.state,
            error=status.error,
        )
        key = storage.generation_ended(status.job, status.revision, status.generation)
        await self._objects.put_json(storage.RAW, key, note)

    async def restore(self, status: JobStatus) -> None:
        """Put a state rebuilt from the store onto a bus that lost it; does nothing where the bus knows the job."""
        await self._change(status.job, lambda last: status if last is None else None)

    async def _all_committed(self, status: JobStatus) -> bool:
        plan = await self._objects.find(storage.RAW, storage.plan(status.job, status.revision))
        if plan is None:
            return False
        volumes = [v.volume for v in FetchPlan.model_validate_json(plan).volumes]
        return all([await self._objects.exists(storage.VOLUMES, storage.commit(v, status.revision)) for v in volumes])

    async def _last(self, job: str) -> _Last:
        try:
            raw = await self._bus.js.get_last_msg("STATUS", subjects.status(job), direct=True)
        except NotFoundError:
            return _Last(None, 0, "")
        except (nats.errors.Error, TimeoutError) as error:
            raise TransientError(f"the bus did not tell the state of {job}: {error!r}") from error
        return _Last(JobStatus.model_validate_json(raw.data or b""), raw.seq or 0, (raw.headers or {}).get("ce-id", ""))

    async def _change(self, job: str, decide: Decision) -> JobStatus:
        """Apply a decision by compare-and-set, deciding anew whenever somebody else was first; the state after it."""
        last = await self._last(job)
        while True:
            decided = decide(last.status)
            if decided is None:
                if last.status is None:
                    raise StoppedError(f"there is no job {job}")
                return last.status
            same_run = last.status is not None and last.status.run == decided.run
            version = last.status.version + 1 if same_run and last.status else max(1, decided.version)
            new = decided.model_copy(update={"version": version, "updated_at": now()})
            identity = f"{job}.{new.revision}.{new.generation}.{new.version}.{self._writer}"
            try:
                await self._bus.publish(
                    subjects.status(job),
                    new,
                    identity,
                    "STATUS",
                    Nats_Expected_Last_Subject_Sequence=str(last.sequence),
                )
            except APIError as error:
                if error.err_code != WRONG_LAST_SEQUENCE:
                    raise TransientError(f"the bus refused the state of {job}: {error.description}") from error
            except TransientError:
                after = await self._last(job)
                if after.event_id != identity:
                    raise
            else:
                _log_change(last.status, new)
                return new
            last = await self._last(job)
            if last.event_id == identity and last.status is not None:
                return last.status


def _log_change(before: JobStatus | None, status: JobStatus) -> None:
    """What an operator wants to read later: moves and waits, not every count."""
    if before is not None and (before.run, before.state, before.waiting) == (status.run, status.state, status.waiting):
        return
    waiting = {"waiting": status.waiting.reason} if status.waiting else {}
    error = {"code": status.error.code, "message": status.error.message} if status.error else {}
    run = {"job": status.job, "revision": status.revision, "generation": status.generation}
    log.info("job", **run, state=str(status.state), **waiting, **error)


def tally(done: int, total: int, bytes_done: int, bytes_total: int) -> Tally:
    """A Tally that never claims more than all."""
    return Tally(done=min(done, total), total=total, bytes_done=min(bytes_done, bytes_total), bytes_total=bytes_total)
