"""What a failure does to a message and its job: one middleware, the table of PROTOCOL section 5.

| commands                                 | what happens                                                     |
| unreadable, schema violated              | dead letter at once; a public command is also answered          |
| TransientError                           | the job waits, the message is acknowledged, a steward says it again |
| any other EmporterError                  | the job fails with code, message and hint                        |
| StoppedError                             | acknowledged: the run is no longer the current one               |
| anything else                            | a bug of ours: three tries, then dead letter and job `internal`  |

Facts never change a job: their consumers nak without limit, and dead-letter what they can't read.
"""

from __future__ import annotations

import asyncio
import json
import random
from typing import TYPE_CHECKING, Any

import structlog
from faststream import BaseMiddleware
from pydantic import ValidationError

from emporter_contracts import subjects, topology
from emporter_contracts.commands import JobCommand, Refusal
from emporter_contracts.errors import EmporterError
from emporter_runtime.bus import BugError, Bus, Delivery, delivery_of
from emporter_runtime.errors import StoppedError, TransientError
from emporter_runtime.logging import get_logger
from emporter_runtime.telemetry import FAILURES, consumer_of

if TYPE_CHECKING:
    from faststream.nats import NatsMessage

    from emporter_runtime.jobstore import JobStore

BUG_TRIES = 3
"""How often a command that meets a bug of ours is tried: once more for luck, once more to be sure."""
NAK_SECONDS = (0.5, 60.0)
"""First and longest delay of a redelivery asked for; doubled each time, with jitter."""

log = get_logger(__name__)


def install(bus: Bus, jobs: JobStore) -> None:
    """Let failures on `bus` change jobs in `jobs`. Without it (the cataloger) a service has only facts and requests."""
    bus.failures = jobs


def refusal(error: Exception) -> Refusal:
    """Any error as an answer: ours with its code, a broken body with what is wrong in it, the rest as a bug."""
    if isinstance(error, EmporterError):
        return Refusal(code=error.code, message=error.message, hint=error.hint)
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]).removeprefix("body.") or "body"
        return Refusal(
            code="invalid_request", message=f"{where}: {first['msg']}", hint="see contracts/schemas/ingest-request.json"
        )
    if isinstance(error, ValueError):
        return Refusal(code="invalid_request", message=f"the body is no JSON: {error}"[:300], hint="send one JSON object")
    return Refusal(code="internal", message=str(error)[:300] or type(error).__name__, hint="see the logs: emporter doctor")


