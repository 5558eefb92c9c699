"""The Kubernetes manifests against the code they start and the queues they scale by."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from converter.settings import ConverterSettings
from emporter_contracts.topology import CONSUMERS, consumer_named
from emporter_runtime.stewarding import MAX_OUTSTANDING

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = ROOT / "deploy" / "kubernetes" / "converter.yaml"
DEPLOYMENT, SCALED = yaml.safe_load_all(MANIFEST.read_text())
POD: dict[str, Any] = DEPLOYMENT["spec"]["template"]["spec"]
CONTAINER: dict[str, Any] = POD["containers"][0]
TRIGGERS: list[dict[str, str]] = [trigger["metadata"] for trigger in SCALED["spec"]["triggers"]]
NATS = (ROOT / "deploy" / "nats" / "nats.conf").read_text()
MIB = 2**20


def test_the_manifest_is_clean_yaml() -> None:
    command = [sys.executable, "-m", "yamllint", "--strict", "-c", "deploy/yamllint.yml", str(MANIFEST)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_converters_are_scaled_by_the_queues_that_the_topology_says_are_theirs() -> None:
    commands = {c.name for c in CONSUMERS if c.stream == "CONVERT" and c.name.startswith("converter-")}
    assert {trigger["consumer"] for trigger in TRIGGERS} == commands
    for trigger in TRIGGERS:
        assert trigger["stream"] == consumer_named(trigger["consumer"]).stream


@pytest.mark.parametrize("trigger", TRIGGERS, ids=lambda trigger: trigger["consumer"])
def test_a_trigger_asks_the_monitoring_port_for_the_account_of_the_services(trigger: dict[str, str]) -> None:
    assert {"natsServerMonitoringEndpoint", "account", "stream", "consumer", "lagThreshold"} == set(trigger)
    port = re.search(r'^http: "0\.0\.0\.0:(\d+)"', NATS, re.MULTILINE)
    assert port is not None
    assert trigger["natsServerMonitoringEndpoint"].endswith(f":{port[1]}")
    assert re.search(rf"^    {trigger['account']}: {{\n        jetstream: enabled", NATS, re.MULTILINE)
    # KEDA takes strings only, and no value that is less than one.
    assert int(trigger["lagThreshold"]) >= 1


def test_the_scaled_object_names_the_deployment_and_keeps_a_steward() -> None:
    assert (SCALED["apiVersion"], SCALED["kind"]) == ("keda.sh/v1alpha1", "ScaledObject")
    assert {trigger["type"] for trigger in SCALED["spec"]["triggers"]} == {"nats-jetstream"}
    assert SCALED["spec"]["scaleTargetRef"]["name"] == DEPLOYMENT["metadata"]["name"]
    assert "replicas" not in DEPLOYMENT["spec"]
    assert SCALED["spec"]["minReplicaCount"] >= 1
    threshold = next(int(t["lagThreshold"]) for t in TRIGGERS if t["consumer"] == "converter-task")
    assert SCALED["spec"]["maxReplicaCount"] * threshold <= MAX_OUTSTANDING


def test_every_setting_is_one_the_converter_knows_and_the_limit_leaves_room_above_the_budget() -> None:
    values = {entry["name"]: entry["value"] for entry in CONTAINER["env"]}
    known = {f"EMPORTER_{name.upper()}" for name in ConverterSettings.model_fields}
    assert set(values) <= known
    limit = int(CONTAINER["resources"]["limits"]["memory"].removesuffix("Mi")) * MIB
    assert int(values["EMPORTER_CONVERTER_MEMORY_BYTES"]) * 5 // 4 <= limit
    grace = ConverterSettings.model_fields["grace_seconds"].default
    assert POD["terminationGracePeriodSeconds"] >= grace + 15


def test_a_pod_owns_nothing() -> None:
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"] is True
    assert CONTAINER["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert POD["automountServiceAccountToken"] is False
