"""Streams, consumers and who may speak, as data. `emporter_runtime.provision` applies it; services declare nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from emporter_contracts import subjects

DAY = 24 * 3600
"""Seconds."""

SOURCES: dict[str, int] = {
    "inbox": 4,
    "file-root": 4,
    "url": 4,
    "epfl": 4,
    "idr": 4,
    "empiar": 4,
    "openorganelle": 4,
    "hemibrain": 4,
}
"""Batches at once over all fetchers, by source. The fetcher checks at start that it has exactly these."""

REQUEST_TRIES = 1500
"""A request that was acknowledged waits for a store that is down as long as a job would: about a day at a try a minute."""
MAX_DELIVER = 20
"""The server's last resort against a command that kills its worker each time; our own limit for bugs is 3."""


@dataclass(frozen=True, slots=True)
class Stream:
    """One JetStream stream. Times are seconds; 0 means no limit."""

    name: str
    subjects: tuple[str, ...]
    retention: Literal["workqueue", "limits"] = "limits"
    max_age: int = 0
    max_msgs_per_subject: int = -1
    discard_new: bool = False
    discard_new_per_subject: bool = False
    duplicate_window: float = 120.0
    deny_delete: bool = False
    allow_direct: bool = False
    schedules: bool = False
    """Whether messages may wait in it for a time of their own (`Nats-Schedule`, nats-server 2.12)."""


@dataclass(frozen=True, slots=True)
class Consumer:
    """One durable pull consumer. `facts` are redelivered without limit, commands up to MAX_DELIVER times."""

    name: str
    stream: str
    filters: tuple[str, ...]
    max_ack_pending: int
    facts: bool = False
    tries: int = MAX_DELIVER

    @property
    def max_deliver(self) -> int:
        """As the server counts: -1 for ever."""
        return -1 if self.facts else self.tries


STREAMS: tuple[Stream, ...] = (
    Stream("INGEST", (subjects.INGEST_REQUEST,), "workqueue", discard_new=True),
    # A unit may be published again a moment later; the ledger makes doubles harmless.
    Stream("FETCH", ("fetch.>",), "workqueue", discard_new=True, duplicate_window=1.0),
    Stream(
        "CONVERT",
        (subjects.CONVERT_PLAN, subjects.CONVERT_TASK, subjects.CONVERT_FINISH),
        "workqueue",
        discard_new=True,
        duplicate_window=1.0,
    ),
    Stream("STATUS", (subjects.STATUS,), max_msgs_per_subject=1000, deny_delete=True, allow_direct=True),
    Stream(
        "LEDGER",
        (subjects.RAW_OBJECT_STORED, subjects.CONVERT_DONE),
        max_msgs_per_subject=1,
        discard_new=True,
        discard_new_per_subject=True,
    ),
    Stream(
        "EVENTS",
        (
            subjects.RAW_PLAN_READY,
            subjects.RAW_MANIFEST_COMPLETE,
            subjects.LEVEL_COMPLETE,
            subjects.VOLUME_COMPLETE,
            subjects.POLICY_DECIDED,
        ),
        max_age=90 * DAY,
        allow_direct=True,
    ),
    # What is to be told lies in the outbox of the catalog; here is who looks, and when. At most one doorbell and one schedule of
    # each subscription, however long its receiver is down.
    Stream("WEBHOOKS", (subjects.WEBHOOK_DUE, subjects.WEBHOOK_LATER), "workqueue", max_msgs_per_subject=1, schedules=True),
    Stream("DLQ", (subjects.DLQ,), max_age=90 * DAY, duplicate_window=3600.0),
    Stream("ADVISORIES", (f"{subjects.ADVISORY}.>",), max_age=7 * DAY),
)

CONSUMERS: tuple[Consumer, ...] = (
    Consumer("fetcher-intake", "INGEST", (subjects.INGEST_REQUEST,), 64, tries=REQUEST_TRIES),
    Consumer("fetcher-plan", "FETCH", (subjects.FETCH_PLAN,), 64),
    Consumer("fetcher-finish", "FETCH", (subjects.FETCH_FINISH,), 64),
    *(Consumer(f"fetcher-batch-{name}", "FETCH", (subjects.fetch_batches(name),), n) for name, n in SOURCES.items()),
    Consumer("converter-plan", "CONVERT", (subjects.CONVERT_PLAN,), 64),
    Consumer("converter-task", "CONVERT", (subjects.CONVERT_TASK,), 4096),
    Consumer("converter-finish", "CONVERT", (subjects.CONVERT_FINISH,), 256),
    Consumer("convert-steward", "LEDGER", (subjects.CONVERT_DONE,), 1024, facts=True),
    Consumer("converter-manifests", "EVENTS", (subjects.RAW_MANIFEST_COMPLETE,), 64, facts=True),
    Consumer("cataloger-status", "STATUS", (subjects.STATUS,), 256, facts=True),
    Consumer(
        "cataloger-events",
        "EVENTS",
        (
            subjects.RAW_PLAN_READY,
            subjects.RAW_MANIFEST_COMPLETE,
            subjects.LEVEL_COMPLETE,
            subjects.VOLUME_COMPLETE,
            subjects.POLICY_DECIDED,
        ),
        256,
        facts=True,
    ),
    Consumer("cataloger-webhooks", "WEBHOOKS", (subjects.WEBHOOK_DUE,), 256, facts=True),
    Consumer(
        "fetcher-dead-letters",
        "ADVISORIES",
        (f"{subjects.ADVISORY}.INGEST.*", f"{subjects.ADVISORY}.FETCH.*"),
        16,
        facts=True,
    ),
    Consumer("converter-dead-letters", "ADVISORIES", (f"{subjects.ADVISORY}.CONVERT.*",), 16, facts=True),
)

CLIENT_SERVICES: tuple[str, ...] = (
    subjects.INGEST_REQUEST,
    subjects.INGEST_PLAN,
    subjects.INGEST_CONTROL,
    subjects.CATALOG_QUERY,
    "$JS.API.DIRECT.GET.STATUS.>",
    "$JS.API.DIRECT.GET.EVENTS.>",
)
"""What the CLIENT account may ask of the EMPORTER account."""
CLIENT_STREAMS: tuple[str, ...] = ("status.>", "progress.>", "reply.>")
"""What the CLIENT account hears from the EMPORTER account."""


def stream_named(name: str) -> Stream:
    return next(s for s in STREAMS if s.name == name)


def consumer_named(name: str) -> Consumer:
    return next(c for c in CONSUMERS if c.name == name)
