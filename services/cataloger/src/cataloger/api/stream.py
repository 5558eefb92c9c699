"""The state of a job as server-sent events (WHATWG HTML, section 9.2): the state now, then each change, until it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from cataloger.feed import Feed
from cataloger.records import rank_of
from emporter_contracts.jobs import JobStatus

LOOK_SECONDS = 2.0
"""How often a silent stream looks into the catalog: a state another replica took in reaches this one's listeners that way."""
KEEP_ALIVE = ": still there\n\n"

Read = Callable[[str], Awaitable[JobStatus]]


async def changes(job: str, feed: Feed, read: Read, keep_alive: float) -> AsyncIterator[str]:
    """The event stream of one job. Ends after a state in which nothing more happens, or with the service."""
    with feed.listening(job) as coming:
        # Read only now: a state that comes between reading and listening would be lost.
        status = await read(job)
        yield event(status)
        silent = 0.0
        while status.state.running:
            pause = min(LOOK_SECONDS, keep_alive)
            try:
                async with asyncio.timeout(pause):
                    heard = await coming.get()
            except TimeoutError:
                heard = await read(job)
            if heard is None:
                return
            if rank_of(heard) > rank_of(status):
                status, silent = heard, 0.0
                yield event(status)
            elif (silent := silent + pause) >= keep_alive:
                silent = 0.0
                yield KEEP_ALIVE


def event(status: JobStatus) -> str:
    """One state as an event; its id is its order."""
    identity = ".".join(str(part) for part in status.order)
    return f"id: {identity}\nevent: state\ndata: {status.model_dump_json()}\n\n"
