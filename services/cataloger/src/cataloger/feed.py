"""Job states, handed on inside this process to whoever streams them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from emporter_contracts.jobs import JobStatus

BACKLOG = 256
"""States a slow reader may lag behind; past it the oldest are dropped, and each state is complete in itself."""

Changes = asyncio.Queue[JobStatus | None]
"""The states of one job as they come; None at the end of the service."""


class Feed:
    """Who listens to which job. A state reaches only the listeners of this process: another replica's look into the database."""

    def __init__(self) -> None:
        self._listeners: dict[str, set[Changes]] = {}
        self._closed = False

    @contextmanager
    def listening(self, job: str) -> Iterator[Changes]:
        """The states of a job from now on."""
        changes: Changes = asyncio.Queue(BACKLOG)
        if self._closed:
            changes.put_nowait(None)
        self._listeners.setdefault(job, set()).add(changes)
        try:
            yield changes
        finally:
            self._listeners[job].discard(changes)
            if not self._listeners[job]:
                del self._listeners[job]

    def tell(self, status: JobStatus) -> None:
        """Hand a state to its listeners; nobody is waited for."""
        for changes in self._listeners.get(status.job, ()):
            _push(changes, status)

    def close(self) -> None:
        """End every stream: an open one would keep the HTTP server from stopping."""
        self._closed = True
        for listeners in self._listeners.values():
            for changes in listeners:
                _push(changes, None)


def _push(changes: Changes, status: JobStatus | None) -> None:
    if changes.full():
        with suppress(asyncio.QueueEmpty):
            changes.get_nowait()
    changes.put_nowait(status)
