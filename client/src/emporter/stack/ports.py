"""Ports of a stack: chosen once for a folder and kept, so that links and notebooks of yesterday work today."""

from __future__ import annotations

import random
import socket
from collections.abc import Mapping

import psutil

from emporter.errors import StackError

GRPC_OFFSET = 10_000
"""The S3 server takes a second port, this much higher, for each of its parts."""
RANGE = range(15_000, 22_000)
"""Where ports are drawn from: with the offset they stay below 32,768, where Linux begins to
give ports to outgoing connections."""

PLAIN = ("nats", "nats_http", "fetcher", "converter", "cataloger", "block_server")
TWINNED = ("s3", "s3_master", "s3_volume", "s3_filer", "s3_admin")


def choose_ports() -> dict[str, int]:
    """A free port for everything a stack may ever run."""
    chosen: dict[str, int] = {}
    candidates = iter(random.SystemRandom().sample(RANGE, len(RANGE)))
    for name in (*PLAIN, *TWINNED):
        for port in candidates:
            if all(is_free(p) for p in _taken_by(name, port)):
                chosen[name] = port
                break
        else:
            raise StackError(
                f"no free port from {RANGE.start} to {RANGE.stop}", hint="stop some of the programs that listen there"
            )
    return chosen


def check_free(ports: Mapping[str, int], chosen_in: str) -> None:
    """Raises StackError naming the first port that another program holds, and that program where it can be known."""
    for name, first in ports.items():
        for port in _taken_by(name, first):
            if not is_free(port):
                raise StackError(
                    f"port {port} of this stack ({name}) is held by {_holder(port)}",
                    hint=f"stop it, or delete {chosen_in} to let the stack choose anew",
                )


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback now."""
    with socket.socket() as probe:
        # Without it the last connections of a stack that just went down would count for a minute.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _taken_by(name: str, port: int) -> tuple[int, ...]:
    return (port, port + GRPC_OFFSET) if name in TWINNED else (port,)


def _holder(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.pid and connection.status == psutil.CONN_LISTEN:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    except psutil.Error:
        pass
    return "another program"
