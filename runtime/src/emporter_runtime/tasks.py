"""Ending background tasks for certain."""

from __future__ import annotations

import asyncio
from typing import Any

AGAIN_SECONDS = 0.2
"""How long one cancellation is given before the next."""


async def ended(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks until each is done; what they raised is of no interest.

    One cancellation is not enough: `asyncio.wait_for` of Python 3.11 loses one that comes as its future completes, and a
    task that loops around it would go on for ever.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=AGAIN_SECONDS)
    for task in tasks:
        if not task.cancelled():
            task.exception()
