"""What one process does at once: bytes held in memory, and things only one may do."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gate:
    """Bounds memory over all sources of a process; first come, first served."""

    def __init__(self, bytes_in_flight: int) -> None:
        self._limit = bytes_in_flight
        self._held = 0
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._turns: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def room(self, size: int) -> AsyncIterator[None]:
        """Hold `size` bytes. More than there will ever be is held alone, so that nothing waits for ever."""
        size = min(size, self._limit)
        await self._entered(size)
        try:
            yield
        finally:
            self._left(size)

    @asynccontextmanager
    async def alone(self, name: str) -> AsyncIterator[None]:
        """Only one at a time within the process does what `name` stands for."""
        lock, users = self._turns.get(name, (asyncio.Lock(), 0))
        self._turns[name] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._turns.pop(name)
            if users > 1:
                self._turns[name] = (lock, users - 1)

    async def _entered(self, size: int) -> None:
        if not self._queue and self._held + size <= self._limit:
            self._held += size
            return
        place: tuple[int, asyncio.Future[None]] = (size, asyncio.get_running_loop().create_future())
        self._queue.append(place)
        try:
            await place[1]
        except asyncio.CancelledError:
            if place[1].done() and not place[1].cancelled():
                self._left(size)
            else:
                self._queue.remove(place)
                self._admit()
            raise

    def _left(self, size: int) -> None:
        self._held -= size
        self._admit()

    def _admit(self) -> None:
        while self._queue and self._held + self._queue[0][0] <= self._limit:
            size, place = self._queue.popleft()
            if not place.done():
                self._held += size
                place.set_result(None)
