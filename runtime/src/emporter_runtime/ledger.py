"""What is done: publishing an entry *is* entering it, the second of two is refused by the stream itself (PROTOCOL section 2)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import nats.errors
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError, NotFoundError

from emporter_contracts.commands import Message
from emporter_contracts.events import RunEvent
from emporter_runtime.bus import ALREADY_THERE, Bus, event_id
from emporter_runtime.errors import TransientError

STREAM = "LEDGER"
PAGE = 500
"""Entries fetched at once when they are read back."""

M = TypeVar("M", bound=Message)


class Ledger:
    """Entries of units and tasks, by subject."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def enter(self, subject: str, entry: RunEvent) -> bool:
        """Enter a unit as done; False where it was in already. Whoever enters first, the bytes are the same."""
        try:
            ack = await self._bus.publish(subject, entry, event_id(entry, subject), STREAM)
        except APIError as error:
            if error.err_code == ALREADY_THERE:
                return False
            raise TransientError(f"the ledger refused {subject}: {error.description}") from error
        return not ack.duplicate

    async def has(self, subject: str) -> bool:
        """Whether this one unit is in."""
        try:
            await self._bus.js.get_last_msg(STREAM, subject)
        except NotFoundError:
            return False
        except (nats.errors.Error, TimeoutError) as error:
            raise TransientError(f"the bus did not answer about {subject}: {error!r}") from error
        return True

    async def count(self, wildcard: str) -> int:
        """How many entries match, without reading them: what an ephemeral consumer would have pending."""
        js = self._bus.js
        try:
            info = await js.add_consumer(
                STREAM,
                ConsumerConfig(
                    ack_policy=AckPolicy.NONE,
                    deliver_policy=DeliverPolicy.ALL,
                    filter_subject=wildcard,
                    headers_only=True,
                    inactive_threshold=5.0,
                    mem_storage=True,
                ),
            )
            await js.delete_consumer(STREAM, info.name)
        except NotFoundError:
            # It was gone before we deleted it; what it counted stands.
            return info.num_pending or 0
        except (nats.errors.Error, TimeoutError) as error:
            raise TransientError(f"the bus did not count {wildcard}: {error!r}") from error
        return info.num_pending or 0

    async def subjects(self, wildcard: str) -> set[str]:
        """The subjects of all entries that match."""
        return set(await subjects_in(self._bus, STREAM, wildcard))

    async def begun(self) -> str:
        """When the stream itself was made: another time is another ledger, whose entries count from 1 again."""
        try:
            info = await self._bus.js.stream_info(STREAM)
        except (nats.errors.Error, TimeoutError) as error:
            raise TransientError(f"the bus did not answer about {STREAM}: {error!r}") from error
        return str(info.created)

    async def since(self, wildcard: str, after: int) -> AsyncIterator[tuple[int, str]]:
        """(sequence, subject) of every entry that matches and came after sequence `after`, in order; bodies are not sent."""
        config = ConsumerConfig(
            ack_policy=AckPolicy.NONE,
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=after + 1,
            filter_subject=wildcard,
            headers_only=True,
            inactive_threshold=60.0,
            mem_storage=True,
        )
        async for message in self._messages(config, wildcard):
            yield message.metadata.sequence.stream, message.subject

    async def entries(self, wildcard: str, model: type[M]) -> AsyncIterator[M]:
        """Every entry that matches, in the order they were entered."""
        config = ConsumerConfig(ack_policy=AckPolicy.NONE, filter_subject=wildcard, inactive_threshold=60.0, mem_storage=True)
        async for message in self._messages(config, wildcard):
            yield model.model_validate_json(message.data)

    async def _messages(self, config: ConsumerConfig, wildcard: str) -> AsyncIterator[Msg]:
        """What a consumer has pending now, a page at a time."""
        js = self._bus.js
        try:
            info = await js.add_consumer(STREAM, config)
            left = info.num_pending or 0
            subscription = await js.pull_subscribe_bind(info.name, STREAM)
            try:
                while left > 0:
                    page = await subscription.fetch(min(PAGE, left), timeout=10)
                    left -= len(page)
                    for message in page:
                        yield message
            finally:
                await subscription.unsubscribe()
                await js.delete_consumer(STREAM, info.name)
        except (nats.errors.Error, TimeoutError) as error:
            raise TransientError(f"the bus did not read {wildcard} back: {error!r}") from error

    async def purge(self, wildcard: str) -> None:
        """Forget entries: of what is removed, or of a run that is over."""
        await self._bus.js.purge_stream(STREAM, subject=wildcard)


class Tail:
    """Entries that match, read once each: a look asks only for what was entered since the last one.

    `begin` is called where counting starts: at once, and whenever the ledger turns out to be another than was read. `mark` is
    called with the subject of every entry, in the order they were entered.
    """

    def __init__(self, wildcard: str, begin: Callable[[], None], mark: Callable[[str], None]) -> None:
        self._wildcard = wildcard
        self._begin = begin
        self._mark = mark
        self._begin_with("")

    def _begin_with(self, ledger_begun: str) -> None:
        self._ledger_begun = ledger_begun
        self._last = 0
        self._entries = 0
        self._begin()

    async def catch_up(self, ledger: Ledger) -> None:
        """Read what was entered since the last time. Raises TransientError; what was read until then is kept."""
        begun = await ledger.begun()
        if begun != self._ledger_begun:
            self._begin_with(begun)
        async for sequence, subject in ledger.since(self._wildcard, self._last):
            self._mark(subject)
            self._last = sequence
            self._entries += 1

    async def confirmed(self, ledger: Ledger) -> bool:
        """Whether the ledger holds as many entries as were read; counting begins anew where it doesn't."""
        if await ledger.count(self._wildcard) == self._entries:
            return True
        self._begin_with("")
        return False


async def subjects_in(bus: Bus, stream: str, wildcard: str) -> dict[str, int]:
    """Messages by subject in a stream, however many: the server answers 100,000 subjects a page."""
    found: dict[str, int] = {}
    while True:
        body = json.dumps({"subjects_filter": wildcard, "offset": len(found)}).encode()
        try:
            answer = await bus.connection.request(f"$JS.API.STREAM.INFO.{stream}", body, timeout=10)
        except (nats.errors.Error, TimeoutError) as error:
            raise TransientError(f"the bus did not list {wildcard}: {error!r}") from error
        info: dict[str, Any] = json.loads(answer.data)
        if "error" in info:
            raise TransientError(f"the bus did not list {wildcard}: {info['error'].get('description')}")
        page = info["state"].get("subjects") or {}
        found.update(page)
        if not page or len(found) >= int(info.get("total") or len(found)):
            return found


async def outstanding(bus: Bus, stream: str, wildcard: str) -> set[str]:
    """Subjects of the commands that are queued or being worked on."""
    return set(await subjects_in(bus, stream, wildcard))
