"""Asynchronous reads, for readers that know no event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from emporter_readers.cached import ReadRange


def from_thread(read: Callable[[int, int], Awaitable[bytes]]) -> ReadRange:
    """`read`, which belongs to the running event loop, for worker threads. Call it in the loop.

    The threads must not be those of the loop's default executor: all of them waiting here, none would be left for the loop.
    """
    loop = asyncio.get_running_loop()

    async def reading(start: int, stop: int) -> bytes:
        return await read(start, stop)

    def blocking(start: int, stop: int) -> bytes:
        return asyncio.run_coroutine_threadsafe(reading(start, stop), loop).result()

    return blocking