class FailureMiddleware(BaseMiddleware[Any, Any]):
    """Settles every message: acknowledged, asked for again, or set aside."""

    def __init__(self, msg: Any, /, *, context: Any, bus: Bus) -> None:
        super().__init__(msg, context=context)
        self.bus = bus

    async def consume_scope(self, call_next: Any, msg: Any) -> Any:
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(service=self.bus.service)
        delivery = delivery_of(msg)
        if not delivery.stream:
            return await self._answered(call_next, msg)
        try:
            await call_next(msg)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001  # the one place where failures are classified
            await self._settle(msg, delivery, error)
            return None
        await _ack(msg)
        return None

    async def _answered(self, call_next: Any, msg: Any) -> Any:
        try:
            return await call_next(msg)
        except Exception as error:
            if isinstance(error, BugError):
                log.exception("answer_failed", subject=msg.raw_message.subject)
            return refusal(error)

    async def _settle(self, msg: NatsMessage, delivery: Delivery, error: Exception) -> None:
        name = consumer_of(msg.raw_message)
        outcome = await self._outcome(msg, delivery, error, facts=topology.consumer_named(name).facts)
        FAILURES.labels(name, outcome).inc()

    async def _outcome(self, msg: NatsMessage, delivery: Delivery, error: Exception, *, facts: bool) -> str:
        if isinstance(error, StoppedError):
            log.info("stopped", reason=error.message)
            await _ack(msg)
            return "stopped"
        if not isinstance(error, EmporterError | BugError):
            return await self._unreadable(msg, delivery, error)
        command = None if delivery.stream == "INGEST" else _command(delivery.body)
        if facts or self.bus.failures is None or (command is None and isinstance(error, TransientError)):
            log.warning("asked_for_again", error=repr(error), delivered=delivery.delivered)
            await _nak(msg, delivery)
            return "again"
        return await self._command_failed(msg, delivery, error, command)

    async def _command_failed(self, msg: NatsMessage, delivery: Delivery, error: Exception, command: JobCommand | None) -> str:
        jobs: JobStore = self.bus.failures
        try:
            if isinstance(error, TransientError) and command is not None:
                log.info("waiting", reason=error.reason, error=error.message, retry_after=error.retry_after)
                await jobs.wait(command, error)
                await _ack(msg)
                return "waiting"
            if isinstance(error, EmporterError):
                return await self._failed(msg, delivery, error, command)
            log.error("bug", exc_info=error, delivered=delivery.delivered)
            if delivery.delivered < BUG_TRIES:
                await _nak(msg, delivery)
                return "again"
            await set_aside(self.bus, delivery, refusal(error))
            return await self._failed(msg, delivery, error, command)
        except Exception as trouble:  # noqa: BLE001  # the job's state could not be written: the message must come again
            log.warning("could_not_settle", error=repr(trouble), cause=repr(error))
            await _nak(msg, delivery)
            return "again"

    async def _failed(self, msg: NatsMessage, delivery: Delivery, error: Exception, command: JobCommand | None) -> str:
        answer = refusal(error)
        if command is not None:
            log.error("failed", code=answer.code, message=answer.message)
            await self.bus.failures.fail(command, answer)
        else:
            await reply(self.bus, delivery, answer)
            log.info("refused", code=answer.code, message=answer.message)
        await _ack(msg)
        return "failed"

    async def _unreadable(self, msg: NatsMessage, delivery: Delivery, error: Exception) -> str:
        answer = refusal(error)
        log.warning("unreadable", subject=delivery.subject, message=answer.message)
        try:
            await set_aside(self.bus, delivery, answer)
            await reply(self.bus, delivery, answer)
        except TransientError:
            await _nak(msg, delivery)
            return "again"
        await msg.reject()
        return "dead_letter"


async def reply(bus: Bus, delivery: Delivery, answer: Any) -> None:
    """Tell whoever asked by `Emporter-Reply-To`, where the token is one."""
    token = delivery.headers.get("Emporter-Reply-To", "")
    if subjects.REPLY_TOKEN.match(token):
        await bus.tell(subjects.reply(token), answer)


async def set_aside(bus: Bus, delivery: Delivery, why: Refusal, identity: str = "") -> None:
    """Publish the message as a dead letter, before it is taken from its stream. Dedupe removes a second copy: one of the same
    `identity`, by default of the same place in its stream. Raises TransientError.
    """
    headers = {name: value for name, value in delivery.headers.items() if not name.lower().startswith("nats-")}
    headers |= {
        "Emporter-Error-Code": why.code,
        "Emporter-Error-Message": " ".join(why.message.split())[:500],
        "Emporter-Stream": delivery.stream,
        "Emporter-Sequence": str(delivery.sequence),
        "Nats-Msg-Id": identity or f"{delivery.stream}:{delivery.sequence}",
    }
    await bus.publish_raw(subjects.dead_letter(delivery.subject), delivery.body, headers, "DLQ")


def _command(body: bytes) -> JobCommand | None:
    """The run a command is about, None for a request that has none yet."""
    try:
        return JobCommand.model_validate(json.loads(body))
    except ValueError:
        return None


async def _ack(msg: NatsMessage) -> None:
    """Acknowledge and wait for the server's word; when none comes the message returns and the ledger makes that harmless."""
    try:
        await msg.ack_sync()
    except Exception as error:  # noqa: BLE001  # nothing more can be done here than to say so
        log.warning("ack_unanswered", error=repr(error))


async def _nak(msg: NatsMessage, delivery: Delivery) -> None:
    first, longest = NAK_SECONDS
    delay = min(longest, first * 2 ** (delivery.delivered - 1)) * random.uniform(0.5, 1.5)
    await msg.nack(delay=delay)
