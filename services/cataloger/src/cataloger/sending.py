"""Telling subscriptions what is due, whenever their doorbell rings; and ringing where a ring was lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import httpcore

from cataloger.doorbells import Doorbells, Ring
from cataloger.models import Delivery, Webhook
from cataloger.outbox import LEASE, Outbox, was_last
from cataloger.posting import TIMEOUT_SECONDS, DeliveryFailedError
from cataloger.webhooks import LINEAGE
from emporter_contracts.errors import EmporterError
from emporter_runtime.logging import get_logger

SUBSCRIPTIONS_AT_ONCE = 32
"""Of one process. A receiver that hangs holds one of these for TRY_SECONDS; then it is tried again later, as all that fail."""
TRY_SECONDS = TIMEOUT_SECONDS * 2
"""Of one try, whatever a receiver does to draw it out."""
ERROR_CHARACTERS = 300

log = get_logger(__name__)
Send = Callable[[Webhook, Delivery], Awaitable[None]]


class Sender:
    """Tells a subscription what is due, one event after the other and in one task of this process at a time."""

    def __init__(
        self,
        outbox: Outbox,
        doorbells: Doorbells,
        send: Send,
        lineage: Callable[[Delivery], Awaitable[None]] | None = None,
    ) -> None:
        self._outbox = outbox
        self._doorbells = doorbells
        self._send = send
        self._lineage = lineage
        self._telling: set[str] = set()
        self._rung_meanwhile: set[str] = set()
        self._stopping = False

    async def answer(self, ring: Ring) -> None:
        """Tell whose doorbell rang. Raises TransientError where the database or the bus is away: the ring is to come again."""
        name = ring.subscription
        if name in self._telling:
            self._rung_meanwhile.add(name)
            return
        self._telling.add(name)
        try:
            claimed = await self._tell(name)
            # A server whose clock is ahead rings too early. What finds nothing then makes no new appointment, which would
            # come too early at once; the sweep finds what is due.
            if claimed or not ring.scheduled:
                await self._arrange(name)
        finally:
            self._telling.discard(name)
            if name in self._rung_meanwhile:
                self._rung_meanwhile.discard(name)
                await self._doorbells.ring(name)

    async def sweep_for_ever(self, seconds: float) -> None:
        """Ring for everything due, now and each `seconds`: rings are lost with a process or a bus. When cancelled, what is being
        told ends with its try.
        """
        try:
            while True:
                try:
                    await self.sweep()
                except EmporterError as error:
                    log.warning("deliveries_unknown", error=error.message)
                await asyncio.sleep(seconds)
        finally:
            self._stopping = True

    async def sweep(self) -> None:
        """Ring for every subscription that has something due which nobody holds."""
        await self._outbox.forget_old()
        for name in await self._outbox.due():
            await self._doorbells.ring(name)

    async def _arrange(self, name: str) -> None:
        """The next ring: at once where more is due, else for when it is."""
        when = await self._outbox.next_try(name)
        if when is None:
            return
        if when.timestamp() <= time.time():
            await self._doorbells.ring(name)
        else:
            await self._doorbells.ring_at(name, when)

    async def _tell(self, name: str) -> bool:
        """Tell what is due until a try fails or the lease is nearly over; whether anything was due."""
        until = time.monotonic() + LEASE.total_seconds() - TRY_SECONDS
        hook, batch = await self._outbox.claim(name)
        for n, delivery in enumerate(batch):
            if self._stopping or time.monotonic() > until:
                await self._outbox.give_back(name, batch[n:])
                break
            if not await self._try(hook, delivery):
                break
        return bool(batch)

    async def _try(self, hook: Webhook | None, delivery: Delivery) -> bool:
        """One try; whether the receiver took it."""
        try:
            async with asyncio.timeout(TRY_SECONDS):
                await self._hand_over(hook, delivery)
        except (
            EmporterError,
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.TimeoutException,
            OSError,
            TimeoutError,
        ) as error:
            await self._failed(delivery, str(error)[:ERROR_CHARACTERS] or type(error).__name__)
            return False
        await self._outbox.delivered(delivery)
        return True

    async def _hand_over(self, hook: Webhook | None, delivery: Delivery) -> None:
        if delivery.webhook == LINEAGE and self._lineage is not None:
            await self._lineage(delivery)
        elif hook is not None and hook.active:
            await self._send(hook, delivery)
        else:
            raise DeliveryFailedError("nobody is there to be told")

    async def _failed(self, delivery: Delivery, error: str) -> None:
        dead = was_last(delivery)
        log.info(
            "delivery_failed", webhook=delivery.webhook, event_id=delivery.event, tries=delivery.tries + 1, dead=dead, error=error
        )
        if dead:
            # First, so that none is dead of which no letter lies there; one that can't be laid there is tried once more.
            await self._doorbells.set_aside(delivery, error)
        await self._outbox.failed(delivery, error)
