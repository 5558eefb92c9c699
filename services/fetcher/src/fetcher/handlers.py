"""Messages in, one domain call each, events out."""

from __future__ import annotations

from dataclasses import dataclass

from emporter_contracts import ids, storage, subjects
from emporter_contracts.commands import Accepted, Control, FetchBatch, FinishFetch, IngestRequest, PlanFetch
from emporter_contracts.errors import RefusedError
from emporter_contracts.events import RawManifestComplete, RawObjectStored
from emporter_contracts.plans import FetchPlan
from emporter_contracts.policy import PURPOSE_HEADER
from emporter_contracts.previews import PlanSummary
from emporter_contracts.topology import SOURCES
from emporter_runtime.bus import Bus, Delivery, event_id
from emporter_runtime.deadletters import handle_dead_letters
from emporter_runtime.failures import reply
from emporter_runtime.heartbeat import Workers, kept_alive
from emporter_runtime.jobstore import JobStore
from emporter_runtime.ledger import Ledger
from emporter_runtime.objects import Objects
from emporter_runtime.plans import StoredPlans, required
from emporter_runtime.stewarding import Steward
from emporter_runtime.telemetry import STORED_BYTES
from fetcher.downloading import StoredUnit, store_units
from fetcher.intake import Intake
from fetcher.previewing import previewed
from fetcher.resolving import Resolver
from fetcher.settings import FetcherSettings
from fetcher.sources.protocol import Source
from fetcher.verifying import finish


@dataclass(frozen=True, slots=True)
class Rooms:
    """What the handlers work with."""

    settings: FetcherSettings
    bus: Bus
    jobs: JobStore
    ledger: Ledger
    objects: Objects
    plans: StoredPlans
    workers: Workers
    sources: dict[str, Source]
    resolver: Resolver
    intake: Intake
    steward: Steward


def register(rooms: Rooms) -> None:
    """Subscribe every handler."""
    _register_requests(rooms)
    _register_planning(rooms)
    for name in rooms.sources:
        _register_batches(rooms, name)
    handle_dead_letters(rooms.bus, rooms.jobs, "fetcher-dead-letters")


def _register_requests(rooms: Rooms) -> None:
    @rooms.bus.consume("fetcher-intake", workers=2)
    async def on_request(request: IngestRequest, delivery: Delivery) -> None:
        async with kept_alive(delivery, rooms.settings.ack_wait_seconds):
            accepted = await rooms.intake.take(request, delivery)
        await reply(rooms.bus, delivery, accepted)

    @rooms.bus.answer(subjects.INGEST_PLAN, queue="fetcher")
    async def on_dry_run(request: IngestRequest, delivery: Delivery) -> PlanSummary:
        rooms.intake.check(request, len(delivery.body))
        plan = await rooms.resolver.summary(request, ids.job_id(request), delivery.headers.get(PURPOSE_HEADER, ""))
        return plan.model_copy(update={"conversion": await previewed(rooms.bus, plan.volumes, request.output)})

    @rooms.bus.answer(subjects.INGEST_CONTROL, queue="fetcher")
    async def on_control(control: Control, delivery: Delivery) -> Accepted:
        job = delivery.subject.removeprefix(subjects.control(""))
        if not ids.is_volume_id(job):
            raise RefusedError(f"{job[:140]!r} is no job", code="unknown_job", hint="emporter jobs lists them")
        verbs = {
            "cancel": rooms.intake.cancel,
            "retry": rooms.intake.retry,
            "pause": rooms.intake.pause,
            "resume": rooms.intake.resume,
        }
        return await verbs[control.action](job)


def _register_planning(rooms: Rooms) -> None:
    @rooms.bus.consume("fetcher-plan")
    async def on_plan(command: PlanFetch, delivery: Delivery) -> None:
        async with rooms.workers.on(command, delivery):
            if await rooms.plans.plan(command.job, command.revision) is None:
                plan = await rooms.resolver.plan(command)
                await rooms.objects.put_json(storage.RAW, storage.plan(command.job, command.revision), plan)
            rooms.steward.soon(command.job)

    @rooms.bus.consume("fetcher-finish")
    async def on_finish(command: FinishFetch, delivery: Delivery) -> None:
        async with rooms.workers.on(command, delivery):
            plan = required(await rooms.plans.plan(command.job, command.revision), "the plan")
            if await rooms.plans.manifest(command.job, command.revision) is None:
                wildcard = subjects.raw_objects_stored(command.job, command.revision)
                entries = {e.unit: e async for e in rooms.ledger.entries(wildcard, RawObjectStored)}
                manifest = await finish(plan, entries, rooms.objects, rooms.sources[plan.source])
                await rooms.objects.put_json(storage.RAW, storage.manifest(command.job, command.revision), manifest)
            complete = RawManifestComplete.of(command, objects=len(plan.objects), bytes=plan.raw_bytes)
            identity = event_id(complete, "raw.manifest.complete")
            await rooms.bus.publish(subjects.raw_manifest_complete(command.job), complete, identity, "EVENTS")


def _register_batches(rooms: Rooms, source: str) -> None:
    @rooms.bus.consume(f"fetcher-batch-{source}", workers=min(SOURCES[source], rooms.settings.segments_in_flight))
    async def on_batch(command: FetchBatch, delivery: Delivery) -> None:
        async with rooms.workers.on(command, delivery) as work:
            plan = required(await rooms.plans.plan(command.job, command.revision), "the plan")
            done = await rooms.ledger.subjects(subjects.raw_objects_stored(command.job, command.revision))
            units = [unit for unit in plan.batches[command.n] if _subject(plan, unit.id) not in done]

            async def entered(stored: StoredUnit) -> None:
                entry = RawObjectStored.of(command, unit=stored.unit, bytes=stored.bytes, sha256=stored.sha256, etag=stored.etag)
                await rooms.ledger.enter(_subject(plan, stored.unit), entry)
                STORED_BYTES.labels(source).inc(stored.bytes)
                rooms.steward.soon(command.job)
                work.check()

            await store_units(plan, units, rooms.sources[source], rooms.objects, entered)


def _subject(plan: FetchPlan, unit: str) -> str:
    return subjects.raw_object_stored(plan.job, plan.revision, unit)
