"""What the stewards of both stages share: following jobs, looking at each when something happened, and every sweep.

A steward holds no state of its own: what is done lies in the ledger, what is queued in the stream, where a job stands in its
status. So any process may look at any job at any time, and whatever was lost is said again by the next look.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import nats.errors
from nats.js.api import ConsumerConfig, DeliverPolicy

from emporter_contracts.jobs import JobStatus
from emporter_runtime.bus import Bus
from emporter_runtime.errors import StoppedError, TransientError
from emporter_runtime.jobstore import JobStore, now
from emporter_runtime.logging import get_logger
from emporter_runtime.tasks import ended
from emporter_runtime.telemetry import LOOKS

MAX_OUTSTANDING = 256
"""Commands of one job and stage in the queue at most: jobs take turns, streams stay small, a petabyte pages by construction."""
LOOK_SECONDS = 1.0
"""A job is looked at this often at most, however fast its ledger grows."""
END_MARK_WINDOW = timedelta(hours=1)
"""How far back a starting steward makes sure that ended runs are marked in the store."""

log = get_logger(__name__)

Look = Callable[[JobStatus], Awaitable[float | None]]
"""One look at a job; in how many seconds it wants another though nothing is said meanwhile, None: at the next sweep."""


class Steward:
    """Calls `look` with the state of every running job: when told to, after each change of state, and every sweep."""

    def __init__(self, bus: Bus, jobs: JobStore, stage: str, look: Look) -> None:
        self._bus = bus
        self._jobs = jobs
        self._stage = stage
        self._look = look
        self._running: dict[str, JobStatus] = {}
        self._due: dict[str, float] = {}
        self._wake = asyncio.Event()
        self._busy: set[str] = set()

    def soon(self, job: str, delay: float = 0.0) -> None:
        """Look at `job` as soon as its turn comes."""
        due = asyncio.get_running_loop().time() + delay
        self._due[job] = min(due, self._due.get(job, due))
        self._wake.set()

    def reserved(self, but: str) -> int:
        """Bytes that running jobs, but for one, still plan to store: their plans less what their fetches have stored."""
        others = [status for job, status in self._running.items() if job != but]
        return sum(max(0, status.planned_bytes - status.fetch.bytes_done) for status in others)

    @asynccontextmanager
    async def stewarding(self) -> AsyncIterator[None]:
        """Follow the jobs while inside."""
        tasks = [asyncio.create_task(self._follow(), name="follow"), asyncio.create_task(self._turns(), name="turns")]
        try:
            yield
        finally:
            await ended(*tasks)

    async def _follow(self) -> None:
        """Keep the states of all running jobs, from the last message of each on; begins again whenever the bus lost us."""
        while True:
            try:
                await self._follow_once()
            except (nats.errors.Error, TransientError, TimeoutError) as error:
                log.warning("following_again", error=repr(error))
            await asyncio.sleep(LOOK_SECONDS)

    async def _follow_once(self) -> None:
        subscription = await self._bus.js.subscribe(
            "status.*",
            stream="STATUS",
            ordered_consumer=True,
            config=ConsumerConfig(deliver_policy=DeliverPolicy.LAST_PER_SUBJECT),
        )
        try:
            while True:
                try:
                    message = await subscription.next_msg(timeout=self._bus.settings.sweep_seconds)
                except TimeoutError:
                    # Silence is either peace, or a server that forgot our consumer in a restart: then this raises.
                    await subscription.consumer_info()
                    continue
                await self._heard(JobStatus.model_validate_json(message.data))
        finally:
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def _heard(self, status: JobStatus) -> None:
        known = self._running.get(status.job)
        if known is not None and status.order <= known.order:
            return
        if status.state.running:
            self._running[status.job] = status
            moved = known is None or known.state != status.state or known.run != status.run
            if moved or (known and known.waiting) != status.waiting:
                self.soon(status.job, _until_next_try(status))
            return
        self._running.pop(status.job, None)
        self._due.pop(status.job, None)
        if status.ended_at is not None and now() - status.ended_at < END_MARK_WINDOW:
            with suppress(TransientError):
                await self._jobs.note_end(status)

    async def _turns(self) -> None:
        sweep_at = 0.0
        while True:
            time = asyncio.get_running_loop().time()
            if time >= sweep_at:
                for job in self._running:
                    self._due.setdefault(job, time)
                sweep_at = time + self._bus.settings.sweep_seconds
            for job in [job for job, due in self._due.items() if due <= time]:
                # While another job had its turn, this one may have ended, and is due no more.
                if self._due.pop(job, None) is not None:
                    await self._turn(job)
            next_due = min([sweep_at, *self._due.values()])
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.05, next_due - asyncio.get_running_loop().time())):
                    await self._wake.wait()

    async def _turn(self, job: str) -> None:
        """One look; trouble with the bus or the store leaves the job to the next sweep, never changes it."""
        try:
            status = await self._jobs.read(job)
            if status is None or not status.state.running or _until_next_try(status) > 0:
                return
            self._running.setdefault(job, status)
            LOOKS.labels(self._stage).inc()
            again = await self._look(status)
            if again is not None:
                self.soon(job, again)
        except StoppedError:
            return
        except TransientError as error:
            log.warning("look_put_off", job=job, error=error.message)
        except Exception:
            log.exception("look_failed", job=job)


def _until_next_try(status: JobStatus) -> float:
    """Seconds until a waiting job may go on: 0 where it isn't waiting, for ever (a day) where somebody must say so."""
    if status.waiting is None:
        return 0.0
    if status.waiting.next_try is None:
        return 86400.0
    return max(0.0, (status.waiting.next_try - now()).total_seconds())


def next_commands(all_units: Iterable[str], done: set[str], queued: Iterable[str], limit: int = MAX_OUTSTANDING) -> list[str]:
    """Which units to queue now: in order, neither done nor queued, so many that at most `limit` are outstanding; no further
    unit is looked at.
    """
    waiting = set(queued)
    room = limit - len(waiting)
    chosen: list[str] = []
    for unit in all_units:
        if len(chosen) >= room:
            break
        if unit not in done and unit not in waiting:
            chosen.append(unit)
    return chosen
