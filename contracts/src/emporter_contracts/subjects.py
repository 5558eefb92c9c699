"""Every subject on the bus (PROTOCOL section 2). Ids hold no dots, so each is one token."""

from __future__ import annotations

import re

INGEST_REQUEST = "ingest.request"
INGEST_PLAN = "ingest.plan"
INGEST_CONTROL = "ingest.control.*"
CATALOG_QUERY = "catalog.query"
CONVERT_PREVIEW = "convert.preview"
"""Between services: what a conversion would be, before anything is stored."""
VOLUME_REVISE = "volume.revise"
"""Between services: metadata of a committed volume is said anew."""

FETCH_PLAN = "fetch.plan.*"
FETCH_FINISH = "fetch.finish.*"
CONVERT_PLAN = "convert.plan.*"
CONVERT_TASK = "convert.task.>"
CONVERT_FINISH = "convert.finish.>"

RAW_OBJECT_STORED = "raw.object.stored.>"
CONVERT_DONE = "convert.done.>"
RAW_PLAN_READY = "raw.plan.ready.*"
RAW_MANIFEST_COMPLETE = "raw.manifest.complete.*"
LEVEL_COMPLETE = "convert.level.complete.>"
VOLUME_COMPLETE = "convert.volume.complete.>"
POLICY_DECIDED = "policy.decided.*"
STATUS = "status.*"
WEBHOOK_DUE = "webhooks.due.*"
"""Doorbells: something may be due to a subscription."""
WEBHOOK_LATER = "webhooks.later.*"
"""The next doorbell of a subscription, which the server rings at its time."""
DLQ = "dlq.>"
ADVISORY = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES"

REPLY_TOKEN = re.compile(r"[A-Za-z0-9]{1,64}\Z")
"""What may stand in `Emporter-Reply-To`: one token, so that a reply can go nowhere but below `reply.`."""


def control(job: str) -> str:
    return f"ingest.control.{job}"


def status(job: str) -> str:
    return f"status.{job}"


def progress(job: str) -> str:
    return f"progress.{job}"


def reply(token: str) -> str:
    return f"reply.{token}"


def fetch_plan(job: str) -> str:
    return f"fetch.plan.{job}"


def fetch_batch(source: str, job: str, n: int) -> str:
    return f"fetch.batch.{source}.{job}.{n}"


def fetch_batches(source: str, job: str = "") -> str:
    """All batches of a source, or of one job of it."""
    return f"fetch.batch.{source}.{job}.*" if job else f"fetch.batch.{source}.>"


def fetch_finish(job: str) -> str:
    return f"fetch.finish.{job}"


def raw_plan_ready(job: str) -> str:
    return f"raw.plan.ready.{job}"


def raw_object_stored(job: str, revision: int, unit: str) -> str:
    return f"raw.object.stored.{job}.{revision}.{unit}"


def raw_objects_stored(job: str, revision: int) -> str:
    """Every ledger entry of one run's fetch."""
    return f"raw.object.stored.{job}.{revision}.*"


def raw_manifest_complete(job: str) -> str:
    return f"raw.manifest.complete.{job}"


def convert_plan(job: str) -> str:
    return f"convert.plan.{job}"


def convert_task(job: str, volume: str, level: int, n: int) -> str:
    return f"convert.task.{job}.{volume}.{level}.{n}"


def convert_tasks(job: str, volume: str = "*", level: int | str = "*") -> str:
    """All queued tasks of a job, of one of its volumes, or of one level."""
    return f"convert.task.{job}.{volume}.{level}.*"


def convert_finish(job: str, volume: str) -> str:
    return f"convert.finish.{job}.{volume}"


def convert_done(job: str, revision: int, volume: str, level: int, n: int) -> str:
    return f"convert.done.{job}.{revision}.{volume}.{level}.{n}"


def convert_dones(job: str, revision: int, volume: str = "*", level: int | str = "*") -> str:
    """Every ledger entry of one run's conversion, of one volume, or of one level."""
    return f"convert.done.{job}.{revision}.{volume}.{level}.*"


def level_complete(volume: str, revision: int, level: int) -> str:
    return f"convert.level.complete.{volume}.{revision}.{level}"


def volume_complete(volume: str, revision: int) -> str:
    return f"convert.volume.complete.{volume}.{revision}"


def policy_decided(job: str) -> str:
    return f"policy.decided.{job}"


def webhook_due(subscription: str) -> str:
    return f"webhooks.due.{subscription}"


def webhook_later(subscription: str) -> str:
    return f"webhooks.later.{subscription}"


def dead_letter(subject: str) -> str:
    return f"dlq.{subject}"
