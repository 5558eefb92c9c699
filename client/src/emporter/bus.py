"""The client's side of the bus: ask for an ingest, look at jobs, watch them, stop them."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, TypeVar
from urllib.parse import urlsplit

import nats
import nats.errors
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg
from nats.js.errors import NotFoundError
from pydantic import BaseModel, ValidationError

from emporter.connection import Connection
from emporter.errors import MistakeError, RefusedByServiceError, UnreachableError
from emporter_contracts import ids, subjects
from emporter_contracts.commands import MAX_REQUEST_BYTES, Accepted, Control, IngestRequest, Refusal
from emporter_contracts.events import Progress, cloud_event
from emporter_contracts.jobs import JobStatus
from emporter_contracts.previews import PlanSummary

NOT_WELL = "emporter doctor says what is not well"
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0
"""For what a service answers from what it knows."""
PLAN_SECONDS = 120.0
"""For a dry run, which reads headers out of an archive."""
QUIET_SECONDS = 2.0
"""A watcher that heard nothing for so long asks: what is said while the bus restarts is not heard."""

M = TypeVar("M", bound=BaseModel)

_JOB = re.compile(r"[a-z0-9_-]{1,128}\Z")


class BusClient:
    """One connection, made when first needed."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._nats: Nats | None = None
        self._connecting = asyncio.Lock()

    async def close(self) -> None:
        if self._nats is not None:
            await self._nats.close()

    async def plan(self, request: IngestRequest) -> PlanSummary:
        """What an ingest would do, from headers alone."""
        return await self._ask(subjects.INGEST_PLAN, request, PlanSummary, PLAN_SECONDS)

    async def ingest(self, request: IngestRequest) -> Accepted:
        """Ask for an ingest; returns when a fetcher has taken it. Raises RefusedByServiceError, UnreachableError."""
        body = _body(request)
        bus = await self._connected()
        token = secrets.token_hex(16)
        headers = cloud_event(request, event_id=secrets.token_hex(16), source="client", subject=ids.job_id(request))
        headers |= self._connection.said
        heard = await bus.subscribe(subjects.reply(token), max_msgs=1)
        try:
            # The subscription must stand before the request is sent: an answer is said once.
            await bus.flush()
            stored = await self._request(subjects.INGEST_REQUEST, body, ANSWER_SECONDS, {**headers, "Emporter-Reply-To": token})
            _check_stored(stored)
            answer = await heard.next_msg(timeout=ANSWER_SECONDS)
        except nats.errors.TimeoutError as error:
            job = ids.job_id(request)
            raise UnreachableError(
                f"the request for {job} is kept on the bus, but no fetcher has taken it yet", hint=f"emporter watch {job}"
            ) from error
        finally:
            await heard.unsubscribe()
        return _read(answer.data, Accepted)

    async def control(self, job: str, control: Control) -> Accepted:
        """Cancel, retry, pause or resume a job."""
        return await self._ask(subjects.control(_job(job)), control, Accepted, ANSWER_SECONDS)

    async def status(self, job: str) -> JobStatus:
        """Where a job stands. Raises MistakeError where there is none of this name."""
        found = await self.find(job)
        if found is None:
            raise MistakeError(f"there is no job {job}", hint="emporter jobs lists them")
        return found

    async def watch(self, job: str) -> AsyncGenerator[JobStatus | Progress, None]:
        """Each newer state of a job, the present one first, until it has ended; in between, how far its workers are."""
        bus = await self._connected()
        news: asyncio.Queue[JobStatus | Progress] = asyncio.Queue()

        async def hear(message: Msg) -> None:
            state = message.subject.startswith("status.")
            said = _said(message.data, JobStatus) if state else _said(message.data, Progress)
            if said is not None and said.job == job:
                news.put_nowait(said)

        heard = [await bus.subscribe(subject, cb=hear) for subject in (subjects.status(_job(job)), subjects.progress(job))]
        try:
            await bus.flush()
            async with aclosing(self._newer(job, news)) as states:
                async for state in states:
                    yield state
        finally:
            for subscription in heard:
                await subscription.unsubscribe()

    async def _newer(self, job: str, news: asyncio.Queue[JobStatus | Progress]) -> AsyncGenerator[JobStatus | Progress, None]:
        last = await self.status(job)
        yield last
        while last.state.running:
            try:
                async with asyncio.timeout(QUIET_SECONDS):
                    said: JobStatus | Progress | None = await news.get()
            except TimeoutError:
                said = await self._asked_again(job)
            if isinstance(said, Progress):
                yield said
            elif said is not None and said.order > last.order:
                last = said
                yield last

    async def _asked_again(self, job: str) -> JobStatus | None:
        try:
            return await self.find(job)
        except UnreachableError:
            return None

    async def find(self, job: str) -> JobStatus | None:
        """Where a job stands, None where there is none of this name. Raises UnreachableError."""
        bus = await self._connected()
        try:
            found = await bus.jetstream(timeout=ANSWER_SECONDS).get_last_msg("STATUS", subjects.status(_job(job)), direct=True)
        except NotFoundError:
            return None
        except (nats.errors.Error, TimeoutError) as error:
            raise self._unreachable("keeps no job states", error) from error
        return _read(found.data or b"", JobStatus)

    async def _ask(self, subject: str, question: BaseModel, model: type[M], seconds: float) -> M:
        return _read((await self._request(subject, _body(question), seconds, self._connection.said or None)).data, model)

    async def _request(self, subject: str, body: bytes, seconds: float, headers: dict[str, str] | None) -> Msg:
        bus = await self._connected()
        try:
            return await bus.request(subject, body, timeout=seconds, headers=headers)
        except nats.errors.NoRespondersError as error:
            raise UnreachableError(
                f"nobody answers {subject} in {self._connection.place}", hint="emporter doctor says what is not running"
            ) from error
        except nats.errors.TimeoutError as error:
            raise UnreachableError(
                f"no answer to {subject} within {seconds:.0f} s", hint="emporter doctor says what is not well"
            ) from error
        except nats.errors.Error as error:
            raise self._unreachable("failed", error) from error

    async def _connected(self) -> Nats:
        async with self._connecting:
            if self._nats is None:
                self._nats = await self._connect()
        return self._nats

    async def _connect(self) -> Nats:
        where = self._connection
        if not where.nats:
            raise MistakeError("nobody says where the bus is", hint="set EMPORTER_NATS_URL, or name a stack with --stack DIR")
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await _knock(where.nats)
                return await nats.connect(
                    where.nats,
                    user=where.nats_user,
                    password=where.nats_password,
                    name="emporter-client",
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=0.5,
                    error_cb=_quiet,
                )
        except nats.errors.AuthorizationError as error:
            raise UnreachableError(
                f"the bus at {where.nats} does not know this user", hint="check EMPORTER_NATS_USER and EMPORTER_NATS_PASSWORD"
            ) from error
        except (OSError, TimeoutError, nats.errors.Error) as error:
            raise self._unreachable("does not answer", error) from error

    def _unreachable(self, what: str, error: Exception) -> UnreachableError:
        reason = str(error).removeprefix("nats: ")
        said = f" ({reason})" if reason and isinstance(error, nats.errors.Error) else ""
        return UnreachableError(f"the bus at {self._connection.nats} {what}{said}", hint=NOT_WELL)


