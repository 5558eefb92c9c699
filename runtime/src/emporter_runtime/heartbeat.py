"""A worker on a command: checks that the run is current, keeps the command alive, stops when it no longer is wanted."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import ParamSpec, TypeVar

import nats.errors
import structlog

from emporter_contracts.commands import JobCommand
from emporter_contracts.jobs import JobStatus
from emporter_runtime.bus import Delivery
from emporter_runtime.errors import StoppedError, TransientError
from emporter_runtime.jobstore import JobStore
from emporter_runtime.logging import get_logger
from emporter_runtime.tasks import ended

BEATS_PER_WAIT = 4
"""Signs of life within one ack_wait: three may be lost before the command goes to another worker."""
LONGEST_BEAT = 5.0
"""Seconds between two looks at the job's state at most: a cancelled job stops within this and the rest of one shard."""

P = ParamSpec("P")
T = TypeVar("T")

log = get_logger(__name__)


class Work:
    """One command being worked on. `check` may be called from any thread."""

    def __init__(self, status: JobStatus, executor: ThreadPoolExecutor, room: asyncio.Semaphore) -> None:
        self.status = status
        self._executor = executor
        self._room = room
        self._stop = threading.Event()

    def check(self) -> None:
        """Raises StoppedError once the run is no longer to be worked on. Call it between shards, planes, pieces."""
        if self._stop.is_set():
            raise StoppedError(f"the run of {self.status.job} ended while it was worked on")

    def stop(self) -> None:
        self._stop.set()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    async def heavy(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run blocking work off the event loop. When the command is stopped, waits until the thread has noticed."""
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._executor, lambda: function(*args, **kwargs))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            self.stop()
            # A thread can't be cancelled: it is asked, and its memory is ours until it has heard.
            with suppress(Exception):
                await future
            raise

    async def large(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `heavy`, for what takes all the memory a command may: waits until there is room."""
        if self._room.locked():
            log.info("waiting_for_memory")
        async with self._room:
            return await self.heavy(function, *args, **kwargs)


@asynccontextmanager
async def kept_alive(delivery: Delivery, ack_wait: float) -> AsyncIterator[None]:
    """Give signs of life for a message that is about no run yet."""

    async def beating() -> None:
        while True:
            await asyncio.sleep(ack_wait / BEATS_PER_WAIT)
            with suppress(nats.errors.Error, TimeoutError):
                if delivery.in_progress is not None:
                    await delivery.in_progress()

    beat = asyncio.create_task(beating(), name="beat")
    try:
        yield
    finally:
        await ended(beat)


class Workers:
    """What a service's command handlers share: the job store, threads for heavy work, the length of a beat, and room in memory
    for as many `large` ones at once.
    """

    def __init__(self, jobs: JobStore, ack_wait: float, threads: int, large: int = 1) -> None:
        self._jobs = jobs
        self._beat = min(ack_wait / BEATS_PER_WAIT, LONGEST_BEAT)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="heavy")
        self._room = asyncio.Semaphore(large)

    @asynccontextmanager
    async def on(self, command: JobCommand, delivery: Delivery) -> AsyncIterator[Work]:
        """Work on `command` with a heartbeat. Raises StoppedError where the run is not current, and as soon as it ends."""
        structlog.contextvars.bind_contextvars(**command.model_dump())
        work = Work(await self._jobs.current(command), self._executor, self._room)
        task = asyncio.current_task()
        assert task is not None
        beat = asyncio.create_task(self._beating(command, delivery, work, task), name=f"beat {command.job}")
        began = time.monotonic()
        try:
            yield work
            log.info("done", command=type(command).__name__, seconds=round(time.monotonic() - began, 3))
        except asyncio.CancelledError:
            if not work.stopped or task.uncancel() > 0:
                raise
            raise StoppedError(f"the run of {command.job} ended while it was worked on") from None
        finally:
            await ended(beat)

    async def _beating(self, command: JobCommand, delivery: Delivery, work: Work, task: asyncio.Task[None]) -> None:
        while True:
            await asyncio.sleep(self._beat)
            try:
                if delivery.in_progress is not None:
                    await delivery.in_progress()
                work.status = await self._jobs.current(command)
            except StoppedError as error:
                log.info("stopping", reason=error.message)
                work.stop()
                task.cancel()
                return
            except (TransientError, nats.errors.Error, TimeoutError) as error:
                # The bus is away: the work goes on, and the next beat tries again.
                log.warning("beat_missed", error=repr(error))

    def close(self) -> None:
        """Let no new heavy work start."""
        self._executor.shutdown(wait=False, cancel_futures=True)
