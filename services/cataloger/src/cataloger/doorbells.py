"""What the bus is to webhooks: a doorbell for each subscription, rung now or at a time the server keeps, and the dead letters.

A doorbell says nothing but whose it is. What is to be told lies in the outbox, so a ring that is lost, comes twice or is made up
changes nothing that is told; lost ones are made good by a sweep.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol, Self

import nats.errors

from cataloger.models import Delivery
from emporter_contracts import subjects
from emporter_contracts.commands import Refusal
from emporter_contracts.events import WebhookDue
from emporter_runtime import bus as runtime_bus
from emporter_runtime.failures import set_aside
from emporter_runtime.logging import get_logger
from emporter_runtime.telemetry import FAILURES

CONSUMER = "cataloger-webhooks"
STREAM = "WEBHOOKS"
SUBSCRIPTION = re.compile(r"[a-z0-9]{1,64}\Z")
"""What the id of a subscription looks like; no doorbell with another is ours."""
SCHEDULER = "Nats-Scheduler"
"""Header that nats-server gives a message it kept until its time."""

log = get_logger(__name__)
RingFor = Callable[[str], Awaitable[None]]
"""Rings the doorbell of a subscription."""


async def ring_nobody(_: str) -> None:
    """For whoever writes into the outbox without a bus: the sweep of a cataloger finds it."""


@dataclass(frozen=True, slots=True)
class Ring:
    """One ring of a subscription's doorbell."""

    subscription: str
    scheduled: bool = False
    """Whether the server rang it at the time it was given."""

    @classmethod
    def of(cls, delivery: runtime_bus.Delivery) -> Self | None:
        """None where no subscription can have this doorbell. What a message says beyond its subject is not looked at."""
        name = delivery.subject.removeprefix(subjects.webhook_due(""))
        if not SUBSCRIPTION.match(name):
            log.warning("doorbell_of_nobody", subject=delivery.subject[:100])
            return None
        if delivery.body.strip() not in (b"", b"{}"):
            log.warning("doorbell_only", subject=delivery.subject, hint=f"to send what is dead again: {send_again(name)}")
        return cls(name, scheduled=SCHEDULER in delivery.headers)


class Doorbells(Protocol):
    """What a sender needs of the bus."""

    async def ring(self, subscription: str) -> None:
        """Have somebody look soon. Never fails and never waits: what is lost is found by the sweep."""

    async def ring_at(self, subscription: str, when: datetime) -> None:
        """Have somebody look then; takes the place of the subscription's earlier appointment. Raises TransientError."""

    async def set_aside(self, delivery: Delivery, why: str) -> None:
        """Lay a delivery that is not tried any more with the other dead letters, once. Raises TransientError."""


class BusDoorbells:
    """Doorbells on NATS."""

    def __init__(self, bus: runtime_bus.Bus) -> None:
        self._bus = bus

    async def ring(self, subscription: str) -> None:
        if self._bus.connection is None:
            return
        try:
            await self._bus.tell(subjects.webhook_due(subscription), WebhookDue())
        except (nats.errors.Error, OSError) as error:
            log.info("doorbell_lost", webhook=subscription, error=repr(error))

    async def ring_at(self, subscription: str, when: datetime) -> None:
        await self._bus.publish(
            subjects.webhook_later(subscription),
            WebhookDue(),
            secrets.token_hex(16),
            STREAM,
            Nats_Schedule=f"@at {when.astimezone(UTC).isoformat().replace('+00:00', 'Z')}",
            Nats_Schedule_Target=subjects.webhook_due(subscription),
        )

    async def set_aside(self, delivery: Delivery, why: str) -> None:
        message = runtime_bus.Delivery(
            subject=subjects.webhook_due(delivery.webhook),
            headers={"content-type": "application/cloudevents+json", "Emporter-Webhook": delivery.webhook},
            body=json.dumps(delivery.body, separators=(",", ":")).encode(),
            stream=STREAM,
        )
        answer = Refusal(code="delivery_failed", message=f"{why}; {send_again(delivery.webhook)}", hint="")
        await set_aside(self._bus, message, answer, identity=f"webhook:{delivery.webhook}:{delivery.event}")
        FAILURES.labels(CONSUMER, "dead_letter").inc()


def send_again(subscription: str) -> str:
    """The command that sends what is dead once more."""
    return f"emporter webhooks retry {subscription}"
