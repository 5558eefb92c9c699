"""Who is told what: subscriptions, and what became of their deliveries.

What is to be told is written in the transaction that takes a fact in (`outbox`), so nothing is lost and nobody is waited for;
each event is told once to each subscription that wants it, for as long as that takes (`sending`, up to three days).
"""

from __future__ import annotations

import base64
import secrets
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator
from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cataloger.database import Database
from cataloger.doorbells import RingFor, ring_nobody
from cataloger.errors import NotInCatalogError
from cataloger.models import Delivery, Webhook
from emporter_contracts.commands import Message

LINEAGE = "openlineage"
"""The subscription of the OpenLineage backend of the settings; no webhook has this id."""
FILTERS = ("source", "job", "volume", "state")


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
    """Subscriptions. `ring` rings the doorbell of one that is to be told something again."""

    def __init__(self, database: Database, ring: RingFor = ring_nobody) -> None:
        self._database = database
        self._ring = ring

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
            if identity != LINEAGE and await session.get(Webhook, identity) is None:
                raise _no_webhook(identity)
            query = select(Delivery).where(Delivery.webhook == identity)
            query = query.where(Delivery.state == state) if state else query
            found = await session.execute(query.order_by(Delivery.created_at.desc(), Delivery.event).limit(limit))
            return [_told(row) for row in found.scalars()]

    async def retry(self, identity: str) -> int:
        """Send what is dead once more, and take the subscription up again; how many deliveries. Raises NotInCatalogError."""
        async with self._database.writing() as session:
            row = await session.get(Webhook, identity)
            if row is not None:
                row.active = True
            elif identity != LINEAGE:
                raise _no_webhook(identity)
            dead = update(Delivery).where(Delivery.webhook == identity, Delivery.state == "dead")
            again = dead.values(state="pending", tries=0, next_try=datetime.now(UTC)).returning(Delivery.event)
            count = len((await session.execute(again)).all())
        await self._ring(identity)
        return count


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
