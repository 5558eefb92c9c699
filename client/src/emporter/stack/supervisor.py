"""Starts the processes of a stack in order, keeps them up, tells clients where they are, stops them in order."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

from emporter.errors import ClientError, StackError
from emporter.stack.choices import choices_of
from emporter.stack.files import StackFiles, StackInfo, write_model
from emporter.stack.identity import ProcessIdentity, end_all
from emporter.stack.plan import ProcessSpec, StackOptions, StackPlan
from emporter.stack.ports import check_free
from emporter.stack.probing import get
from emporter.stack.process import StackProcess

START_SECONDS = 120.0
"""A stack that is not ready by then will hardly be: some process waits for what does not come."""


@dataclass(frozen=True, slots=True)
class StackEvent:
    """Something to show: `what` a process or `stack` did; `seconds` since the supervisor began."""

    kind: Literal["starting", "ready", "died", "up", "stopping", "down"]
    what: str
    seconds: float


Report = Callable[[StackEvent], None]


class Supervisor:
    """One stack, from start to stop."""

    def __init__(self, files: StackFiles, plan: StackPlan, report: Report) -> None:
        self._files = files
        self._plan = plan
        self._report = report
        self._began = time.monotonic()
        self._info: StackInfo = plan.info().model_copy(update={"supervisor": ProcessIdentity.mine()})
        self._servers = [self._process(spec) for spec in plan.servers()]
        self._services = [self._process(spec) for spec in plan.services()]
        self._provision = self._process(plan.provision())
        self._told_to_stop = asyncio.Event()
        self._stopping = False

    async def run(self) -> None:
        """Start, keep up until told to stop, stop. Raises StackError where the stack can't be started or kept up."""
        self._write(ready=False)
        work = asyncio.create_task(self._work())
        stop = asyncio.create_task(self._told_to_stop.wait())
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            failure = await self._stop(work)
        if failure is not None:
            raise failure

    def stop(self) -> None:
        """Begin to stop; called again, stop at once."""
        if self._told_to_stop.is_set():
            for process in self._everything():
                process.kill()
        self._told_to_stop.set()

    async def _work(self) -> None:
        """Ends only by failing or being cancelled."""
        async with asyncio.TaskGroup() as group:
            for process in self._servers:
                group.create_task(process.keep())
            try:
                async with asyncio.timeout(START_SECONDS):
                    await self._start_up(group)
            except TimeoutError:
                raise await self._not_ready() from None
            self._write(ready=True)
            self._tell("up", "stack")

    async def _start_up(self, group: asyncio.TaskGroup) -> None:
        nats, *rest = self._servers
        await self._when_ready(nats)
        # Services take a second to import what they need and wait by themselves for what provision makes.
        for process in self._services:
            self._tell("starting", process.spec.name)
            group.create_task(process.keep())
        await asyncio.gather(*(self._when_ready(process) for process in rest))
        await self._provision.run_to_end()
        await asyncio.gather(*(self._when_ready(process) for process in self._services))

    async def _when_ready(self, process: StackProcess) -> None:
        await process.ready.wait()
        self._tell("ready", process.spec.name)

    async def _not_ready(self) -> StackError:
        waiting = [p.spec for p in (*self._servers, *self._services) if not p.ready.is_set()]
        said = [f"{spec.name}: {(await get(spec.probe))[1][:200] or 'no answer'}" for spec in waiting]
        return StackError(f"not ready after {START_SECONDS:.0f} s: {'; '.join(said)}", hint=f"see {self._files.root / 'logs'}")

    async def _stop(self, work: asyncio.Task[None]) -> ClientError | None:
        """End everything: services first, what they stand on after. What ended `work` by itself."""
        self._tell("stopping", "stack")
        self._stopping = True
        await asyncio.gather(self._provision.stop(), *(process.stop() for process in self._services))
        await asyncio.gather(*(process.stop() for process in self._servers))
        failure = await _outcome(work)
        self._info = self._info.model_copy(update={"supervisor": None, "processes": {}})
        self._write(ready=False)
        self._tell("down", "stack")
        return failure

    def _everything(self) -> list[StackProcess]:
        return [*self._services, self._provision, *self._servers]

    def _process(self, spec: ProcessSpec) -> StackProcess:
        return StackProcess(spec, self._files.log(spec.name), self._tell_who)

    def _tell_who(self, name: str, identity: ProcessIdentity | None) -> None:
        others = {n: i for n, i in self._info.processes.items() if n != name}
        self._info = self._info.model_copy(update={"processes": {**others, name: identity} if identity else others})
        self._write(ready=self._info.ready)
        if identity is None and not self._stopping and name != "provision":
            self._tell("died", name)

    def _write(self, *, ready: bool) -> None:
        self._info = self._info.model_copy(update={"ready": ready})
        write_model(self._files.stack, self._info)

    def _tell(self, kind: Literal["starting", "ready", "died", "up", "stopping", "down"], what: str) -> None:
        self._report(StackEvent(kind, what, time.monotonic() - self._began))


async def _outcome(work: asyncio.Task[None]) -> ClientError | None:
    """What `work` failed with, None where it was only told to end."""
    work.cancel()
    try:
        await work
    except asyncio.CancelledError:
        return None
    except BaseExceptionGroup as group:
        known, unknown = group.split(ClientError)
        if unknown is not None:
            raise unknown from None
        assert known is not None
        return next(error for error in _leaves(known))
    except ClientError as error:
        return error
    return None


def _leaves(group: BaseExceptionGroup[ClientError]) -> Iterator[ClientError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def supervise(options: StackOptions, report: Report, lifeline: int | None = None) -> None:
    """Run a stack in this process, in its main thread, until SIGTERM, SIGINT or SIGHUP, or until nobody holds the far end
    of `lifeline` (the read end of a pipe) any more. Raises StackIsUpError, StackError.
    """
    files = StackFiles.at(options.data)
    files.make()
    with files.locked():
        clean_up(files)
        plan = StackPlan(files, options, choices_of(files, options.store))
        check_free(plan.ports(), str(files.chosen))
        plan.write_files()
        asyncio.run(_supervise(Supervisor(files, plan, report), lifeline))


def clean_up(files: StackFiles) -> list[int]:
    """End what a supervisor that died left running; the numbers of the processes that were killed."""
    info = files.info()
    return end_all(info.processes.values()) if info is not None else []


async def _supervise(supervisor: Supervisor, lifeline: int | None) -> None:
    loop = asyncio.get_running_loop()

    def ended(lifeline: int) -> None:
        """Nothing is ever written to it, so that it can be read means its end."""
        loop.remove_reader(lifeline)
        supervisor.stop()

    if lifeline is not None:
        os.set_inheritable(lifeline, False)
        loop.add_reader(lifeline, ended, lifeline)
    with _signals(supervisor.stop):
        await supervisor.run()


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            with suppress(ValueError, RuntimeError):
                loop.remove_signal_handler(number)
