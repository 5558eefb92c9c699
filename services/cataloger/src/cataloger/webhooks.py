"""Telling others what happened: each event once to each subscription that wants it, for as long as that takes (up to three days).

What is to be told is written in the transaction that takes the fact in, so nothing is lost and nobody is waited for.
Signatures and headers are those of Standard Webhooks (https://www.standardwebhooks.com): `webhook-id`, `webhook-timestamp`,
`webhook-signature: v1,<base64 of HMAC-SHA256 over "<id>.<timestamp>.<body>">`; the body is a CloudEvent in structured mode.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import hmac
import json
import secrets
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpcore
from pydantic import Field, field_validator
from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cataloger.database import Database
from cataloger.errors import NotInCatalogError
from cataloger.models import Delivery, Webhook
from emporter_contracts.commands import Message
from emporter_contracts.errors import EmporterError
from emporter_runtime.addresses import PublicBackend
from emporter_runtime.logging import get_logger

LINEAGE = "openlineage"
"""The subscription of the OpenLineage backend of the settings; no webhook has this id."""
RETRY_AFTER = tuple(timedelta(seconds=s) for s in (5, 60, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400))
"""Waits between tries, about three days in all; after the last a delivery is dead, and stays to be looked at and sent again."""
TIMEOUT_SECONDS = 15.0
"""Of one try; Standard Webhooks asks receivers to answer within 15 s."""
LEASE = timedelta(seconds=90)
"""How long a try is its process's own; one that was killed meanwhile is tried again after it."""
BATCH = 20
"""Deliveries of one subscription that are taken at once, and sent one after the other, oldest first."""
SUBSCRIPTIONS_AT_ONCE = 32
LOOK_SECONDS = 1.0
KEEP = timedelta(days=7)
"""How long what was delivered is kept."""
ANSWER_CHARACTERS = 300
FILTERS = ("source", "job", "volume", "state")

log = get_logger(__name__)
Send = Callable[[Webhook, Delivery], Awaitable[None]]


class DeliveryFailedError(EmporterError):
    """A receiver did not take an event."""

    code = "delivery_failed"


