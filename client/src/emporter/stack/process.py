"""One process of the stack: started so that it can't outlive its supervisor, probed, stopped, and started again when it dies."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import Process
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from emporter.errors import StackError
from emporter.stack.identity import ProcessIdentity
from emporter.stack.plan import ProcessSpec
from emporter.stack.probing import answers_ok

FIRST_BACKOFF = 1.0
LONGEST_BACKOFF = 30.0
"""Seconds before a process that died is started again: doubled at each death, the first again once it lived DEATHS_WITHIN."""
DEATHS = 5
DEATHS_WITHIN = 60.0
"""This many deaths within this many seconds: the process can't live here, and the stack goes down."""
PROBE_SECONDS = 0.05
LOG_LINES = 8
"""Of a dying process's log in the message about it."""
LOG_BYTES = 16 * 2**20
"""A log that is longer when its process starts is set aside as `.old`, so that a stack of months fills no disk."""
SHIM = Path(__file__).with_name("shim.py")

Told = Callable[[str, ProcessIdentity | None], None]
"""Called with a process's name and who it is now, None when it ended."""


def by_death_signal() -> bool:
    """Whether the kernel itself can end a child with its parent."""
    return sys.platform == "linux"


class StackProcess:
    """Keeps one process running until it is stopped."""

    first_backoff = FIRST_BACKOFF

    def __init__(self, spec: ProcessSpec, log: Path, told: Told, *, death_signal: bool = by_death_signal()) -> None:
        self.spec = spec
        self.ready = asyncio.Event()
        self._log = log
        self._told = told
        self._death_signal = death_signal
        self._process: Process | None = None
        self._stopping = False

    async def keep(self) -> None:
        """Start, and start again whenever it dies, until `stop`. Raises StackError when it dies too often."""
        deaths: deque[float] = deque(maxlen=DEATHS)
        backoff = self.first_backoff
        while not self._stopping:
            began = time.monotonic()
            status = await self._run_once()
            if self._stopping:
                return
            now = time.monotonic()
            deaths.append(now)
            if len(deaths) == DEATHS and now - deaths[0] < DEATHS_WITHIN:
                raise self._hopeless(status)
            backoff = self.first_backoff if now - began > DEATHS_WITHIN else backoff
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, LONGEST_BACKOFF)

    async def run_to_end(self) -> None:
        """Run a step that ends by itself. Raises StackError where it fails."""
        status = await self._run_once()
        if status != 0 and not self._stopping:
            raise StackError(f"{self.spec.name} failed (exit status {status}):\n{self._last_lines()}", hint=f"see {self._log}")

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL to its whole group when its grace is over."""
        self._stopping = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(self.spec.grace):
                await process.wait()
        except TimeoutError:
            self.kill()
            await process.wait()

    def kill(self) -> None:
        """At once, with its whole group."""
        self._stopping = True
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _run_once(self) -> int:
        """Start, tell who it is, probe until it is ready, wait for its end; its exit status."""
        self._process = process = await self._spawn()
        with suppress(Exception):
            self._told(self.spec.name, ProcessIdentity.of(process.pid))
        probing = asyncio.create_task(self._probe())
        try:
            status = await process.wait()
        finally:
            probing.cancel()
        self.ready.clear()
        self._told(self.spec.name, None)
        return status

    async def _spawn(self) -> Process:
        how = "deathsig" if self._death_signal else "pipe"
        command = (sys.executable, "-I", "-S", str(SHIM), how, str(os.getpid()), *self.spec.command)
        if self._log.exists() and self._log.stat().st_size > LOG_BYTES:
            self._log.replace(self._log.with_suffix(".log.old"))
        with self._log.open("ab") as log:
            # The death signal comes when the thread that started the child ends, so this must be the main one, which the
            # event loop runs in. Its own group keeps the terminal's Ctrl-C from it: the supervisor stops it in its turn.
            options: dict[str, Any] = {"process_group": 0, "umask": 0o077, "cwd": self._log.parent.parent}
            return await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL if self._death_signal else asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=dict(self.spec.environment),
                **options,
            )

    async def _probe(self) -> None:
        if not self.spec.probe:
            return
        while not await answers_ok(self.spec.probe):
            await asyncio.sleep(PROBE_SECONDS)
        self.ready.set()

    def _hopeless(self, status: int) -> StackError:
        died = f"{self.spec.name} died {DEATHS} times within a minute, the last time with exit status {status}"
        return StackError(f"{died}:\n{self._last_lines()}", hint=f"see {self._log}")

    def _last_lines(self) -> str:
        with self._log.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - 16_384))
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join(f"  {line[:400]}" for line in lines[-LOG_LINES:])
