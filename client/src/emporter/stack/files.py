"""What lies in the folder of a stack, and who may read it.

stack.json       for clients: where everything answers, the client's user and inbox key, who runs (0600)
operator.json    the services' own credentials, as settings (0600)
chosen.json      ports, passwords and kind of store, chosen once and kept (0600)
lock             held by the supervisor while it lives
logs/            one file a process
nats/ s3/ store/ catalog.db    data
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from emporter.errors import StackError, StackIsUpError
from emporter.stack.identity import ProcessIdentity

DEFAULT_FOLDER = Path(".emporter")
"""Where `emporter up` keeps its data unless told otherwise, and where every other command looks last."""

StoreKind = Literal["s3", "file"]


class StackInfo(BaseModel):
    """`stack.json`. `s3` is None where the store is a folder; then `store` says which."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    nats: str
    catalog: str
    blocks: str
    s3: str | None = None
    store: str
    nats_user: str
    nats_password: str
    inbox_access_key: str = ""
    inbox_secret_key: str = ""
    ready: bool = False
    supervisor: ProcessIdentity | None = None
    processes: dict[str, ProcessIdentity] = {}

    @property
    def live(self) -> bool:
        """Whether the supervisor that wrote this still runs."""
        return self.supervisor is not None and self.supervisor.alive()


M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class StackFiles:
    """The folder of one stack. `root` is absolute."""

    root: Path

    @classmethod
    def at(cls, folder: Path) -> StackFiles:
        return cls(folder.expanduser().resolve())

    @property
    def stack(self) -> Path:
        return self.root / "stack.json"

    @property
    def operator(self) -> Path:
        return self.root / "operator.json"

    @property
    def chosen(self) -> Path:
        return self.root / "chosen.json"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    def log(self, process: str) -> Path:
        return self.root / "logs" / f"{process}.log"

    def make(self) -> None:
        """Create the folder, for its owner only. Raises StackError."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.root / "logs").mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StackError(
                f"can't make {self.root}: {error.strerror}", hint="name a folder you may write to with --data"
            ) from error

    def info(self) -> StackInfo | None:
        """What clients are told; None where no stack was ever up here, or its file can't be read as one."""
        return read_private(self.stack, StackInfo)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; the lock ends with this process whatever ends it. Raises StackIsUpError."""
        with self.lock.open("a") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StackIsUpError(
                    f"the stack in {self.root} is up already", hint=f"emporter down --data {shlex.quote(str(self.root))} stops it"
                ) from error
            yield

    def is_locked(self) -> bool:
        """Whether a supervisor holds this folder now."""
        if not self.lock.exists():
            return False
        try:
            with self.locked():
                return False
        except StackIsUpError:
            return True


def read_private(path: Path, model: type[M]) -> M | None:
    """The value in a file of ours, None where there is none that can be read."""
    try:
        return model.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


def write_private(path: Path, text: str) -> None:
    """Put a whole file in place at once, readable by its owner only."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # made 0600
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_model(path: Path, value: BaseModel) -> None:
    """A value as JSON for people and programs, readable by its owner only."""
    write_private(path, json.dumps(value.model_dump(mode="json"), indent=2) + "\n")
