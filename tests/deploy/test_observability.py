"""What is drawn is what is counted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.registry import Collector

import block_server.telemetry
import emporter_runtime.policy.judging
import emporter_runtime.telemetry
from emporter_contracts.topology import STREAMS
from emporter_runtime.telemetry import bus_metrics

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "emporter.json").read_text())
PROMETHEUS = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
TARGETS = [target for panel in DASHBOARD["panels"] for target in panel["targets"]]
OTHERS = {"jetstream_consumer_num_pending", "jetstream_consumer_num_ack_pending"}
"""Of the exporter of NATS."""
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


def names(collector: Collector) -> Iterator[str]:
    for metric in collector.collect():
        yield from (metric.name + suffix for suffix in SUFFIXES.get(metric.type, ()))


def counted() -> set[str]:
    """Every name a service of ours shows."""
    registry = CollectorRegistry()
    bus_metrics("any", registry)
    assert all((emporter_runtime.telemetry.FAILURES, block_server.telemetry.REQUESTS, emporter_runtime.policy.judging.POLICY))
    return {*names(REGISTRY), *names(registry), "process_resident_memory_bytes", "process_cpu_seconds_total"}


def asked(expression: str) -> set[str]:
    """The metrics of a query: words that are followed by labels or a range, or that end in a unit."""
    return set(re.findall(r"\b((?:emporter|jetstream|process)_\w+)\b", expression))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target["expr"][:60])
def test_a_panel_asks_for_metrics_that_exist(target: dict[str, str]) -> None:
    assert asked(target["expr"])
    assert asked(target["expr"]) <= counted() | OTHERS


def rules() -> list[dict[str, Any]]:
    text = (ROOT / "deploy" / "grafana" / "provisioning" / "alerting" / "emporter.yml").read_text()
    found: list[dict[str, Any]] = yaml.safe_load(text)["groups"][0]["rules"]
    return found


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["uid"])
def test_an_alert_asks_for_metrics_that_exist_and_says_what_to_do(rule: dict[str, Any]) -> None:
    expression = rule["data"][0]["model"]["expr"]
    assert asked(expression)
    assert asked(expression) <= counted() | OTHERS
    assert rule["condition"] in {part["refId"] for part in rule["data"]}
    assert rule["annotations"]["summary"]


def test_every_counter_of_ours_is_drawn() -> None:
    ours = {name for name in counted() if name.startswith("emporter_") and name.endswith("_total") and "_bus_" not in name}
    drawn = set().union(*(asked(target["expr"]) for target in TARGETS))
    assert ours <= drawn


def test_the_queues_that_are_drawn_are_the_queues_of_commands() -> None:
    named = {
        name for target in TARGETS for names in re.findall(r'stream_name=~"([^"]+)"', target["expr"]) for name in names.split("|")
    }
    assert named == {stream.name for stream in STREAMS if stream.retention == "workqueue"}


def test_panels_have_ids_of_their_own_and_the_source_that_is_provisioned() -> None:
    source = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"][0]
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    assert {target["datasource"]["uid"] for target in TARGETS} == {source["uid"]}


def test_every_service_of_ours_that_runs_on_is_scraped() -> None:
    scraped = {name for job in PROMETHEUS["scrape_configs"] for found in job.get("dns_sd_configs", []) for name in found["names"]}
    assert scraped == {name for name, what in SERVICES.items() if "build" in what and what["restart"] != "no"}
    fixed = {t.split(":")[0] for job in PROMETHEUS["scrape_configs"] for c in job.get("static_configs", []) for t in c["targets"]}
    assert fixed <= set(SERVICES)
