"""Bearer tokens, and the file an operator keeps them in: never a token itself, only its SHA-256.

A token is `emt_<id>_<secret>`: 8 hex digits that name it, and 256 random bits. Nothing slower than SHA-256 is needed against
guessing those.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from emporter_contracts.errors import InvalidValueError
from emporter_runtime.access import AccessSettingsError, Budget, Entry, Scope
from emporter_runtime.logging import get_logger

LOOK_SECONDS = 1.0
"""How often the file is looked at: a token that was revoked is refused a second later."""
SECRET_BYTES = 32
_TOKEN = re.compile(r"emt_(?P<id>[0-9a-f]{8})_[A-Za-z0-9_-]{43}\Z", re.ASCII)

log = get_logger(__name__)


class Token(BaseModel):
    """What is kept of a token. `volumes` are entries of a scope; `metrics` lets it read /metrics."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
    name: Annotated[str, Field(max_length=80)] = ""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    volumes: tuple[str, ...] = ()
    metrics: bool = False
    created_at: datetime
    expires_at: datetime | None = None
    budget: Budget | None = None

    @field_validator("volumes")
    @classmethod
    def _entries(cls, volumes: tuple[str, ...]) -> tuple[str, ...]:
        for one in volumes:
            Entry.parse(one)
        return volumes

    @property
    def scope(self) -> Scope:
        return tuple(Entry.parse(one) for one in self.volumes)

    def alive(self, now: float) -> bool:
        """Whether its time is not over; `now` in seconds since 1970."""
        return self.expires_at is None or now < self.expires_at.timestamp()


class TokenFile(BaseModel):
    """The whole file, JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    tokens: tuple[Token, ...] = ()


def new_token(
    name: str,
    volumes: Sequence[str],
    *,
    metrics: bool = False,
    expires_at: datetime | None = None,
    budget: Budget | None = None,
) -> tuple[Token, str]:
    """A token to be kept, and its text, which is nowhere else. Raises InvalidValueError."""
    id_ = secrets.token_hex(4)
    text = f"emt_{id_}_{secrets.token_urlsafe(SECRET_BYTES)}"
    for one in volumes:
        Entry.parse(one)
    if not volumes and not metrics:
        raise InvalidValueError("a token for no volume lets nobody read anything", hint="name volumes, or * for all")
    now = datetime.now(UTC).replace(microsecond=0)
    token = Token(
        id=id_,
        name=name,
        sha256=digest_of(text),
        volumes=tuple(volumes),
        metrics=metrics,
        created_at=now,
        expires_at=expires_at,
        budget=budget,
    )
    return token, text


def digest_of(text: str) -> str:
    """SHA-256 in hex, as it is kept."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_tokens(path: Path) -> TokenFile:
    """Raises AccessSettingsError."""
    try:
        return TokenFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise AccessSettingsError(
            f"the tokens in {path} can't be read: {error.strerror}", hint=f"emporter token new --file {path} makes the first"
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise AccessSettingsError(
            f"the tokens in {path} can't be read: {where}: {first['msg']}".replace("\n", " "),
            hint="emporter token list --file FILE says when it is well",
        ) from None


@contextmanager
def changing(path: Path) -> Iterator[Callable[[Sequence[Token]], None]]:
    """Yields what replaces the tokens of a file in one step, while nobody else does. Only its owner may read a new one."""
    import fcntl

    with path.with_name(path.name + ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lambda tokens: _replace(path, TokenFile(tokens=tuple(tokens)))


def _replace(path: Path, body: TokenFile) -> None:
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(body.model_dump_json(indent=1) + "\n")
        os.fchmod(file.fileno(), mode)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


class Tokens:
    """The tokens of a file, read again when it changes."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises AccessSettingsError where the file can't be read."""
        self._path = path
        self._clock = clock
        self._seen = self._mark()
        self._by_id = {token.id: token for token in read_tokens(path).tokens}
        self._looked = clock()

    def find(self, id_: str) -> Token | None:
        """The token of that id, if it was not revoked."""
        self._look()
        return self._by_id.get(id_)

    def known(self, text: str) -> Token | None:
        """The token that `text` is."""
        match = _TOKEN.match(text)
        token = self.find(match["id"]) if match else None
        # Compared in any case, so that nothing is learned from how long an answer takes.
        same = hmac.compare_digest(digest_of(text), token.sha256 if token else "0" * 64)
        return token if same else None

    def _look(self) -> None:
        now = self._clock()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        seen = self._mark()
        if seen == self._seen:
            return
        self._seen = seen
        if seen is None:
            # Taken away is not broken: who takes it away means that nobody is to be let in.
            log.error("tokens_gone", file=str(self._path))
            self._by_id = {}
            return
        try:
            self._by_id = {token.id: token for token in read_tokens(self._path).tokens}
            log.info("tokens_read", file=str(self._path), tokens=len(self._by_id))
        except AccessSettingsError as error:
            # Half a file must not lock everybody out; it is read again when it changes again.
            log.error("tokens_unreadable", reason=error.message, kept=len(self._by_id))  # noqa: TRY400  # the message says it all

    def _mark(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_ino, found.st_size)