class Subscription(Message):
    """What is asked for: `types` empty means all; each member of `filter` must equal the event's."""

    url: str = Field(max_length=2048)
    types: tuple[str, ...] = Field((), max_length=20)
    filter: dict[str, str] = {}

    @field_validator("url")
    @classmethod
    def _plain(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise ValueError("an http(s) URL without credentials")
        return value

    @field_validator("filter")
    @classmethod
    def _known(cls, value: dict[str, str]) -> dict[str, str]:
        if strange := value.keys() - set(FILTERS):
            raise ValueError(f"no filter {min(strange)!r}: one of {', '.join(FILTERS)}")
        return value


class Webhooks:
    """Subscriptions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def subscribe(self, asked: Subscription) -> dict[str, Any]:
        """A new subscription with its secret, which is told this once."""
        row = Webhook(
            id=secrets.token_hex(8), url=asked.url, secret="whsec_" + base64.b64encode(secrets.token_bytes(32)).decode(),
            types=list(asked.types), filter=asked.filter, active=True, created_at=datetime.now(UTC),
        )  # fmt: skip
        async with self._database.writing() as session:
            session.add(row)
        return {**_shown(row), "secret": row.secret}

    async def all(self) -> list[dict[str, Any]]:
        async with self._database.reading() as session:
            return [_shown(row) for row in (await session.execute(select(Webhook).order_by(Webhook.created_at))).scalars()]

    async def unsubscribe(self, identity: str) -> None:
        """Raises NotInCatalogError."""
        async with self._database.writing() as session:
            gone = await session.execute(delete(Webhook).where(Webhook.id == identity).returning(Webhook.id))
            if gone.first() is None:
                raise _no_webhook(identity)
            await session.execute(delete(Delivery).where(Delivery.webhook == identity))

    async def deliveries(self, identity: str, state: str | None, limit: int) -> list[dict[str, Any]]:
        """The newest deliveries of a subscription. Raises NotInCatalogError."""
        async with self._database.reading() as session:
            if await session.get(Webhook, identity) is None:
                raise _no_webhook(identity)
            query = select(Delivery).where(Delivery.webhook == identity)
            query = query.where(Delivery.state == state) if state else query
            found = await session.execute(query.order_by(Delivery.created_at.desc(), Delivery.event).limit(limit))
            return [_told(row) for row in found.scalars()]

    async def retry(self, identity: str) -> int:
        """Send what is dead once more, and take the subscription up again; how many deliveries."""
        async with self._database.writing() as session:
            row = await session.get(Webhook, identity)
            if row is None:
                raise _no_webhook(identity)
            row.active = True
            dead = update(Delivery).where(Delivery.webhook == identity, Delivery.state == "dead")
            again = dead.values(state="pending", tries=0, next_try=datetime.now(UTC)).returning(Delivery.event)
            return len((await session.execute(again)).all())


class Sender:
    """Sends what is due, subscription by subscription, so that a slow receiver keeps only itself waiting."""

    def __init__(self, database: Database, send: Send, lineage: Callable[[Delivery], Awaitable[None]] | None = None) -> None:
        self._database = database
        self._send = send
        self._lineage = lineage
        self._busy: dict[str, asyncio.Task[None]] = {}

    async def send_for_ever(self) -> None:
        """Look each LOOK_SECONDS; a database that is away is looked at again."""
        try:
            while True:
                try:
                    await self.start_due()
                except EmporterError as error:
                    log.warning("deliveries_unknown", error=error.message)
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            for task in self._busy.values():
                task.cancel()

    async def send_due(self) -> None:
        """All that is due now, to the end."""
        await self.start_due()
        while self._busy:
            await asyncio.gather(*self._busy.values())
            await self.start_due()

    async def start_due(self) -> None:
        """Begin with every subscription that has something due and is not being told already."""
        now = datetime.now(UTC)
        due = select(Delivery.webhook).where(Delivery.state == "pending", Delivery.next_try <= now).distinct()
        async with self._database.reading() as session:
            names = list((await session.execute(due)).scalars())
        for name in names:
            if name not in self._busy and len(self._busy) < SUBSCRIPTIONS_AT_ONCE:
                task = asyncio.create_task(self._tell(name), name=f"webhook-{name}")
                self._busy[name] = task
                task.add_done_callback(functools.partial(self._done, name))

    def _done(self, name: str, _: asyncio.Task[None]) -> None:
        del self._busy[name]

    async def _tell(self, name: str) -> None:
        try:
            hook, batch = await self._claim(name)
            for delivery in batch:
                if not await self._try(hook, delivery):
                    return
        except EmporterError as error:
            log.warning("deliveries_unknown", error=error.message)

    async def _claim(self, name: str) -> tuple[Webhook | None, list[Delivery]]:
        """The next deliveries of a subscription: they are ours until the lease ends."""
        now = datetime.now(UTC)
        async with self._database.writing() as session:
            hook = await session.get(Webhook, name)
            due = select(Delivery).where(Delivery.webhook == name, Delivery.state == "pending", Delivery.next_try <= now)
            due = due.order_by(Delivery.created_at, Delivery.event).limit(BATCH).with_for_update(skip_locked=True)
            batch = list((await session.execute(due)).scalars())
            for delivery in batch:
                delivery.next_try = now + LEASE
            await session.execute(delete(Delivery).where(Delivery.state == "delivered", Delivery.created_at < now - KEEP))
        return hook, batch

    async def _try(self, hook: Webhook | None, delivery: Delivery) -> bool:
        """One try; whether the receiver took it."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS * 2):
                if delivery.webhook == LINEAGE and self._lineage is not None:
                    await self._lineage(delivery)
                elif hook is not None and hook.active:
                    await self._send(hook, delivery)
                else:
                    raise DeliveryFailedError("nobody is there to be told")
        except (
            EmporterError,
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.TimeoutException,
            OSError,
            TimeoutError,
        ) as error:
            await self._note(delivery, str(error)[:ANSWER_CHARACTERS] or type(error).__name__)
            return False
        await self._note(delivery, "")
        return True

    async def _note(self, delivery: Delivery, error: str) -> None:
        tries = delivery.tries + 1
        values: dict[str, Any] = {"tries": tries, "error": error, "state": "delivered"}
        if error:
            dead = tries > len(RETRY_AFTER)
            wait = RETRY_AFTER[min(tries, len(RETRY_AFTER)) - 1]
            values |= {"state": "dead" if dead else "pending", "next_try": datetime.now(UTC) + wait}
            log.info("delivery_failed", webhook=delivery.webhook, event_id=delivery.event, tries=tries, dead=dead, error=error)
        mine = (Delivery.webhook == delivery.webhook, Delivery.event == delivery.event)
        async with self._database.writing() as session:
            await session.execute(update(Delivery).where(*mine).values(values))
            if error:
                # Those claimed with it go back: they keep their order behind it.
                held = (
                    Delivery.webhook == delivery.webhook,
                    Delivery.state == "pending",
                    Delivery.created_at >= delivery.created_at,
                )
                await session.execute(
                    update(Delivery).where(*held, Delivery.event != delivery.event).values(next_try=values["next_try"])
                )


class Post:
    """POSTs a delivery; follows no redirect, and connects to public addresses only unless told otherwise."""

    def __init__(self, *, allow_private: bool) -> None:
        backend = None if allow_private else PublicBackend()
        self._pool = httpcore.AsyncConnectionPool(max_connections=SUBSCRIPTIONS_AT_ONCE, network_backend=backend)

    async def close(self) -> None:
        await self._pool.aclose()

    async def __call__(self, hook: Webhook, delivery: Delivery) -> None:
        """Raises DeliveryFailedError for any answer but 2xx."""
        body = json.dumps(delivery.body, separators=(",", ":")).encode()
        seconds = dict.fromkeys(("connect", "read", "write", "pool"), TIMEOUT_SECONDS)
        signed = headers(hook.secret, delivery.event, body, int(datetime.now(UTC).timestamp()))
        async with self._pool.stream(
            "POST", hook.url, headers=list(signed.items()), content=body, extensions={"timeout": seconds}
        ) as answer:
            if not 200 <= answer.status < 300:
                raise DeliveryFailedError(f"the receiver answered {answer.status}")


def headers(secret: str, identity: str, body: bytes, timestamp: int) -> dict[str, str]:
    """The headers of a signed body (Standard Webhooks 1.0)."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"{identity}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return {
        "content-type": "application/cloudevents+json; charset=utf-8",
        "content-length": str(len(body)),
        "user-agent": "emporter-cataloger",
        "webhook-id": identity,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


async def wanting(session: AsyncSession, kind: str, about: dict[str, str | None]) -> list[str]:
    """The subscriptions that want an event of this type and content."""
    hooks = (await session.execute(select(Webhook).where(Webhook.active.is_(True)))).scalars()
    return [h.id for h in hooks if (not h.types or kind in h.types) and all(about.get(k) == v for k, v in h.filter.items())]


def _shown(row: Webhook) -> dict[str, Any]:
    created = row.created_at.isoformat().replace("+00:00", "Z")
    return {"id": row.id, "url": row.url, "types": row.types, "filter": row.filter, "active": row.active, "created_at": created}


def _told(row: Delivery) -> dict[str, Any]:
    next_try = row.next_try.isoformat() if row.state == "pending" else None
    return {
        "event": row.event,
        "state": row.state,
        "tries": row.tries,
        "next_try": next_try,
        "error": row.error,
        "body": row.body,
    }


def _no_webhook(identity: str) -> NotInCatalogError:
    return NotInCatalogError(f"there is no webhook {identity[:40]}", hint="GET /v1/webhooks lists them")
