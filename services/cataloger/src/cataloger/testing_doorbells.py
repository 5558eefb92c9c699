"""Doorbells in memory: what was rung, appointed and set aside can be looked at; and senders that work off what rang."""

from __future__ import annotations

import asyncio
from datetime import datetime

from cataloger.doorbells import Ring
from cataloger.models import Delivery
from cataloger.sending import Sender


class MemoryDoorbells:
    """The twin of `BusDoorbells`: one ring and one appointment a subscription, as the stream keeps them."""

    def __init__(self) -> None:
        self.rung: dict[str, Ring] = {}
        self.appointed: dict[str, datetime] = {}
        self.letters: dict[tuple[str, str], str] = {}
        """Why a delivery was set aside, by subscription and event."""

    async def ring(self, subscription: str) -> None:
        self.rung[subscription] = Ring(subscription)

    async def ring_at(self, subscription: str, when: datetime) -> None:
        self.appointed[subscription] = when

    async def set_aside(self, delivery: Delivery, why: str) -> None:
        self.letters[delivery.webhook, delivery.event] = why

    async def answered_by(self, sender: Sender) -> None:
        """Everything that rings is answered, all at once, until nothing rings."""
        while self.rung:
            rung, self.rung = self.rung, {}
            await asyncio.gather(*map(sender.answer, rung.values()))

    async def all_told_by(self, sender: Sender) -> None:
        """All that is due now is told, as far as it can be."""
        await sender.sweep()
        await self.answered_by(sender)
