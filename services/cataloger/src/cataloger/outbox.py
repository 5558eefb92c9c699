"""What is to be told to whom, in the database: written in the transaction that takes a fact in, so that nothing lies between.

A row is claimed for as long as its lease; how a try ended is noted in it. Who tries, and when, is `sending`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from cataloger.database import Database
from cataloger.facts import Fact, cloud_event_of
from cataloger.models import Delivery, Webhook
from cataloger.records import storable
from cataloger.webhooks import LINEAGE, wanting

RETRY_AFTER = tuple(timedelta(seconds=s) for s in (5, 60, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400))
"""Waits between tries, about three days in all; after the last a delivery is dead, and stays to be looked at and sent again."""
LEASE = timedelta(seconds=90)
"""How long a claimed row is its process's own; what one that was killed had claimed is tried again after it."""
BATCH = 20
"""Rows of one subscription that are claimed at once, oldest first."""
KEEP = timedelta(days=7)
"""How long what was delivered is kept."""


class Telling:
    """What one transaction has to tell, and to whom."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self.told: set[str] = set()
        """The subscriptions that have something due once the transaction is committed."""

    async def tell(self, fact: Fact, source: str, *, also: Sequence[str] = ()) -> None:
        """Have a fact told to every subscription that wants it, and to `also`."""
        about = {"source": source, "job": fact.job, "volume": fact.volume, "state": fact.data.get("state")}
        to = [*await wanting(self._session, fact.type, about), *also]
        body = storable(cloud_event_of(fact, source))
        now = datetime.now(UTC)
        for name in to:
            row = {"webhook": name, "event": fact.id, "body": body, "state": "pending", "tries": 0, "error": ""}
            await self._session.execute(self._insert().values(**row, next_try=now, created_at=now).on_conflict_do_nothing())
        self.told.update(to)

    def _insert(self) -> postgresql.Insert | sqlite.Insert:
        dialect = self._session.get_bind().dialect.name
        return postgresql.insert(Delivery) if dialect == "postgresql" else sqlite.insert(Delivery)


class Outbox:
    """The rows, claimed and noted in."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def due(self) -> list[str]:
        """The subscriptions that have something due which nobody holds."""
        query = select(Delivery.webhook).where(Delivery.state == "pending", Delivery.next_try <= datetime.now(UTC)).distinct()
        async with self._database.reading() as session:
            return list((await session.execute(query)).scalars())

    async def next_try(self, name: str) -> datetime | None:
        """When the next row of a subscription is due; None where none is left."""
        query = select(Delivery.next_try).where(Delivery.webhook == name, Delivery.state == "pending")
        async with self._database.reading() as session:
            return (await session.execute(query.order_by(Delivery.next_try).limit(1))).scalar_one_or_none()

    async def claim(self, name: str) -> tuple[Webhook | None, list[Delivery]]:
        """A subscription and its next rows that are due: they are ours until the lease ends."""
        now = datetime.now(UTC)
        async with self._database.writing() as session:
            hook = await session.get(Webhook, name)
            if hook is None and name != LINEAGE:
                # Told of in a transaction that had seen the subscription before it was ended.
                await session.execute(delete(Delivery).where(Delivery.webhook == name))
                return None, []
            due = select(Delivery).where(Delivery.webhook == name, Delivery.state == "pending", Delivery.next_try <= now)
            due = due.order_by(Delivery.created_at, Delivery.event).limit(BATCH).with_for_update(skip_locked=True)
            batch = list((await session.execute(due)).scalars())
            for delivery in batch:
                delivery.next_try = now + LEASE
        return hook, batch

    async def give_back(self, name: str, batch: Sequence[Delivery]) -> None:
        """Claimed rows that were not tried are due again."""
        mine = (Delivery.webhook == name, Delivery.event.in_([d.event for d in batch]), Delivery.state == "pending")
        async with self._database.writing() as session:
            await session.execute(update(Delivery).where(*mine).values(next_try=datetime.now(UTC)))

    async def delivered(self, delivery: Delivery) -> None:
        """The receiver took it."""
        async with self._database.writing() as session:
            await self._set(session, delivery, state="delivered", error="")

    async def failed(self, delivery: Delivery, error: str) -> None:
        """A try failed: there is another after a while, unless it was the last. Rows behind it wait with it, in their order."""
        next_try = datetime.now(UTC) + RETRY_AFTER[min(delivery.tries, len(RETRY_AFTER) - 1)]
        async with self._database.writing() as session:
            state = "dead" if was_last(delivery) else "pending"
            await self._set(session, delivery, state=state, error=error, next_try=next_try)
            behind = (
                Delivery.webhook == delivery.webhook,
                Delivery.state == "pending",
                Delivery.created_at >= delivery.created_at,
                Delivery.event != delivery.event,
            )
            await session.execute(update(Delivery).where(*behind).values(next_try=next_try))

    async def forget_old(self) -> None:
        """What was delivered long ago is not listed any more."""
        old = (Delivery.state == "delivered", Delivery.created_at < datetime.now(UTC) - KEEP)
        async with self._database.writing() as session:
            await session.execute(delete(Delivery).where(*old))

    async def _set(self, session: AsyncSession, delivery: Delivery, **values: Any) -> None:
        mine = (Delivery.webhook == delivery.webhook, Delivery.event == delivery.event)
        await session.execute(update(Delivery).where(*mine).values(tries=delivery.tries + 1, **values))


def was_last(delivery: Delivery) -> bool:
    """Whether a row has no try left after the one being made."""
    return delivery.tries >= len(RETRY_AFTER)
