"""`docker compose up`: images are built, everything becomes healthy and ready, nobody is root, and it ends when told to."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import tifffile

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parents[2]
PORTS = ("NATS_PORT", "S3_PORT", "CATALOG_PORT", "BLOCKS_PORT")
READY_SECONDS = 60.0
SERVICES = ("fetcher", "converter", "cataloger", "block-server")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Project:
    """One run of docker-compose.yml under a name, secrets and ports of its own."""

    def __init__(self, values: dict[str, str], env_file: Path) -> None:
        self.values = values
        self._command = ["docker", "compose", "--project-name", f"emporter-{uuid4().hex[:8]}", "--env-file", str(env_file)]
        env_file.write_text("".join(f"{name}={value}\n" for name, value in values.items()))

    def run(self, *arguments: str) -> str:
        done = subprocess.run([*self._command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{arguments}: {done.stderr[-4000:]}\n{done.stdout[-4000:]}"
        return done.stdout

    def client(self, *arguments: str) -> str:
        """`emporter` on this machine, with a client's rights."""
        script = runpy.run_path(str(ROOT / "deploy" / "make_env.py"))
        told = script["assignments"](script["client_environment"](self.values).replace("export ", ""))
        command = [str(Path(sys.executable).with_name("emporter")), *arguments]
        done = subprocess.run(command, env=os.environ | told, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{arguments}: {done.stderr[-4000:]}\n{done.stdout[-4000:]}"
        return done.stdout

    def containers(self, service: str) -> Sequence[dict[str, str]]:
        return [json.loads(line) for line in self.run("ps", "--all", "--format", "json", service).splitlines()]


@pytest.fixture(scope="module")
def project(engine: None, secrets: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no docker compose here")
    values = secrets | {name: str(free_port()) for name in PORTS}
    made = Project(values, tmp_path_factory.mktemp("compose") / "env")
    try:
        made.run("up", "--build", "--detach", "--wait", "--scale", "converter=2")
        yield made
    finally:
        made.run("down", "--volumes", "--remove-orphans")


def until_ready(address: str) -> dict[str, object]:
    """The answer of /readyz once it is 200."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{address}/readyz", timeout=10) as answer:
                ready: dict[str, object] = json.load(answer)
                return ready
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@pytest.mark.parametrize("service", SERVICES)
def test_every_replica_is_healthy(project: Project, service: str) -> None:
    found = project.containers(service)
    assert len(found) == (2 if service == "converter" else 1)
    assert {container["Health"] for container in found} == {"healthy"}


def test_provisioning_ended_well(project: Project) -> None:
    assert [container["ExitCode"] for container in project.containers("provision")] == [0]


@pytest.mark.parametrize("port", ["CATALOG_PORT", "BLOCKS_PORT"])
def test_what_is_published_is_ready(project: Project, port: str) -> None:
    assert until_ready(f"http://127.0.0.1:{project.values[port]}")["ready"] is True


@pytest.mark.parametrize("service", SERVICES)
def test_nobody_is_root_and_nothing_but_tmp_can_be_written(project: Project, service: str) -> None:
    probe = (
        "import os\n"
        "assert os.getuid() == 10001\n"
        "open('/tmp/probe', 'w').close()\n"
        "try:\n    open('/venv/probe', 'w')\n"
        "except OSError:\n    print('refused')\n"
    )
    assert project.run("exec", "-T", service, "python", "-c", probe).strip() == "refused"


def test_an_image_has_no_tools_of_ours_in_it(project: Project) -> None:
    listed = project.run("exec", "-T", "converter", "ls", "/venv/bin").split()
    assert not {"pip", "pytest", "mypy", "ruff", "nats-server", "weed"} & set(listed)


def test_up_once_more_changes_nothing(project: Project) -> None:
    before = {service: [c["ID"] for c in project.containers(service)] for service in SERVICES}
    project.run("up", "--detach", "--wait", "--scale", "converter=2")
    assert {service: [c["ID"] for c in project.containers(service)] for service in SERVICES} == before


def test_a_volume_goes_all_the_way_and_comes_back_voxel_for_voxel(project: Project, tmp_path: Path) -> None:
    voxels = np.random.default_rng(1).integers(0, 2**16, (9, 200, 170), np.uint16)
    tifffile.imwrite(tmp_path / "stack.tif", voxels, photometric="minisblack")
    project.client("ingest", str(tmp_path / "stack.tif"), "--voxel-size-nm", "50,8,8", "--yes", "--watch")
    (volume,) = json.loads(project.client("volumes", "--status", "complete", "--json"))
    block = tmp_path / "block.npy"
    project.client("block", volume["volume"], "--origin", "2,30,7", "--shape", "5,128,99", "-o", str(block))
    assert np.array_equal(np.load(block), voxels[2:7, 30:158, 7:106])
