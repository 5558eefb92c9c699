"""Folders somewhere else that are read where they lie: behind http(s)://, in public buckets (s3://, gs://), below file roots.

A root is opened by what an operator allows, never by what a name leads to: hosts by name, addresses at each connection, files one
step at a time. Nothing here writes.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Protocol
from urllib.parse import urlsplit

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from emporter_runtime.errors import PermanentError, TransientError
from emporter_runtime.settings import StoreSettings

FILE_ROOT = "file-root:"
"""What the name of a folder below a file root begins with: `file-root:<name>/<folder>`."""
SCHEMES = ("http://", "https://", "s3://", "gs://", FILE_ROOT)
GOOGLE = "https://storage.googleapis.com"
MOST_OBJECT_BYTES = 2**30 + 2**24
"""Of one object that is read whole: the largest chunk that readers decode, and what lies around it."""

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]\Z")


class RootRefusedError(PermanentError):
    """An address or folder that no operator allowed, or that can't be kept: it holds credentials."""

    code = "source_refused"


class RootForbiddenError(RootRefusedError):
    """The source has it, but not for us, or answers with no data. Buckets that may not be listed say so of what is not there."""

    code = "source_forbidden"


class RootUnreachableError(TransientError):
    """The source does not answer, answers with an error of its own, or breaks off."""

    code = "source_unreachable"


class RootSettings(StoreSettings):
    """What may be opened that is not ours: EMPORTER_FILE_ROOTS, EMPORTER_URL_… and the like."""

    file_roots: Annotated[dict[str, Path], NoDecode] = {}
    """Folders of this machine that messages may name, by name: {"scope1": "/data/scope1"}."""
    url_allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Hosts that may be opened, as a JSON list or with commas: a host, `*.suffix`, or `*` for every public host."""
    url_allow_private: bool = False
    """Whether names may lead to loopback, private and link-local addresses: for archives inside one's own network, and tests."""
    url_s3_endpoint: str = ""
    """Where `s3://` is asked, in path style; empty: AWS. Its host must be allowed like any other."""
    url_s3_region: str = "us-east-1"
    http_connect_seconds: Annotated[float, Field(gt=0)] = 10.0
    http_stall_seconds: Annotated[float, Field(gt=0)] = 30.0
    """How long an archive may send nothing in the middle of an answer."""

    @field_validator("file_roots", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        return json.loads(value) if isinstance(value, str) else value

    @field_validator("url_allowed_hosts", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("["):
            return json.loads(value)
        return tuple(part.strip() for part in value.split(",") if part.strip())


@dataclass(frozen=True, slots=True)
class Got:
    """Bytes of one object: `version` tells it from others of that name (empty where the source says nothing that could),
    `modified` when it was last changed, `size` its bytes in all, `clock` what the source's clock showed.
    """

    data: bytes
    size: int
    version: str
    modified: datetime | None
    clock: datetime | None = None


class Root(Protocol):
    """A folder somewhere else. Names are relative to it. Its coroutines belong to one event loop.

    Everything raises RootRefusedError, NotPublicError, RootUnreachableError, FileRootError.
    """

    @property
    def url(self) -> str: ...

    async def whole(self, name: str, most: int = MOST_OBJECT_BYTES) -> Got | None:
        """All of an object, None where there is none. RootRefusedError where it has more than `most` bytes."""

    async def part(self, name: str, start: int, stop: int) -> Got | None:
        """Exactly these bytes, fewer only where the object ends."""

    async def touched_since(self, name: str, moment: datetime) -> bool:
        """Whether the folder an object would lie in was changed after `moment`; False where the source can't tell."""

    async def close(self) -> None:
        """Let go of connections."""


def canonical_root(url: str) -> str:
    """`url` as it is kept: without a slash at its end. Raises RootRefusedError for what must not, or can't, be kept."""
    if not url.startswith(SCHEMES):
        raise RootRefusedError(f"{url[:200]!r} is no root", hint=f"it begins with {', '.join(SCHEMES)}")
    if re.search(r"[\x00-\x20\x7f]", url) or len(url) > 2000:
        raise RootRefusedError(
            "the root holds white space or control characters, or is too long", hint="write it as it is served"
        )
    if url.startswith(FILE_ROOT):
        return url.rstrip("/")
    try:
        parts = urlsplit(url)
        named = parts.hostname
    except ValueError as error:
        raise RootRefusedError(f"{url[:200]!r} is no URL: {error}", hint="write it as a browser shows it") from error
    if not named:
        raise RootRefusedError(f"{url[:200]!r} names no host or bucket", hint="write it as a browser shows it")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise RootRefusedError(
            f"the URL of {named} holds a name, a password or a query, which would be stored and shown",
            hint="register what is served without",
        )
    if parts.scheme in ("s3", "gs") and not _BUCKET.match(parts.netloc):
        raise RootRefusedError(f"{parts.netloc[:100]!r} is no bucket", hint=f"write {parts.scheme}://bucket/folder")
    if ".." in parts.path.split("/"):
        raise RootRefusedError(f"{url[:200]!r} climbs out of a folder", hint="write the folder itself")
    return url.rstrip("/")


def address_of(url: str, settings: RootSettings) -> str:
    """Where the root `url` is asked over HTTP: buckets in path style at the operator's endpoint, else where they are public."""
    scheme, _, rest = url.partition("://")
    bucket, _, folder = rest.partition("/")
    if scheme == "gs":
        return f"{GOOGLE}/{rest}"
    if scheme == "s3" and settings.url_s3_endpoint:
        return f"{settings.url_s3_endpoint.rstrip('/')}/{rest}"
    if scheme == "s3":
        return f"https://{bucket}.s3.{settings.url_s3_region}.amazonaws.com/{folder}"
    return url


def open_root(url: str, settings: RootSettings) -> Root:
    """The folder `url`, which connects to nothing yet. Raises RootRefusedError, FileRootError."""
    from emporter_runtime.root_files import FileFolder
    from emporter_runtime.root_http import HttpFolder

    kept = canonical_root(url)
    if kept.startswith(FILE_ROOT):
        return FileFolder(kept, settings.file_roots)
    return HttpFolder(kept, address_of(kept, settings), settings)


def file_root_of(path: Path, roots: dict[str, Path]) -> str:
    """The `file-root:…` name of a folder of this machine. Raises RootRefusedError where it lies below no file root."""
    asked = path.expanduser().resolve()
    for name, folder in roots.items():
        root = folder.resolve()
        if asked != root and asked.is_relative_to(root):
            return f"{FILE_ROOT}{name}/{asked.relative_to(root).as_posix()}"
    known = ", ".join(f"{name}={folder}" for name, folder in sorted(roots.items())) or "none is named here"
    raise RootRefusedError(f"{path} lies below no file root", hint=f"known: {known}; emporter up --file-root NAME=PATH adds one")
