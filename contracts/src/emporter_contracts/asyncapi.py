"""The whole bus as one AsyncAPI 3.0 document, made from the topology: every subject, what it carries, who says it, who hears it.

Streams and consumers have no place in AsyncAPI's NATS binding, so they stand in `x-emporter-stream` and `x-emporter-consumers`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import BaseModel

from emporter_contracts import commands, events, jobs, policy, previews, revisions, subjects, topology

SPEC_VERSION = "3.0.0"
API_VERSION = "1.0.0"


@dataclass(frozen=True, slots=True)
class Said:
    """One kind of message: where it goes, what its body is, who says it, and who it is for."""

    name: str
    address: str
    body: type[BaseModel]
    sender: str
    kind: Literal["command", "event", "request", "lossy"]
    reply: type[BaseModel] | None = None


SAID: tuple[Said, ...] = (
    Said("ingestRequest", subjects.INGEST_REQUEST, commands.IngestRequest, "anyone", "command"),
    Said("ingestPlan", subjects.INGEST_PLAN, commands.IngestRequest, "anyone", "request", previews.PlanSummary),
    Said("ingestControl", subjects.control("{job}"), commands.Control, "anyone", "request", commands.Accepted),
    Said("catalogQuery", subjects.CATALOG_QUERY, commands.CatalogQuery, "anyone", "request"),
    Said(
        "convertPreview", subjects.CONVERT_PREVIEW, previews.PreviewConversion, "fetcher", "request", previews.ConversionPreview
    ),
    Said("volumeRevise", subjects.VOLUME_REVISE, revisions.ReviseVolume, "cataloger", "request", revisions.Revised),
    Said("reply", subjects.reply("{token}"), commands.Accepted, "fetcher", "lossy"),
    Said("status", subjects.status("{job}"), jobs.JobStatus, "fetcher, converter", "event"),
    Said("progress", subjects.progress("{job}"), events.Progress, "fetcher, converter", "lossy"),
    Said("fetchPlan", subjects.fetch_plan("{job}"), commands.PlanFetch, "fetcher", "command"),
    Said("fetchBatch", "fetch.batch.{source}.{job}.{n}", commands.FetchBatch, "fetcher", "command"),
    Said("fetchFinish", subjects.fetch_finish("{job}"), commands.FinishFetch, "fetcher", "command"),
    Said("rawPlanReady", subjects.raw_plan_ready("{job}"), events.RawPlanReady, "fetcher", "event"),
    Said("rawObjectStored", "raw.object.stored.{job}.{revision}.{unit}", events.RawObjectStored, "fetcher", "event"),
    Said("rawManifestComplete", subjects.raw_manifest_complete("{job}"), events.RawManifestComplete, "fetcher", "event"),
    Said("convertPlan", subjects.convert_plan("{job}"), commands.PlanConversion, "converter", "command"),
    Said("convertTask", "convert.task.{job}.{volume}.{level}.{n}", commands.ConvertTask, "converter", "command"),
    Said("convertFinish", subjects.convert_finish("{job}", "{volume}"), commands.FinishVolume, "converter", "command"),
    Said("convertDone", "convert.done.{job}.{revision}.{volume}.{level}.{n}", events.ConvertDone, "converter", "event"),
    Said("levelComplete", "convert.level.complete.{volume}.{revision}.{level}", events.LevelComplete, "converter", "event"),
    Said("volumeComplete", "convert.volume.complete.{volume}.{revision}", events.VolumeComplete, "converter", "event"),
    Said("policyDecided", subjects.policy_decided("{job}"), policy.PolicyDecided, "fetcher, converter", "event"),
    Said("webhookDue", subjects.webhook_due("{subscription}"), events.WebhookDue, "cataloger", "event"),
    Said("webhookLater", subjects.webhook_later("{subscription}"), events.WebhookDue, "cataloger", "event"),
    Said("deadLetter", "dlq.{subject}", events.DeadLetter, "any service", "event"),
)
"""Every kind of message there is."""


def document() -> dict[str, Any]:
    """The AsyncAPI document. Payloads refer to the JSON Schemas beside it."""
    return {
        "asyncapi": SPEC_VERSION,
        "info": {
            "title": "Emporter",
            "version": API_VERSION,
            "description": "Electron-microscopy volumes from archives into machine learning. CloudEvents 1.0, binary mode.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {said.name: _channel(said) for said in SAID},
        "operations": {f"{said.name}Said": _operation(said) for said in SAID},
        "components": {"messages": {body.__name__: _message(body) for body in _bodies()}},
    }


def _bodies() -> list[type[BaseModel]]:
    bodies = {said.body for said in SAID} | {said.reply for said in SAID if said.reply} | {commands.Refusal}
    return sorted(bodies, key=lambda body: body.__name__)


def _message(body: type[BaseModel]) -> dict[str, Any]:
    from emporter_contracts.export import schema_name

    return {
        "name": body.__name__,
        "title": events.event_type(body) if issubclass(body, commands.Message) else body.__name__,
        "summary": (body.__doc__ or "").strip().split("\n", 1)[0],
        "payload": {"$ref": f"./{schema_name(body)}"},
    }


def _channel(said: Said) -> dict[str, Any]:
    channel: dict[str, Any] = {
        "address": said.address,
        "messages": {said.body.__name__: {"$ref": f"#/components/messages/{said.body.__name__}"}},
    }
    names = _parameters(said.address)
    if names:
        channel["parameters"] = {name: {"description": f"one token: the {name}"} for name in names}
    stream = stream_of(said.address)
    if stream is not None:
        channel["x-emporter-stream"] = asdict(stream)
        channel["x-emporter-consumers"] = [
            asdict(c) for c in topology.CONSUMERS if c.stream == stream.name and any(_matches(f, said.address) for f in c.filters)
        ]
    return channel


def _operation(said: Said) -> dict[str, Any]:
    return {
        "action": "send",
        "channel": {"$ref": f"#/channels/{said.name}"},
        "summary": f"{said.kind}, said by {said.sender}",
    }


def stream_of(address: str) -> topology.Stream | None:
    """The stream that keeps messages of an address; None for core NATS."""
    return next((s for s in topology.STREAMS if any(_matches(wildcard, address) for wildcard in s.subjects)), None)


def _parameters(address: str) -> list[str]:
    return [token[1:-1] for token in address.split(".") if token.startswith("{")]


def _matches(wildcard: str, address: str) -> bool:
    """Whether a NATS wildcard takes subjects of an address; a `{parameter}` is one token of any text."""
    pattern, tokens = wildcard.split("."), address.split(".")
    for n, want in enumerate(pattern):
        if want == ">":
            return len(tokens) > n
        if n >= len(tokens) or not (want in ("*", tokens[n]) or tokens[n].startswith("{")):
            return False
    return len(pattern) == len(tokens)
