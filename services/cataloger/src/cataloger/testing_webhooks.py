"""A receiver of webhooks, and what a cataloger process has of them, on a real bus."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Self

from prometheus_client import REGISTRY
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from cataloger.database import Database
from cataloger.doorbells import BusDoorbells
from cataloger.handlers import answer_doorbells
from cataloger.models import Delivery, Webhook
from cataloger.outbox import Outbox
from cataloger.posting import Post
from cataloger.sending import Sender
from cataloger.webhooks import Webhooks
from emporter_runtime.bus import Bus
from emporter_runtime.health import serving
from emporter_runtime.settings import Settings

WAIT = 60
"""Seconds until a claim that never comes true is a failure."""


class Receiver:
    """Answers as it is told, and counts how often it got which event."""

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()
        self.bodies: list[Any] = []
        self.answer = 200
        self.held: asyncio.Event | None = None

    async def take(self, request: Request) -> PlainTextResponse:
        self.events[request.headers["webhook-id"]] += 1
        self.bodies.append(json.loads(await request.body()))
        if self.held is not None:
            await self.held.wait()
        return PlainTextResponse("", self.answer)

    @asynccontextmanager
    async def up(self) -> AsyncIterator[str]:
        async with serving(Starlette(routes=[Route("/hook", self.take, methods=["POST"])]), "127.0.0.1", 0) as port:
            yield f"http://127.0.0.1:{port}/hook"


class Process:
    """What a cataloger process has of webhooks."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.bus = Bus(settings, "cataloger")
        self.bells = BusDoorbells(self.bus)
        self.post = Post(allow_private=True)
        self.outbox = Outbox(database)
        self.posted = 0
        self.sender = Sender(self.outbox, self.bells, self._send)
        self.hooks = Webhooks(database, self.bells.ring)
        answer_doorbells(self.bus, self.sender)

    async def _send(self, hook: Webhook, delivery: Delivery) -> None:
        self.posted += 1
        await self.post(hook, delivery)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        async with self.bus.running():
            yield self
        await self.post.close()

    async def kept(self, subscription: str) -> set[str]:
        """The subjects of a subscription that the stream holds now: its doorbell, its appointment."""
        found = (await self.bus.js.stream_info("WEBHOOKS", subjects_filter="webhooks.>")).state.subjects or {}
        return {name.removesuffix(f".{subscription}") for name in found if name.endswith(f".{subscription}")}

    async def letters(self) -> int:
        return (await self.bus.js.stream_info("DLQ")).state.messages


def dead_letters_counted() -> float:
    """What Grafana warns of."""
    labels = {"consumer": "cataloger-webhooks", "outcome": "dead_letter"}
    return REGISTRY.get_sample_value("emporter_failures_classified_total", labels) or 0


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Return when something holds."""
    async with asyncio.timeout(WAIT):
        while not await holds():
            await asyncio.sleep(0.01)


async def until_states(hooks: Webhooks, hook: dict[str, Any], state: str, count: int) -> None:
    async def there() -> bool:
        return len(await hooks.deliveries(hook["id"], state, 1000)) == count

    await until(there)


async def until_quiet(process: Process) -> None:
    """Every doorbell that rang was answered."""

    async def quiet() -> bool:
        info = await process.bus.js.consumer_info("WEBHOOKS", "cataloger-webhooks")
        return (info.num_pending, info.num_ack_pending) == (0, 0)

    await process.bus.connection.flush()
    await until(quiet)


async def until_kept(process: Process, subscription: str, subjects: set[str]) -> None:
    """The stream holds just these of a subscription. What was answered leaves it a moment after the answer."""

    async def so() -> bool:
        return await process.kept(subscription) == subjects

    await until(so)
