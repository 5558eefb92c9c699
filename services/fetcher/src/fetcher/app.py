"""Wiring: broker, store, sources, steward, health."""

from __future__ import annotations

from emporter_runtime import failures
from emporter_runtime.bus import Bus
from emporter_runtime.health import health_app, serving
from emporter_runtime.heartbeat import Workers
from emporter_runtime.jobstore import JobStore
from emporter_runtime.ledger import Ledger
from emporter_runtime.objects import Objects
from emporter_runtime.plans import StoredPlans
from emporter_runtime.policy.judging import Policy
from emporter_runtime.service import forever
from emporter_runtime.stewarding import Steward
from fetcher.handlers import Rooms, register
from fetcher.intake import Intake
from fetcher.policy import RequestRules
from fetcher.resolving import Resolver
from fetcher.settings import FetcherSettings
from fetcher.sources.registry import all_sources
from fetcher.steward import FetchSteward


def furnish(settings: FetcherSettings) -> Rooms:
    """Everything the fetcher needs, not yet connected."""
    objects = Objects.open(settings)
    bus = Bus(settings, "fetcher")
    jobs, ledger, plans = JobStore(bus, objects), Ledger(bus), StoredPlans(objects)
    failures.install(bus, jobs)
    sources = all_sources(settings, objects)
    steward = Steward(bus, jobs, "fetch", FetchSteward(bus, jobs, ledger, objects, plans).look)
    rules = RequestRules(Policy.read(settings.policy), bus)
    resolver = Resolver(settings, objects, jobs, plans, sources, steward.reserved, rules)
    intake = Intake(bus, jobs, objects, set(sources), resolver.resolve, rules)
    workers = Workers(jobs, settings.ack_wait_seconds, threads=2)
    rooms = Rooms(settings, bus, jobs, ledger, objects, plans, workers, sources, resolver, intake, steward)
    register(rooms)
    return rooms


async def serve(settings: FetcherSettings) -> None:
    """Fetch until cancelled."""
    rooms = furnish(settings)
    app = health_app({"bus": rooms.bus.ready, "store": rooms.objects.ready})
    try:
        async with serving(app, settings.http_host, settings.http_port), rooms.bus.running(), rooms.steward.stewarding():
            await forever()
    finally:
        rooms.workers.close()
        for source in rooms.sources.values():
            await source.close()
