"""What comes over the bus: message in, one call, answer out."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, TypeAdapter

from cataloger.doorbells import CONSUMER, Ring
from cataloger.facts import fact_of_decisions, fact_of_event, fact_of_status
from cataloger.intake import Intake
from cataloger.queries import Catalog
from cataloger.sending import SUBSCRIPTIONS_AT_ONCE, Sender
from emporter_contracts import subjects
from emporter_contracts.commands import CatalogQuery
from emporter_contracts.events import (
    LevelComplete,
    RawManifestComplete,
    RawPlanReady,
    RunEvent,
    VolumeComplete,
    event_type,
)
from emporter_contracts.jobs import JobStatus
from emporter_contracts.policy import PolicyDecided
from emporter_runtime.bus import Bus, Delivery
from emporter_runtime.heartbeat import kept_alive

EVENTS: dict[str, type[RunEvent | PolicyDecided]] = {
    event_type(model): model for model in (RawPlanReady, RawManifestComplete, LevelComplete, VolumeComplete, PolicyDecided)
}
"""What the consumer `cataloger-events` delivers, by `ce-type`."""


def _known(kind: str) -> str:
    if kind not in EVENTS:
        raise ValueError(f"ce-type {kind!r} is none the catalog knows")
    return kind


_KIND: TypeAdapter[str] = TypeAdapter(Annotated[str, AfterValidator(_known)])


def read_event(body: bytes, delivery: Delivery) -> RunEvent | PolicyDecided:
    """The event in a body, by its `ce-type`. Raises pydantic.ValidationError, which makes it a dead letter."""
    kind = _KIND.validate_python(delivery.headers.get("ce-type", ""))
    return EVENTS[kind].model_validate_json(body)


async def take_event(intake: Intake, event: RunEvent | PolicyDecided, delivery: Delivery) -> None:
    """What an event does, by its type."""
    if isinstance(event, PolicyDecided):
        await intake.decided(event, fact_of_decisions(event, delivery))
        return
    fact = fact_of_event(event, delivery)
    if isinstance(event, RawPlanReady):
        await intake.plan_ready(event, fact)
    elif isinstance(event, RawManifestComplete):
        await intake.manifest_complete(event, fact)
    elif isinstance(event, VolumeComplete):
        await intake.volume_complete(event, fact)
    else:
        await intake.listed(fact)


async def take_again(intake: Intake, delivery: Delivery) -> None:
    """A message of the streams once more, as its consumer took it. Raises pydantic.ValidationError."""
    if delivery.stream == "STATUS":
        status = JobStatus.model_validate_json(delivery.body)
        await intake.state_changed(status, fact_of_status(status, delivery))
    else:
        await take_event(intake, read_event(delivery.body, delivery), delivery)


def register(bus: Bus, intake: Intake, catalog: Catalog) -> None:
    """Consume states and events, and answer queries, on `bus`."""

    @bus.consume("cataloger-status")
    async def on_status(status: JobStatus, delivery: Delivery) -> None:
        await intake.state_changed(status, fact_of_status(status, delivery))

    @bus.consume("cataloger-events")
    async def on_event(body: bytes, delivery: Delivery) -> None:
        await take_event(intake, read_event(body, delivery), delivery)

    @bus.answer(subjects.CATALOG_QUERY, queue="cataloger")
    async def on_query(query: CatalogQuery, delivery: Delivery) -> dict[str, Any]:  # noqa: ARG001
        return await catalog.answer(query)


def answer_doorbells(bus: Bus, sender: Sender) -> None:
    """Tell subscriptions what is due when their doorbell rings on `bus`."""

    @bus.consume(CONSUMER, workers=SUBSCRIPTIONS_AT_ONCE)
    async def on_due(body: bytes, delivery: Delivery) -> None:  # noqa: ARG001
        ring = Ring.of(delivery)
        if ring is None:
            return
        async with kept_alive(delivery, bus.settings.ack_wait_seconds):
            await sender.answer(ring)
