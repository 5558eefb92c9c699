"""Where the stack is that one talks to: `--stack DIR`, else EMPORTER_… in the environment, else `./.emporter`."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from emporter.errors import MistakeError, NoStackError
from emporter.stack.files import DEFAULT_FOLDER, StackFiles, StackInfo
from emporter_contracts.policy import PURPOSE_HEADER, PURPOSE_LENGTH

if TYPE_CHECKING:
    from emporter_runtime.settings import StoreSettings

POINTERS = ("EMPORTER_NATS_URL", "EMPORTER_CATALOG_URL", "EMPORTER_BLOCKS_URL")
"""Any of these in the environment says that a stack elsewhere is meant."""
PURPOSE = "EMPORTER_PURPOSE"
"""What the data is wanted for."""
TOKEN = "EMPORTER_TOKEN"  # noqa: S105  # the name of a variable
"""Of the block-server."""


@dataclass(frozen=True, slots=True)
class Connection:
    """What a client needs to know. An empty URL is one that nobody told us. `place` is how people name this stack."""

    place: str
    nats: str
    nats_user: str | None
    nats_password: str | None
    catalog: str
    blocks: str
    stack: StackFiles | None = None
    token: str = field(default="", repr=False)
    """Where block-server and catalog demand one."""
    purpose: str = ""
    """What the data is wanted for, where the operator's rules ask that."""

    @property
    def headers(self) -> dict[str, str]:
        """What every request to block-server and catalog says."""
        return ({"Authorization": f"Bearer {self.token}"} if self.token else {}) | self.said

    @property
    def said(self) -> dict[str, str]:
        """What requests on the bus say besides."""
        return {PURPOSE_HEADER: self.purpose} if self.purpose else {}

    def inbox(self) -> StoreSettings:
        """The store with the key that may read and write the inbox."""
        from emporter_runtime.settings import StoreSettings

        info = self.stack.info() if self.stack is not None else None
        if info is None:
            return StoreSettings()
        return StoreSettings(
            store_url=info.store,
            s3_endpoint=info.s3,
            s3_region="us-east-1",
            s3_access_key=info.inbox_access_key,
            s3_secret_key=info.inbox_secret_key,  # type: ignore[arg-type]  # pydantic makes the secret of it
        )


def find_connection(folder: Path | None = None) -> Connection:
    """The stack in `folder`, or the one that is meant where nobody says. Raises NoStackError."""
    return replace(_found(folder), token=os.environ.get(TOKEN, ""), purpose=_purpose())


def connection_to(stack: Connection | Path | str | None, token: str | None = None, purpose: str | None = None) -> Connection:
    """What a client was told: a folder of a stack, the URL of a block-server, or nothing; `token` of the block-server, else
    EMPORTER_TOKEN; `purpose`, else EMPORTER_PURPOSE. Raises NoStackError, MistakeError.
    """
    found = _told(stack)
    found = found if token is None else replace(found, token=token)
    return found if purpose is None else replace(found, purpose=_checked(purpose))


def _purpose() -> str:
    return _checked(os.environ.get(PURPOSE, ""))


def _checked(purpose: str) -> str:
    text = purpose.strip()
    if len(text) > PURPOSE_LENGTH or not (text.isascii() and text.isprintable()):
        raise MistakeError(
            f"the purpose is no line of {PURPOSE_LENGTH} plain characters at most",
            hint="say it in a few words, such as: training",
        )
    return text


def _told(stack: Connection | Path | str | None) -> Connection:
    if isinstance(stack, Connection):
        return stack
    if isinstance(stack, str) and stack.startswith(("http://", "https://")):
        base, token = stack.rstrip("/"), os.environ.get(TOKEN, "")
        return Connection(
            f"the block-server at {base}",
            nats="",
            nats_user=None,
            nats_password=None,
            catalog="",
            blocks=base,
            token=token,
            purpose=_purpose(),
        )
    return find_connection(Path(stack) if stack is not None else None)


def _found(folder: Path | None) -> Connection:
    if folder is not None:
        return _embedded(StackFiles.at(folder), f"emporter up --data {shlex.quote(str(folder))}")
    if any(os.environ.get(name) for name in POINTERS):
        return _from_environment()
    return _embedded(StackFiles.at(DEFAULT_FOLDER), "emporter up")


def known(base: str, what: str, variable: str) -> str:
    """`base`, where it was told. Raises MistakeError."""
    if not base:
        raise MistakeError(f"nobody says where {what} is", hint=f"set {variable}, or name a stack with --stack DIR")
    return base


def _embedded(files: StackFiles, command: str) -> Connection:
    info = files.info()
    if info is None:
        raise NoStackError(f"there is no stack in {files.root}", hint=f"start one with {command}, or name one with --stack DIR")
    if not info.live:
        raise NoStackError(f"the stack in {files.root} is down", hint=f"start it with {command}")
    return _connection(files, info)


def _connection(files: StackFiles, info: StackInfo) -> Connection:
    return Connection(
        place=f"the stack in {files.root}",
        nats=info.nats,
        nats_user=info.nats_user,
        nats_password=info.nats_password,
        catalog=info.catalog,
        blocks=info.blocks,
        stack=files,
    )


def _from_environment() -> Connection:
    told = os.environ.get
    return Connection(
        place="the stack EMPORTER_… in the environment points at",
        nats=told("EMPORTER_NATS_URL", ""),
        nats_user=told("EMPORTER_NATS_USER"),
        nats_password=told("EMPORTER_NATS_PASSWORD"),
        catalog=told("EMPORTER_CATALOG_URL", "").rstrip("/"),
        blocks=told("EMPORTER_BLOCKS_URL", "").rstrip("/"),
    )
