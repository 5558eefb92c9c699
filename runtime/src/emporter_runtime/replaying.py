"""Hearing again what a stream holds, from its first message, without being one of its consumers: nothing is acknowledged, nobody
else hears less.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress

import nats.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import NotFoundError

from emporter_runtime.bus import Bus, Delivery
from emporter_runtime.errors import TransientError

PAGE = 100
"""Messages asked for at once."""
INACTIVE_SECONDS = 900.0
"""How long whoever hears them may take over a page before the server forgets where we were: a database under load is slow."""
PAGE_SECONDS = 5.0
"""How long a page may take; then the server is asked whether anything is left, for messages may age out meanwhile."""


async def replay(bus: Bus, stream: str, wildcard: str) -> AsyncIterator[Delivery]:
    """Every message of `stream` that matches and is there now, oldest first. Raises TransientError while the bus is away."""
    js = bus.js
    config = ConsumerConfig(
        ack_policy=AckPolicy.NONE, filter_subject=wildcard, inactive_threshold=INACTIVE_SECONDS, mem_storage=True
    )
    try:
        info = await js.add_consumer(stream, config)
        left = info.num_pending or 0
        subscription = await js.pull_subscribe_bind(info.name, stream)
        try:
            while left > 0:
                page = await _page(subscription, min(PAGE, left))
                left -= len(page)
                for message in page:
                    yield _delivery(message)
                if not page:
                    left = min(left, (await js.consumer_info(stream, info.name)).num_pending or 0)
        finally:
            await subscription.unsubscribe()
            with suppress(NotFoundError):
                await js.delete_consumer(stream, info.name)
    except (nats.errors.Error, TimeoutError) as error:
        raise TransientError(f"the bus did not read {stream} back: {error!r}") from error


async def _page(subscription: JetStreamContext.PullSubscription, most: int) -> list[Msg]:
    try:
        return await subscription.fetch(most, timeout=PAGE_SECONDS)
    except TimeoutError:
        return []


def _delivery(message: Msg) -> Delivery:
    meta = message.metadata
    return Delivery(
        subject=message.subject,
        headers=dict(message.headers or {}),
        body=message.data,
        stream=meta.stream,
        sequence=meta.sequence.stream,
        timestamp=meta.timestamp,
    )
