"""Metrics, all in one place. Names are `emporter_<noun>_<verb>_<unit>`; no label ever holds a job or a volume.

FastStream labels by the concrete subject, which makes a time series per job; here a message is labelled by its durable
consumer, a publish by the first two tokens of its subject.
"""

from __future__ import annotations

from typing import Any

from faststream.nats.prometheus.provider import NatsMetricsSettingsProvider
from faststream.prometheus import ConsumeAttrs
from faststream.prometheus.middleware import PrometheusMiddleware
from prometheus_client import REGISTRY, CollectorRegistry, Counter

FAILURES = Counter(
    "emporter_failures_classified_total", "Messages that did not end well, by what was done", ["consumer", "outcome"]
)
STORED_BYTES = Counter("emporter_raw_stored_bytes_total", "Bytes of raw objects stored or hashed in place", ["source"])
SHARDS = Counter("emporter_shards_written_total", "Shards put into the store")
GATES = Counter("emporter_quality_gates_judged_total", "Quality gates judged, by what they said", ["gate", "verdict"])
LOOKS = Counter("emporter_steward_looks_total", "Times a steward counted a job", ["stage"])


class _Provider(NatsMetricsSettingsProvider):
    """Labels of bounded number."""

    def get_consume_attrs_from_message(self, msg: Any) -> ConsumeAttrs:
        return {"destination_name": consumer_of(msg.raw_message), "message_size": len(msg.body), "messages_count": 1}

    def get_publish_destination_name_from_cmd(self, cmd: Any) -> str:
        return kind_of(cmd.destination)


def kind_of(subject: str) -> str:
    """What kind of message a subject carries: its leading tokens without any id."""
    first, *rest = subject.split(".")
    return first if first in {"status", "progress", "reply", "_INBOX"} or not rest else f"{first}.{rest[0]}"


def consumer_of(raw: Any) -> str:
    """The durable consumer that delivered a message; the subject's first two tokens where it came by core NATS."""
    if raw.reply.startswith("$JS.ACK."):
        return str(raw.metadata.consumer)
    return kind_of(raw.subject)


def bus_metrics(service: str, registry: CollectorRegistry = REGISTRY) -> PrometheusMiddleware[Any]:
    """The broker middleware that counts and times messages."""
    return PrometheusMiddleware(
        settings_provider_factory=lambda _: _Provider(), registry=registry, app_name=service, metrics_prefix="emporter_bus"
    )
