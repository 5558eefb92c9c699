"""The bus as a service sees it: consume a durable consumer, answer a request, publish with an acknowledgement.

Streams and consumers are never declared here: `provision` makes them, `Bus.running` checks them and waits for missing ones.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, get_type_hints

import nats.errors
from faststream import AckPolicy, Context
from faststream.nats import JStream, NatsBroker, NatsMessage, PullSub
from faststream.security import SASLPlaintext
from nats.js import JetStreamContext
from nats.js.api import PubAck
from nats.js.errors import APIError
from pydantic import BaseModel, ValidationError

from emporter_contracts import topology
from emporter_contracts.commands import JobCommand, Message
from emporter_contracts.errors import EmporterError
from emporter_contracts.events import RunEvent, cloud_event
from emporter_runtime.errors import TransientError
from emporter_runtime.logging import get_logger
from emporter_runtime.settings import Settings
from emporter_runtime.telemetry import bus_metrics

PUBLISH_TIMEOUT = 10.0
"""Seconds to wait for a PubAck. The default of FastStream, 0.5 s, is shorter than one fsync of a busy disk."""
PUBLISH_TRIES = 3
"""With one id each: JetStream drops what it stored already."""
PULL_TIMEOUT = 5.0
"""Seconds one pull waits at the server: how often an idle worker asks again."""
ALREADY_THERE = 10077
"""JetStream error "maximum messages per subject exceeded": this ledger entry exists."""
WRONG_LAST_SEQUENCE = 10071
"""JetStream error "wrong last sequence": somebody else wrote this subject first."""

log = get_logger(__name__)

Handler = Callable[..., Awaitable[Any]]


class BugError(Exception):
    """What a handler raised that is none of our errors; the cause is the exception itself."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """How a message came: its headers and subject; from a stream also its sequence, time and how often it was delivered."""

    subject: str
    headers: dict[str, str]
    body: bytes
    stream: str = ""
    sequence: int = 0
    timestamp: datetime | None = None
    delivered: int = 1
    in_progress: Callable[[], Awaitable[None]] | None = None

    @property
    def event_id(self) -> str:
        """`ce-id` where the sender gave one, else one made of where and when the stream stored it."""
        given = self.headers.get("ce-id") or self.headers.get("Nats-Msg-Id")
        when = self.timestamp.timestamp() if self.timestamp else 0
        return given or f"{self.stream}:{self.sequence}:{when:.6f}"


def delivery_of(message: NatsMessage) -> Delivery:
    """What we need of FastStream's message."""
    raw = message.raw_message
    headers = dict(raw.headers or {})
    if not raw.reply.startswith("$JS.ACK."):
        return Delivery(raw.subject, headers, raw.data)
    meta = raw.metadata
    return Delivery(
        subject=raw.subject,
        headers=headers,
        body=raw.data,
        stream=meta.stream,
        sequence=meta.sequence.stream,
        timestamp=meta.timestamp,
        delivered=meta.num_delivered,
        in_progress=message.in_progress,
    )


def event_id(run: JobCommand | RunEvent, kind: str, *rest: str | int) -> str:
    """The deterministic id of a message about a run: the same fact has the same id, whoever says it and how often."""
    return ".".join(str(part) for part in (run.job, run.revision, run.generation, kind, *rest))


