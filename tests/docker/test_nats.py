"""The bus of the containers: the image takes our configuration, and the topology can be applied to it."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import nats
import nats.errors
import pytest
from pydantic import SecretStr

from emporter_contracts.topology import CONSUMERS, STREAMS
from emporter_runtime.provision import missing_consumers, provision
from emporter_runtime.settings import Settings

pytestmark = pytest.mark.docker

CONFIGURATION = Path(__file__).resolve().parents[2] / "deploy" / "nats" / "nats.conf"


@pytest.fixture(scope="module")
def bus(deployed_image: Callable[[str], str], secrets: dict[str, str]) -> Iterator[tuple[str, str]]:
    """The addresses of a running server: of the bus, of its monitoring."""
    from testcontainers.community.nats import NatsContainer

    container = NatsContainer(image=deployed_image("nats")).with_command("--config /etc/nats/nats.conf")
    container.with_volume_mapping(str(CONFIGURATION), "/etc/nats/nats.conf", "ro")
    for name, value in secrets.items():
        container.with_env(name, value)
    with container as server:
        yield server.nats_uri(), server.nats_management_uri()


@pytest.fixture
def settings(bus: tuple[str, str], secrets: dict[str, str], tmp_path: Path) -> Settings:
    return Settings(
        nats_url=bus[0],
        nats_user=secrets["EMPORTER_NATS_USER"],
        nats_password=SecretStr(secrets["EMPORTER_NATS_PASSWORD"]),
        store_url=f"file://{tmp_path}",
    )


async def test_the_whole_topology_is_applied_and_applied_again(settings: Settings) -> None:
    await provision(settings)
    await provision(settings)
    connection = await nats.connect(
        settings.nats_url,
        user=settings.nats_user,
        password=settings.nats_password.get_secret_value(),  # type: ignore[union-attr]
    )
    try:
        js = connection.jetstream()
        assert {info.config.name for info in await js.streams_info()} >= {stream.name for stream in STREAMS}
        assert await missing_consumers(js, [consumer.name for consumer in CONSUMERS]) == []
    finally:
        await connection.close()


def test_what_compose_asks_for_health_is_answered(bus: tuple[str, str]) -> None:
    address = bus[1].replace("nats://", "http://")
    with urllib.request.urlopen(f"{address}/healthz", timeout=10) as answer:
        assert answer.status == 200


async def test_nobody_connects_without_a_password(bus: tuple[str, str]) -> None:
    async def quiet(_: Exception) -> None: ...

    with pytest.raises(nats.errors.Error):
        await nats.connect(bus[0], allow_reconnect=False, error_cb=quiet)
