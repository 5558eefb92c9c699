"""A real bus for tests: the wheel's nats-server on a free port of the loopback, provisioned, in a folder of its own."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import nats
import nats.errors

from emporter_runtime.bus import Bus
from emporter_runtime.provision import provision
from emporter_runtime.settings import Settings

READY_SECONDS = 20.0
"""A loaded machine of two cores may take this long to start a server."""


def free_port() -> int:
    """A port of the loopback nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class NatsServer:
    """A nats-server process that can be killed, frozen, wiped and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        binary = Path(sys.executable).with_name("nats-server")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [str(binary), "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self.folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        """As a power cut would: no goodbye."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def wipe(self) -> None:
        """Everything the bus knew, gone. Only while it does not run."""
        shutil.rmtree(self.folder)

    async def until_ready(self) -> None:
        """Returns when JetStream answers."""
        async with asyncio.timeout(READY_SECONDS):
            while not await self._answers():
                await asyncio.sleep(0.02)

    async def _answers(self) -> bool:
        # nats-py waits two seconds before it tries again, so the port is asked first.
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.close()
            connection = await nats.connect(self.url, allow_reconnect=False)
            await connection.jetstream(timeout=2).account_info()
            await connection.close()
        except (OSError, nats.errors.Error):
            return False
        return True


@contextmanager
def nats_server(folder: Path) -> Iterator[NatsServer]:
    """A started server; killed on leaving."""
    server = NatsServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@asynccontextmanager
async def provisioned(folder: Path, **settings: Any) -> AsyncIterator[tuple[Settings, NatsServer]]:
    """Settings of a provisioned bus and a store in a folder. Short waits, so that tests of failures end."""
    values: dict[str, Any] = {"store_url": f"file://{folder}/store", "ack_wait_seconds": 2.0, "sweep_seconds": 0.5, **settings}
    with nats_server(folder / "nats") as server:
        await server.until_ready()
        made = Settings(nats_url=server.url, **values)
        await provision(made)
        yield made, server


@asynccontextmanager
async def speaking(settings: Settings) -> AsyncIterator[Bus]:
    """A bus that publishes and consumes nothing."""
    bus = Bus(settings, "test")
    await bus.broker.connect()
    try:
        yield bus
    finally:
        await bus.broker.stop()