async def require_bus(url: str) -> None:
    """For commands that join the services' own bus, whose connection waits for it for ever. Raises UnreachableError."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            await _knock(url)
    except (OSError, TimeoutError) as error:
        raise UnreachableError(f"the bus at {url} does not answer", hint=NOT_WELL) from error


async def _knock(url: str) -> None:
    """Fail at once where nothing listens: nats-py would try until the time is over."""
    parts = urlsplit(url)
    if "," in url or parts.hostname is None:
        return
    _, writer = await asyncio.open_connection(parts.hostname, parts.port or 4222)
    writer.close()


async def _quiet(_: Exception) -> None:
    """What goes wrong is said by the call that meets it, in one line."""


def _job(job: str) -> str:
    """A job's name as one token of a subject. Raises MistakeError."""
    if not _JOB.match(job):
        raise MistakeError(f"{job[:80]!r} is no job", hint="emporter jobs lists them")
    return job


def _body(question: BaseModel) -> bytes:
    body = question.model_dump_json().encode()
    if len(body) > MAX_REQUEST_BYTES:
        raise MistakeError(f"the request has {len(body)} bytes, more than {MAX_REQUEST_BYTES}", hint="put lists into files")
    return body


def _check_stored(answer: Msg) -> None:
    told: dict[str, Any] = json.loads(answer.data)
    if "error" in told:
        raise UnreachableError(f"the bus did not keep the request: {told['error'].get('description')}", hint="emporter doctor")


def _said(data: bytes, model: type[M]) -> M | None:
    """A message anyone may have sent, None where it is none of this kind."""
    try:
        return model.model_validate_json(data)
    except ValidationError:
        return None


def _read(data: bytes, model: type[M]) -> M:
    """An answer, or the refusal in its place."""
    answer = _said(data, model)
    if answer is not None:
        return answer
    refused = _said(data, Refusal)
    if refused is None:
        raise UnreachableError(f"an answer that is no {model.__name__}: {data[:80]!r}", hint="client and stack differ in version")
    raise RefusedByServiceError(refused.message, code=refused.code, hint=refused.hint)
