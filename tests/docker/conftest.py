"""The engine, and the images of docker-compose.yml: what is tested here is what is deployed."""

from __future__ import annotations

import os
import re
import runpy
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from docker.errors import DockerException

import docker

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def engine() -> None:
    """Returns where a container engine answers; else what asks for it is skipped."""
    try:
        knock(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"))
        client = docker.from_env()
        client.ping()
    except (DockerException, OSError) as error:
        pytest.skip(f"no container engine: {error}")
    client.close()


def knock(host: str) -> None:
    """Raises OSError where nobody listens on a Unix socket: there the client would leave an open one behind, which is a warning."""
    if host.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(host.removeprefix("unix://"))


@pytest.fixture(scope="session")
def deployed_image(engine: None) -> Callable[[str], str]:
    """The image of a service of docker-compose.yml, by the service's name."""
    services: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return lambda service: re.sub(r"\$\{\w+:-(.+)\}", r"\1", services[service]["image"])


@pytest.fixture(scope="session")
def secrets() -> dict[str, str]:
    """Users and passwords as `make containers` would make them."""
    script = runpy.run_path(str(ROOT / "deploy" / "make_env.py"))
    pairs: dict[str, str] = script["assignments"](script["filled"]((ROOT / ".env.example").read_text(), {}))
    return pairs
