"""A private stack for tests: its own folder and ports, short waits, gone with the test process whatever ends that.

with running_stack(tmp_path) as stack:
    stack.kill("converter")
    stack.client().wait(job)
"""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from emporter.client import Client, connect
from emporter.stack.choices import choices_of
from emporter.stack.detached import start_detached
from emporter.stack.files import StackFiles, StackInfo, StoreKind
from emporter.stack.plan import StackOptions, StackPlan
from emporter.stack.stopping import take_down

if TYPE_CHECKING:
    from emporter_runtime.objects import Objects
    from emporter_runtime.settings import Settings

SHORT_WAITS = {
    "EMPORTER_ACK_WAIT_SECONDS": "3",
    "EMPORTER_SWEEP_SECONDS": "0.5",
    "EMPORTER_GRACE_SECONDS": "5",
    "EMPORTER_URL_ALLOWED_HOSTS": "127.0.0.1",
    "EMPORTER_URL_ALLOW_PRIVATE": "true",
}
"""What a test of failures needs: a dead worker is noticed within seconds, and archives are on the loopback."""


class RunningStack:
    """A stack that is up."""

    def __init__(self, files: StackFiles, supervisor: int) -> None:
        self.files = files
        self.supervisor = supervisor
        self._clients: list[Client] = []

    @property
    def dir(self) -> Path:
        return self.files.root

    @property
    def urls(self) -> StackInfo:
        """Where everything answers: .nats, .catalog, .blocks, .s3, and who runs."""
        info = self.files.info()
        assert info is not None
        return info

    def client(self) -> Client:
        """A new client; closed with the stack."""
        made = connect(self.dir)
        self._clients.append(made)
        return made

    def record(self, volume: str) -> dict[str, Any]:
        """The record of a volume whose job is complete, as soon as the catalog has heard of it."""
        client = self.client()
        self.until(lambda: client.record(volume)["status"] == "complete", f"the catalog has {volume}")
        return client.record(volume)

    def settings(self) -> Settings:
        """The services' own settings: full rights on bus and store."""
        from emporter_runtime.settings import Settings

        return Settings.model_validate(json.loads(self.files.operator.read_text()))

    def objects(self) -> Objects:
        """The store with the services' rights."""
        from emporter_runtime.objects import Objects

        return Objects.open(self.settings())

    def process(self, name: str) -> psutil.Process:
        """The process of nats, s3, fetcher, converter, cataloger or block-server, as it runs now; waits for a restart."""
        self.until(lambda: self._found(name) is not None, f"{name} runs")
        found = self._found(name)
        assert found is not None
        return found

    def kill(self, name: str) -> int:
        """kill -9; the number of the process that was killed. The supervisor starts it again after a moment."""
        process = self.process(name)
        process.kill()
        return process.pid

    def freeze(self, name: str) -> psutil.Process:
        """SIGSTOP: it is there and does nothing, until `.resume()`."""
        process = self.process(name)
        process.suspend()
        return process

    def restarted(self, name: str, after: int, seconds: float = 60.0) -> psutil.Process:
        """The process that took the place of number `after`."""
        self.until(lambda: (p := self._found(name)) is not None and p.pid != after, f"{name} was started again", seconds)
        return self.process(name)

    def until_ready(self, seconds: float = 60.0) -> None:
        """Return when every process runs and says that it is ready."""
        self.until(lambda: all(self.is_ready(name) for name in self._probes), "every process is ready", seconds)

    def is_ready(self, name: str) -> bool:
        """Whether a process runs and says that it is ready."""
        return self._found(name) is not None and _answers_ok(self._probes[name])

    @cached_property
    def _probes(self) -> dict[str, str]:
        """What to ask each process, by its name."""
        plan = StackPlan(self.files, StackOptions(self.files.root), choices_of(self.files, None))
        return {spec.name: spec.probe for spec in (*plan.servers(), *plan.services())}

    def log(self, name: str) -> str:
        """Everything a process wrote so far."""
        return self.files.log(name).read_text(errors="replace")

    def until(self, condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
        """Return when `condition()` holds. Raises AssertionError naming `what` when it never does."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds:.0f} s: {what}")
            time.sleep(0.02)

    def close_clients(self) -> None:
        for client in self._clients:
            client.close()
        self._clients.clear()

    def _found(self, name: str) -> psutil.Process | None:
        identity = self.urls.processes.get(name)
        return identity.find() if identity is not None else None


@contextmanager
def running_stack(
    folder: Path,
    store: StoreKind = "s3",
    env: Mapping[str, str] | None = None,
    file_roots: Mapping[str, Path] | None = None,
) -> Iterator[RunningStack]:
    """A stack in `folder` that is up while inside, with SHORT_WAITS; called again on the same folder it finds its data."""
    files = StackFiles.at(folder)
    options = StackOptions(files.root, store, file_roots or {}, {**SHORT_WAITS, **(env or {})})
    with ExitStack() as cleaning:
        lifeline, held = os.pipe()
        cleaning.callback(os.close, held)
        process = start_detached(options, lambda _: None, lifeline)
        os.close(lifeline)
        stack = RunningStack(files, process.pid)
        cleaning.callback(process.wait)
        cleaning.callback(take_down, files)
        cleaning.callback(stack.close_clients)
        yield stack


def _answers_ok(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def kill_supervisor(stack: RunningStack) -> None:
    """kill -9 of the supervisor itself."""
    os.kill(stack.supervisor, signal.SIGKILL)
