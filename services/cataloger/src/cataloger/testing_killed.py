"""A PostgreSQL server that is killed and started again, and a cataloger process beside it; and catalogs compared row by row."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import inspect, select

from cataloger.database import Database
from cataloger.models import Annotation, Base, Decision, Event, Job, LineageEdge, QualityResult, RawObject, Revision, Volume
from cataloger.testing import _free_port, _run, _unprivileged_user, _wait, postgres_binaries

REBUILT: tuple[type[Base], ...] = (Job, Revision, Volume, LineageEdge, QualityResult, Event, Annotation, RawObject, Decision)
"""What store and streams make again. Webhooks are the database's own; the text of a policy is the operator's file, noted with the
time when a service first saw it.
"""


class Postgres:
    """A server whose transactions outlive its processes: only fsync is off, which a kill does not ask for, a power cut would."""

    def __init__(self, folder: Path) -> None:
        binaries = postgres_binaries()
        assert binaries is not None, "no PostgreSQL here: ask postgres_binaries() first"
        self._binaries, self._folder, self._user = binaries, folder, _unprivileged_user()
        self.port = _free_port()
        self._server: subprocess.Popen[bytes] | None = None
        if self._user is not None:
            shutil.chown(folder, self._user)
        made = [str(binaries / "initdb"), "-D", f"{folder}/data", "-U", "emporter", "-A", "trust", "-N", "-E", "UTF8"]
        _run(made, self._user, folder)

    @property
    def server_url(self) -> str:
        return f"postgresql+asyncpg://emporter@127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start, and recover what a kill left; does not wait for it."""
        command = [str(self._binaries / "postgres"), "-D", f"{self._folder}/data", "-p", str(self.port)]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self._folder}", "-c", "fsync=off"]
        with (self._folder / "server.log").open("ab") as log:
            self._server = subprocess.Popen(
                command, user=self._user, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def wait(self) -> None:
        assert self._server is not None
        _wait(self._server, self._binaries, self._folder, self.port)

    def kill(self) -> None:
        """SIGKILL to the server and every process of it."""
        assert self._server is not None
        pid = self._server.pid
        if self._server.poll() is not None:
            return
        # Held still meanwhile, so that it begins no other.
        self._server.send_signal(signal.SIGSTOP)
        backends = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        self._server.kill()
        self._server.wait()
        for backend in map(int, backends):
            with suppress(ProcessLookupError):
                os.kill(backend, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while any(_alive(int(backend)) for backend in backends):
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def create(self, name: str) -> str:
        """The URL of a new database."""
        done = [str(self._binaries / "psql"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-U", "emporter", "postgres"]
        _run([*done, "-c", f'CREATE DATABASE "{name}"'], None, self._folder)
        return f"{self.server_url}/{name}"

    def tool(self, name: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs, such as pg_dump, as our user."""
        command = [str(self._binaries / name), "-h", "127.0.0.1", "-p", str(self.port), "-U", "emporter", *arguments]
        _run(command, None, self._folder)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextmanager
def killable_postgres() -> Iterator[Postgres]:
    """A started server; gone with its folder on leaving."""
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir=tempfile.gettempdir()))
    folder.chmod(0o755)
    try:
        server = Postgres(folder)
        server.start()
        try:
            server.wait()
            yield server
        finally:
            server.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Cataloger:
    """The service as a process, with what it said in a file."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._environment = os.environ | environment
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = self._begin(log)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """SIGTERM, and wait."""
        assert self._process is not None
        self._process.terminate()
        assert self._process.wait(60) == 0, self.said()

    def said(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]

    def run(self, work: str, **environment: str) -> str:
        """One of its commands, to the end; what it said."""
        command = [sys.executable, "-m", "cataloger", work]
        done = subprocess.run(
            command, env=self._environment | environment, capture_output=True, text=True, check=False, timeout=600
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stderr

    def _begin(self, log: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "cataloger"], env=self._environment, stdout=log, stderr=log)


async def rows(database: Database) -> dict[str, dict[str, dict[str, Any]]]:
    """Every row of every table that can be made again, by table and key, with all its columns."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    async with database.reading() as session:
        for model in REBUILT:
            names = [str(column.key) for column in inspect(model).columns]
            keys = [str(column.key) for column in inspect(model).primary_key]
            table = found.setdefault(model.__tablename__, {})
            for row in await session.execute(select(*(getattr(model, name) for name in names))):
                values = dict(zip(names, row, strict=True))
                table["/".join(str(values[key]) for key in keys)] = values
    return found


def differences(one: dict[str, dict[str, dict[str, Any]]], other: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    """What two catalogs differ in, a line each."""
    told = []
    for table, ours in one.items():
        theirs = other[table]
        for key in sorted(ours.keys() | theirs.keys()):
            a, b = ours.get(key), theirs.get(key)
            if a is None or b is None:
                told.append(f"{table} {key}: only in {'the second' if a is None else 'the first'}")
                continue
            told += [f"{table} {key}.{where}: {x!r} != {y!r}"[:600] for where, x, y in _unlike(a, b)]
    return told


def _unlike(a: Any, b: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        for name in a.keys() | b.keys():
            yield from _unlike(a.get(name), b.get(name), f"{path}.{name}" if path else name)
    elif a != b:
        yield path, a, b
