"""A process by number and start time: numbers are given again, both together are not."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Self

import psutil
from pydantic import BaseModel, ConfigDict

CLOCK_SLACK = 2.0
"""Seconds by which a start time may seem to move: Linux counts it from the boot, and the clock may be set meanwhile."""


class ProcessIdentity(BaseModel):
    """One process; `started` in seconds since the epoch."""

    model_config = ConfigDict(frozen=True)

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> Self:
        """Raises psutil.NoSuchProcess."""
        return cls(pid=pid, started=psutil.Process(pid).create_time())

    @classmethod
    def mine(cls) -> Self:
        return cls.of(os.getpid())

    def find(self) -> psutil.Process | None:
        """The process, None where it has ended."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < CLOCK_SLACK
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None

    def alive(self) -> bool:
        return self.find() is not None


def end_all(identities: Iterable[ProcessIdentity], seconds: float = 10.0) -> list[int]:
    """Kill what still runs of these, each with its process group, and wait until it is gone; the numbers that were killed."""
    left = [identity for identity in identities if identity.alive()]
    for identity in left:
        with suppress(ProcessLookupError, PermissionError):
            _kill_group(identity.pid)
    deadline = time.monotonic() + seconds
    while any(identity.alive() for identity in left) and time.monotonic() < deadline:
        time.sleep(0.02)
    return [identity.pid for identity in left]


def _kill_group(pid: int) -> None:
    """Only a group the process leads: a child of ours always does, but its number stands in a file that may be old."""
    if os.getpgid(pid) == pid:
        os.killpg(pid, signal.SIGKILL)
    else:
        os.kill(pid, signal.SIGKILL)
