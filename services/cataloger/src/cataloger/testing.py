"""A real PostgreSQL for tests: a server of its own in a temporary folder, gone afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg

from cataloger.database import Database

DEBIAN = "/usr/lib/postgresql"
"""Where Debian keeps the servers of each major version, outside PATH."""
START_SECONDS = 60.0
UNPRIVILEGED = ("postgres", "nobody")
"""Users a server is run as where we are root: PostgreSQL refuses to run as root."""


class PostgresDidNotStartError(RuntimeError):
    """The server ended or never answered; the message holds the end of its log."""


def postgres_binaries() -> Path | None:
    """The folder of `initdb` and `postgres`: by PATH, else the newest of Debian's packages; None where there is none."""
    found = shutil.which("initdb")
    if found is not None and shutil.which("postgres") is not None:
        return Path(found).resolve().parent
    versions = [p for p in Path(DEBIAN).glob("*/bin") if (p / "initdb").exists() and (p / "postgres").exists()]
    return max(versions, key=lambda p: float(p.parent.name), default=None)


@contextmanager
def postgres_server(**settings: str) -> Iterator[str]:
    """The URL (`postgresql+asyncpg://…`, without a database) of a running server. Durability is off: it dies with its folder."""
    binaries = postgres_binaries()
    assert binaries is not None, "no PostgreSQL here: ask postgres_binaries() first"
    # Not below pytest's own folder: that one only its owner may enter.
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir=tempfile.gettempdir()))
    user = _unprivileged_user()
    if user is not None:
        shutil.chown(folder, user)
    server: subprocess.Popen[bytes] | None = None
    try:
        _run(
            [str(binaries / "initdb"), "-D", f"{folder}/data", "-U", "emporter", "-A", "trust", "-N", "-E", "UTF8"], user, folder
        )
        port = _free_port()
        server = _spawn(binaries, folder, port, user, settings)
        _wait(server, binaries, folder, port)
        yield f"postgresql+asyncpg://emporter@127.0.0.1:{port}"
    finally:
        if server is not None:
            server.send_signal(signal.SIGINT)  # "fast": it waits for no client that was left connected
            server.wait()
        shutil.rmtree(folder, ignore_errors=True)


async def create_database(server: str, template: str = "template1") -> str:
    """The URL of a new database on `server`, a copy of the one named `template`, to which nobody may be connected."""
    name = f"test_{uuid4().hex}"
    await _say(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    return f"{server}/{name}"


async def filled_database(server: str, template: str, fill: Callable[[Database], Awaitable[None]]) -> str:
    """The URL of a copy of `template` after `fill`."""
    url = await create_database(server, template)
    database = Database.open(url)
    await fill(database)
    await database.close()
    return url


async def drop_database(url: str) -> None:
    """At once: hundreds that are left to the end of a server take minutes to remove."""
    server, _, name = url.rpartition("/")
    await _say(server, f"DROP DATABASE {name} WITH (FORCE)")


async def _say(server: str, statement: str) -> None:
    connection = await asyncpg.connect(f"{server}/postgres".replace("+asyncpg", ""))
    await connection.execute(statement)
    await connection.close()


def _spawn(binaries: Path, folder: Path, port: int, user: str | None, settings: Mapping[str, str]) -> subprocess.Popen[bytes]:
    options = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": str(folder),
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
        **settings,
    }
    command = [str(binaries / "postgres"), "-D", f"{folder}/data", "-p", str(port)]
    command += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    with (folder / "server.log").open("wb") as log:
        return subprocess.Popen(command, user=user, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _wait(server: subprocess.Popen[bytes], binaries: Path, folder: Path, port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    ask = [str(binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
    while server.poll() is None and time.monotonic() < deadline:
        if subprocess.run(ask, check=False, cwd=folder).returncode == 0:
            return
        time.sleep(0.05)
    server.kill()
    server.wait()
    raise PostgresDidNotStartError((folder / "server.log").read_text()[-2000:])


def _run(command: Sequence[str], user: str | None, folder: Path) -> None:
    done = subprocess.run(command, user=user, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PostgresDidNotStartError(f"{command[0]}: {done.stderr[-2000:]}")


def _unprivileged_user() -> str | None:
    """A user to run the server as; None where we are one ourselves."""
    if os.geteuid() != 0:
        return None
    there = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in UNPRIVILEGED if name in there)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
