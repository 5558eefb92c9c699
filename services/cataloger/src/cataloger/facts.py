"""A message as the catalog lists it: what was said, about what, and when."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from emporter_contracts.events import RunEvent, event_type
from emporter_contracts.jobs import JobStatus
from emporter_contracts.policy import PolicyDecided
from emporter_runtime.bus import Delivery


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of a volume's history. `id` is the same however often the message is delivered."""

    id: str
    type: str
    job: str
    revision: int
    generation: int
    at: datetime
    volume: str | None = None
    version: int | None = None
    data: dict[str, Any] = field(default_factory=dict)
    found: bool = False
    """Found in the store, not heard: it is listed only where nothing as new was heard."""


def fact_of_event(event: RunEvent, delivery: Delivery) -> Fact:
    """The fact in an event; all it says that is no column goes into `data`."""
    return Fact(
        id=delivery.event_id,
        type=event_type(type(event)),
        job=event.job,
        revision=event.revision,
        generation=event.generation,
        at=said_at(delivery),
        volume=getattr(event, "volume", None),
        data=event.model_dump(mode="json", exclude={"job", "revision", "generation", "volume"}),
    )


def fact_of_decisions(event: PolicyDecided, delivery: Delivery) -> Fact:
    """The fact in what a policy decided. A request that was refused before it claimed a revision has revision 0."""
    return Fact(
        id=delivery.event_id,
        type=event_type(PolicyDecided),
        job=event.job,
        revision=event.revision or 0,
        generation=0,
        at=event.at,
        volume=event.volume,
        data=event.model_dump(mode="json", exclude={"job", "revision", "volume"}),
    )


def fact_of_status(status: JobStatus, delivery: Delivery) -> Fact:
    """The fact in a state. Without the tallies of each level, which would make a long job's history large."""
    return Fact(
        id=delivery.event_id,
        type=event_type(JobStatus),
        job=status.job,
        revision=status.revision,
        generation=status.generation,
        at=status.updated_at,
        version=status.version,
        data=status.model_dump(mode="json", include={"state", "waiting", "error", "fetch"})
        | {"convert": status.convert.model_dump(mode="json")},
    )


def cloud_event_of(fact: Fact, source: str) -> dict[str, Any]:
    """A fact as a CloudEvent 1.0 in structured mode."""
    data = {"source": source, "job": fact.job, "revision": fact.revision, "generation": fact.generation, "volume": fact.volume}
    return {
        "specversion": "1.0",
        "id": fact.id,
        "source": "/services/cataloger",
        "type": fact.type,
        "subject": fact.volume or fact.job,
        "time": fact.at.isoformat().replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": {**fact.data, **data},
    }


def said_at(delivery: Delivery) -> datetime:
    """`ce-time`, else when the stream stored the message, else now."""
    try:
        said = datetime.fromisoformat(delivery.headers.get("ce-time", ""))
    except ValueError:
        return delivery.timestamp or datetime.now(UTC)
    return said if said.tzinfo else said.replace(tzinfo=UTC)
