"""Corrections of what is known of a committed volume: asked of the converter, which owns commits, and shown at once."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import nats.errors

from cataloger.errors import AlreadyThereError, DeniedByPolicyError, InvalidRecordError, NotInCatalogError
from cataloger.intake import Intake
from cataloger.store import read_final
from emporter_contracts import subjects
from emporter_contracts.errors import EmporterError
from emporter_contracts.ids import job_of
from emporter_contracts.revisions import Changes, Revised, ReviseVolume
from emporter_runtime.bus import Bus
from emporter_runtime.errors import TransientError
from emporter_runtime.logging import get_logger
from emporter_runtime.objects import Objects

ANSWER_SECONDS = 30.0
"""For a dozen small objects of a store that is busy."""
MISSING = frozenset({"unknown_volume"})
STANDING = frozenset({"conflict", "running", "removed", "held", "read_in_place"})
"""Codes that say how the volume stands, not that the change is wrong."""

Ask = Callable[[ReviseVolume], Awaitable[bytes]]
log = get_logger(__name__)


class CannotChangeError(AlreadyThereError):
    """The volume can't be changed as it stands; `code` says why."""

    def __init__(self, message: str, *, code: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code  # type: ignore[misc]  # an instance is more precise than its class


class Corrections:
    """Takes corrections. `ask` puts one to the converter and gives its answer."""

    def __init__(self, ask: Ask, objects: Objects, intake: Intake) -> None:
        self._ask = ask
        self._objects = objects
        self._intake = intake

    async def correct(self, volume: str, body: dict[str, Any]) -> Revised:
        """Say something anew of a volume. Raises InvalidRecordError, NotInCatalogError, CannotChangeError, DeniedByPolicyError,
        TransientError.
        """
        made = read_answer(await self._ask(command_of(volume, body)))
        await self._show(made)
        return made

    async def _show(self, made: Revised) -> None:
        """Whoever is told of a revision finds it in the catalog: its event may come a moment later."""
        try:
            final = await read_final(self._objects, made.volume, made.revision)
            await self._intake.committed(job_of(made.volume), 1, final)
        except EmporterError as error:
            log.info("shown_later", volume=made.volume, revision=made.revision, error=error.message)


def asking(bus: Bus) -> Ask:
    """Asks whichever converter is free."""

    async def ask(command: ReviseVolume) -> bytes:
        body, headers = command.model_dump_json().encode(), {"content-type": "application/json"}
        if bus.connection is None:
            raise _away()
        try:
            answer = await bus.connection.request(subjects.VOLUME_REVISE, body, timeout=ANSWER_SECONDS, headers=headers)
        except (nats.errors.Error, TimeoutError) as error:
            raise _away() from error
        data: bytes = answer.data
        return data

    return ask


def command_of(volume: str, body: dict[str, Any]) -> ReviseVolume:
    """What a body asks for. Raises InvalidRecordError for a field there is none of, pydantic.ValidationError."""
    known = {*Changes.model_fields, "by", "reason"}
    strange = sorted(set(body) - known)
    if strange:
        raise InvalidRecordError(f"{strange[0][:80]}: no such field", hint=f"there are {', '.join(sorted(known))}")
    changes = {name: body[name] for name in Changes.model_fields if name in body}
    told = {name: body[name] for name in ("by", "reason") if name in body}
    return ReviseVolume.model_validate({"volume": volume, "changes": changes, **told})


def read_answer(body: bytes) -> Revised:
    """The converter's answer. Raises what it refused with."""
    said = json.loads(body)
    if "revision" in said:
        return Revised.model_validate(said)
    code, message, hint = said.get("code", "internal"), said.get("message", ""), said.get("hint", "")
    if code in MISSING:
        raise NotInCatalogError(message, hint=hint)
    if code in STANDING:
        raise CannotChangeError(message, code=code, hint=hint)
    if code == DeniedByPolicyError.code:
        raise DeniedByPolicyError(message, hint=hint)
    if code == "invalid_request":
        raise InvalidRecordError(message, hint=hint)
    raise TransientError(message or "the converter can't do it now", hint=hint or "try again; the converter's log says more")


def _away() -> TransientError:
    return TransientError("no converter answers", hint="try again in a moment; emporter doctor says what is down")
