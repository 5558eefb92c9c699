"""The block-server on Kubernetes is never open, and what it is told is what it knows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from block_server.settings import BlockServerSettings
from emporter_runtime.access import AccessSettingsError

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = ROOT / "deploy" / "kubernetes" / "block-server.yaml"
DEPLOYMENT, SERVICE = yaml.safe_load_all(MANIFEST.read_text())
POD: dict[str, Any] = DEPLOYMENT["spec"]["template"]["spec"]
CONTAINER: dict[str, Any] = POD["containers"][0]
ENVIRONMENT: dict[str, Any] = {entry["name"]: entry.get("value") for entry in CONTAINER["env"]}
MIB = 2**20
INTERPRETER_BYTES = 200 * MIB


def test_the_manifest_is_clean_yaml() -> None:
    command = [sys.executable, "-m", "yamllint", "--strict", "-c", "deploy/yamllint.yml", str(MANIFEST)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_setting_is_one_the_block_server_knows_and_the_limit_leaves_room() -> None:
    assert set(ENVIRONMENT) <= {f"EMPORTER_{name.upper()}" for name in BlockServerSettings.model_fields}
    held = sum(int(ENVIRONMENT[f"EMPORTER_BLOCKS_{kind}_BYTES"]) for kind in ("CACHE", "IN_FLIGHT", "PASSTHROUGH"))
    assert held + INTERPRETER_BYTES <= int(CONTAINER["resources"]["limits"]["memory"].removesuffix("Mi")) * MIB


def test_tokens_are_demanded_and_come_from_a_folder_that_follows_its_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    mount = next(one for one in CONTAINER["volumeMounts"] if one["name"] == "access")
    assert "subPath" not in mount
    file = Path(ENVIRONMENT["EMPORTER_ACCESS_FILE"])
    assert str(file.parent) == mount["mountPath"]
    volume = next(one for one in POD["volumes"] if one["name"] == "access")
    assert file.name in [item["path"] for item in volume["secret"]["items"]]
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value or "s" * 40)
    settings = BlockServerSettings(http_host="0.0.0.0")
    with pytest.raises(AccessSettingsError, match="can't be read"):  # the file is not here, and so nothing is open
        settings.who_may_read()


def test_what_watches_pods_needs_no_token() -> None:
    probes = {CONTAINER[name]["httpGet"]["path"] for name in ("livenessProbe", "readinessProbe")}
    assert probes == {"/healthz", "/readyz"}
    assert SERVICE["spec"]["selector"] == DEPLOYMENT["spec"]["selector"]["matchLabels"]
