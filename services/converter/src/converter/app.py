"""Wiring: broker, store, steward, health."""

from __future__ import annotations

from converter.answering import answer_revisions
from converter.handlers import Rooms, register
from converter.previewing import answer_previews
from converter.quality_policy import read_policy
from converter.settings import ConverterSettings
from converter.steward import ConvertSteward
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


def furnish(settings: ConverterSettings) -> Rooms:
    """Everything the converter needs, not yet connected."""
    objects = Objects.open(settings)
    bus = Bus(settings, "converter")
    jobs, ledger, plans = JobStore(bus, objects), Ledger(bus), StoredPlans(objects)
    failures.install(bus, jobs)
    steward = Steward(bus, jobs, "convert", ConvertSteward(bus, jobs, ledger, objects, plans).look)
    tasks = settings.converter_tasks
    workers = Workers(jobs, settings.ack_wait_seconds, threads=tasks + 2, large=tasks)
    gates, rules = read_policy(settings.quality_policy), Policy.read(settings.policy)
    rooms = Rooms(settings, bus, jobs, ledger, objects, plans, workers, steward, gates, rules)
    register(rooms)
    answer_revisions(bus, objects, rooms.policy, rooms.rules)
    answer_previews(bus, settings)
    return rooms


async def serve(settings: ConverterSettings) -> None:
    """Convert until cancelled."""
    rooms = furnish(settings)
    app = health_app({"bus": rooms.bus.ready, "store": rooms.objects.ready})
    try:
        async with serving(app, settings.http_host, settings.http_port), rooms.bus.running(), rooms.steward.stewarding():
            await forever()
    finally:
        rooms.workers.close()
