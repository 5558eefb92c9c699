"""Wiring: database, store, bus, routes; nothing else."""

from __future__ import annotations

import asyncio
import functools

from starlette.middleware import Middleware

from cataloger.api import corrections, graphql, hooks, writes
from cataloger.api import policy as policy_routes
from cataloger.api.gate import CatalogGate
from cataloger.api.guard import WriteGuard
from cataloger.api.rest import build
from cataloger.curation import Curation
from cataloger.database import Database, migrated, patiently
from cataloger.doorbells import BusDoorbells
from cataloger.feed import Feed
from cataloger.handlers import answer_doorbells, register
from cataloger.holds import Holds
from cataloger.intake import Intake
from cataloger.openlineage import Backend, LineageSender
from cataloger.outbox import Outbox
from cataloger.policy import Policies
from cataloger.posting import Post
from cataloger.queries import Catalog
from cataloger.removal import Removals
from cataloger.repository import rederive
from cataloger.revising import Corrections, asking
from cataloger.sending import Sender
from cataloger.settings import CatalogerSettings
from cataloger.webhooks import LINEAGE, Webhooks
from emporter_runtime.bus import Bus
from emporter_runtime.health import Check, serving
from emporter_runtime.objects import Objects
from emporter_runtime.policy.judging import Policy


async def serve(settings: CatalogerSettings) -> None:
    """Run until cancelled. What is asked over HTTP is answered while the bus is away. Raises AccessSettingsError."""
    access = settings.who_may_read()
    database = Database.open(settings.database_url)
    objects = Objects.open(settings)
    feed = Feed()
    lineage = Backend(settings.openlineage_url, settings.openlineage_file)
    bus = Bus(settings, service="cataloger")
    doorbells = BusDoorbells(bus)
    also = [LINEAGE] if lineage.wanted else []
    intake = Intake(database, objects, feed, states_also_to=also, ring=doorbells.ring)
    post = Post(allow_private=settings.webhook_allow_private)
    sender = Sender(Outbox(database), doorbells, post, LineageSender(database, lineage))
    removals = Removals(database, objects, intake)
    catalog = Catalog(database, settings.catalog_url, settings.blocks_url)
    policy = Policy.read(settings.policy)
    policies, holds = Policies(database, catalog, policy), Holds(database, objects, intake, policy)
    register(bus, intake, catalog)
    answer_doorbells(bus, sender)
    checks: dict[str, Check] = {"bus": bus.ready, "database": database.ready, "store": objects.ready}
    guard = WriteGuard(settings.catalog_token.get_secret_value(), settings.http_host)
    entering = writes.routes(Curation(database, objects), guard)
    correcting = corrections.routes(Corrections(asking(bus), objects, intake), guard)
    telling = hooks.routes(Webhooks(database, doorbells.ring), guard)
    more = (entering, correcting, graphql.routes(catalog), telling, policy_routes.routes(policies))
    app = build(catalog, removals, feed, checks, settings.stream_keep_alive_seconds, *more)
    if access is not None:
        # Innermost: a browser may ask whether it may ask.
        app.user_middleware.append(Middleware(CatalogGate, access=access, write_token=settings.catalog_token.get_secret_value()))
    try:
        async with serving(app, settings.http_host, settings.http_port):
            try:
                await migrated(database)
                await policies.remember()
                async with bus.running(), asyncio.TaskGroup() as tasks:
                    tasks.create_task(patiently(functools.partial(rederive, database)))
                    tasks.create_task(sender.sweep_for_ever(settings.sweep_seconds))
                    tasks.create_task(holds.sweep_for_ever(settings.sweep_seconds))
                    await removals.sweep_for_ever(settings.sweep_seconds)
            finally:
                feed.close()
    finally:
        await asyncio.shield(post.close())
        await asyncio.shield(database.close())
