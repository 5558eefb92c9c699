"""The server's own dead letters: a command that killed its worker MAX_DELIVER times becomes a dead letter and its job fails."""

from __future__ import annotations

import json

from nats.js.errors import NotFoundError

from emporter_contracts.commands import JobCommand, Refusal
from emporter_runtime.bus import Bus, Delivery
from emporter_runtime.failures import set_aside
from emporter_runtime.jobstore import JobStore
from emporter_runtime.logging import get_logger

log = get_logger(__name__)


def handle_dead_letters(bus: Bus, jobs: JobStore, consumer: str) -> None:
    """Register the handler of MAX_DELIVERIES advisories on the durable `consumer`."""

    @bus.consume(consumer)
    async def on_advisory(body: bytes, _: Delivery) -> None:
        advisory = json.loads(body)
        await bury(bus, jobs, advisory["stream"], int(advisory["stream_seq"]), int(advisory["deliveries"]))


async def bury(bus: Bus, jobs: JobStore, stream: str, sequence: int, deliveries: int) -> None:
    """Set one message aside, fail its job, delete it from its stream; each step may be repeated."""
    try:
        raw = await bus.js.get_msg(stream, sequence)
    except NotFoundError:
        return
    delivery = Delivery(raw.subject or "", dict(raw.headers or {}), raw.data or b"", stream, sequence)
    why = Refusal(
        code="internal",
        message=f"{delivery.subject} was given to a worker {deliveries} times and never came back",
        hint="the dead letter and the logs of the services say more; then emporter retry",
    )
    log.error("dead_letter", subject=delivery.subject, deliveries=deliveries)
    await set_aside(bus, delivery, why)
    try:
        command = JobCommand.model_validate_json(delivery.body)
    except ValueError:
        command = None
    if command is not None and stream != "INGEST":
        await jobs.fail(command, why)
    await bus.js.delete_msg(stream, sequence)