class Bus:
    """One service's connection. Register handlers first, then enter `running`."""

    def __init__(self, settings: Settings, service: str) -> None:
        self.settings = settings
        self.service = service
        self.failures: Any = None
        """What classifies failures; set by `failures.install` once the job store stands."""
        self._consumers: list[str] = []
        self._healthy = False
        self.broker = NatsBroker(
            settings.nats_url,
            name=f"emporter-{service}",
            security=_credentials(settings),
            max_reconnect_attempts=-1,
            reconnect_time_wait=1,
            connect_timeout=5,
            ping_interval=20,
            graceful_timeout=settings.grace_seconds,
            error_cb=_log_error,
            ack_policy=AckPolicy.MANUAL,
            logger=logging.getLogger("faststream"),
            middlewares=[functools.partial(_FailureGate, bus=self), bus_metrics(service)],
        )

    def consume(self, name: str, workers: int = 1) -> Callable[[Handler], Handler]:
        """Handle the messages of the durable consumer `name`, at most `workers` at once in this process.

        The handler takes (body, delivery); the annotation of `body` is the model it is read into, or bytes. A return
        acknowledges; what an exception does is said in `failures`.
        """
        consumer = topology.consumer_named(name)
        self._consumers.append(name)

        def register(handler: Handler) -> Handler:
            # One subscription a worker: FastStream's own concurrent pull also holds messages nobody works on yet.
            for _ in range(workers):
                subscriber = self.broker.subscriber(
                    consumer.filters[0],
                    stream=JStream(consumer.stream, declare=False),
                    durable=consumer.name,
                    pull_sub=PullSub(batch_size=1, timeout=PULL_TIMEOUT),
                    ack_policy=AckPolicy.MANUAL,
                    no_reply=True,
                )
                subscriber(_entry(handler))
            return handler

        return register

    def answer(self, subject: str, queue: str) -> Callable[[Handler], Handler]:
        """Answer requests on `subject`, one of all processes in `queue` each. The handler takes (body, delivery)."""

        def register(handler: Handler) -> Handler:
            self.broker.subscriber(subject, queue=queue)(_entry(handler))
            return handler

        return register

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Connect, wait until what we consume is provisioned, start; on leaving let handlers finish."""
        from emporter_runtime.provision import wait_for_topology

        await self.broker.connect()
        await wait_for_topology(self.js, self._consumers, self.settings)
        await self.broker.start()
        self._healthy = True
        try:
            yield
        finally:
            self._healthy = False
            await self.broker.stop()

    @property
    def js(self) -> JetStreamContext:
        """nats-py's JetStream, for what FastStream has no words for. Only while connected."""
        context: JetStreamContext = self.connection.jetstream(timeout=PUBLISH_TIMEOUT)
        return context

    @property
    def connection(self) -> Any:
        """nats-py's client. Only while connected."""
        return self.broker._connection  # noqa: SLF001  # FastStream has no public way to the client it made

    async def ready(self) -> bool:
        """Whether the bus answers and everything we consume is there."""
        from emporter_runtime.provision import missing_consumers

        if not self._healthy or not await self.broker.ping(timeout=2.0):
            return False
        return not await missing_consumers(self.js, self._consumers)

    async def publish(self, subject: str, message: Message, identity: str, stream: str, **headers: str) -> PubAck:
        """Publish into `stream` and wait for its word. Raises TransientError where none comes, APIError where it refuses."""
        about = getattr(message, "job", subject)
        said = cloud_event(message, event_id=identity, source=self.service, subject=about)
        extra = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.publish_raw(subject, message.model_dump_json().encode(), {**said, **extra}, stream)

    async def publish_raw(self, subject: str, body: bytes, headers: dict[str, str], stream: str) -> PubAck:
        """Publish bytes into `stream`, acknowledged; tried PUBLISH_TRIES times under the one id its headers carry."""
        for attempt in range(PUBLISH_TRIES):
            try:
                ack = await self.broker.publish(body, subject, headers=headers, stream=stream, timeout=PUBLISH_TIMEOUT)
            except (nats.errors.Error, TimeoutError) as error:
                if isinstance(error, APIError):
                    raise
                log.warning("publish_unanswered", subject=subject, attempt=attempt, error=repr(error))
                continue
            assert ack is not None
            return ack
        raise TransientError(f"the bus did not acknowledge {subject}", hint="is nats-server running and provisioned?")

    async def command(self, subject: str, command: JobCommand, stream: str, kind: str, *rest: str | int) -> None:
        """Queue a command. Queued twice it is done twice, which the ledger makes harmless."""
        await self.publish(subject, command, event_id(command, kind, *rest), stream)

    async def say_once(self, subject: str, event: RunEvent, stream: str, kind: str, *rest: str | int) -> bool:
        """Say a fact that is said once for ever; whether it was said now."""
        try:
            await self.publish(subject, event, event_id(event, kind, *rest), stream, Nats_Expected_Last_Subject_Sequence="0")
        except APIError as error:
            if error.err_code == WRONG_LAST_SEQUENCE:
                return False
            raise
        return True

    async def tell(self, subject: str, message: Message) -> None:
        """Core NATS: whoever listens hears it, nobody is waited for."""
        await self.connection.publish(subject, message.model_dump_json().encode())


def _credentials(settings: Settings) -> SASLPlaintext | None:
    if settings.nats_user is None or settings.nats_password is None:
        return None
    return SASLPlaintext(settings.nats_user, settings.nats_password.get_secret_value())


class _FailureGate:
    """Hands every message to the failure classes of `failures`, which are installed after the broker is made."""

    def __new__(cls, msg: Any, /, *, context: Any, bus: Bus) -> Any:
        from emporter_runtime.failures import FailureMiddleware

        return FailureMiddleware(msg, context=context, bus=bus)


def _entry(handler: Handler) -> Handler:
    """FastStream's view of a handler: the body as its annotation says, and the delivery."""
    hints = get_type_hints(handler)
    parameters = [name for name in hints if name != "return"]
    model = hints[parameters[0]]

    async def entry(body: Any, message: Any = Context("message")) -> Any:  # noqa: B008  # FastStream's way to inject
        with _bugs():
            return await handler(body, delivery_of(message))

    async def raw_entry(message: Any = Context("message")) -> Any:  # noqa: B008
        with _bugs(reads_itself=True):
            return await handler(message.raw_message.data, delivery_of(message))

    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        # A handler typed bytes would be handed decoded JSON, so it is given the message and takes the bytes itself.
        raw_entry.__name__ = handler.__name__
        return raw_entry
    entry.__annotations__ = {"body": model, "message": Any}
    entry.__name__ = handler.__name__
    entry.__doc__ = handler.__doc__
    return entry


@contextmanager
def _bugs(*, reads_itself: bool = False) -> Iterator[None]:
    """Mark what a handler raises beyond our own errors, so that it is not taken for a body that can't be read."""
    try:
        yield
    except EmporterError:
        raise
    except ValidationError as error:
        if reads_itself:
            raise
        raise BugError(f"{type(error).__name__}: {error}") from error
    except Exception as error:
        raise BugError(f"{type(error).__name__}: {error}") from error


async def _log_error(error: Exception) -> None:
    if isinstance(error, nats.errors.SlowConsumerError | asyncio.CancelledError):
        return
    log.warning("bus_error", error=repr(error))
