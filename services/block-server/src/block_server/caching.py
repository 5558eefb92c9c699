"""Values that are dear to make: made once, joined while being made, kept for a time."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Kept(Generic[K, V]):
    """At most `most` values by key, the longest unused forgotten first; older than `seconds` they are made anew.

    Whoever asks for a value that is being made waits for that one. A failure is everybody's who waits, and is not kept.
    """

    def __init__(self, make: Callable[[K], Awaitable[V]], *, most: int, seconds: float = float("inf")) -> None:
        self._make = make
        self._most = most
        self._seconds = seconds
        self._made: OrderedDict[K, tuple[float, V]] = OrderedDict()
        self._making: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K) -> V:
        """The value of `key`; whatever making it raises."""
        found = self._made.get(key)
        if found is not None and time.monotonic() - found[0] < self._seconds:
            self._made.move_to_end(key)
            return found[1]
        return await self.fresh(key)

    async def fresh(self, key: K) -> V:
        """The value of `key` made now, or the one that is just being made."""
        task = self._making.get(key)
        if task is None:
            task = asyncio.create_task(self._keep(key))
            self._making[key] = task
            task.add_done_callback(lambda done: self._made_or_not(key, done))
        # One who gives up waiting must not take the value from the others.
        return await asyncio.shield(task)

    def forget(self, key: K) -> None:
        """Make it anew next time."""
        self._made.pop(key, None)

    def _made_or_not(self, key: K, done: asyncio.Task[V]) -> None:
        del self._making[key]
        if not done.cancelled():
            done.exception()  # told to whoever waits; where nobody waits any more, asyncio would complain

    async def _keep(self, key: K) -> V:
        asked = time.monotonic()
        value = await self._make(key)
        self._made[key] = (asked, value)
        self._made.move_to_end(key)
        while len(self._made) > self._most:
            self._made.popitem(last=False)
        return value
