"""The AsyncAPI document is the whole bus: valid, and nothing on the bus is missing from it."""

from __future__ import annotations

from emporter_contracts import asyncapi, topology
from emporter_contracts.export import schemas


def test_every_stream_subject_and_every_consumer_is_described() -> None:
    document = asyncapi.document()
    channels = document["channels"].values()
    described = {c["name"] for channel in channels for c in channel.get("x-emporter-consumers", [])}
    assert described == {c.name for c in topology.CONSUMERS if c.stream != "ADVISORIES"}
    streams = {channel["x-emporter-stream"]["name"] for channel in channels if "x-emporter-stream" in channel}
    assert streams == {s.name for s in topology.STREAMS} - {"ADVISORIES"}


def test_every_payload_is_one_of_the_exported_schemas() -> None:
    files = schemas()
    for message in asyncapi.document()["components"]["messages"].values():
        assert message["payload"]["$ref"].removeprefix("./") in files


def test_references_lead_somewhere() -> None:
    document = asyncapi.document()
    for operation in document["operations"].values():
        assert operation["channel"]["$ref"].removeprefix("#/channels/") in document["channels"]
    for channel in document["channels"].values():
        for message in channel["messages"].values():
            assert message["$ref"].removeprefix("#/components/messages/") in document["components"]["messages"]


def test_core_subjects_are_in_no_stream() -> None:
    for address in ("progress.{job}", "reply.{token}", "ingest.plan", "catalog.query", "ingest.control.{job}"):
        assert asyncapi.stream_of(address) is None
