"""`emporter ingest VOLUME`: a volume that is read where it lies, copied in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emporter.errors import MistakeError

if TYPE_CHECKING:
    from emporter.aio import AsyncClient
    from emporter_contracts.commands import IngestRequest

FIXED = ("series", "channel", "time")
"""What was chosen when the volume was registered."""


async def copying(client: AsyncClient, name: str, wanted: dict[str, Any]) -> IngestRequest:
    """The ingest of what the volume `name` is read from, with whatever else was `wanted` on the command line.

    Raises MistakeError, RefusedByServiceError where there is no such volume or its source changed.
    """
    from emporter_contracts.commands import IngestRequest

    volume = await client.volume(name)
    if volume.info.get("managed", True):
        raise MistakeError(f"{name} lies in the store already", hint="emporter ingest copies registered volumes")
    given = [key for key in FIXED if wanted["select"][key] is not None]
    if given:
        raise MistakeError(f"--{given[0]} was chosen when {name} was registered", hint="register the other one")
    asked: dict[str, Any] = dict((await volume.provenance())["request"])
    told = {key: value for key, value in wanted.items() if value not in (None, "auto", {}) and key != "select"}
    select = asked["select"] | {"level": wanted["select"]["level"]}
    return IngestRequest.model_validate(asked | told | {"select": select})
