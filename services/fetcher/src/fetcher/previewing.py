"""What converters say of a plan that is only looked at."""

from __future__ import annotations

import nats.errors
from pydantic import ValidationError

from emporter_contracts import subjects
from emporter_contracts.commands import Output
from emporter_contracts.plans import PlannedVolume
from emporter_contracts.previews import ConversionPreview, PreviewConversion, VolumePreview
from emporter_runtime.bus import Bus

PATIENCE_SECONDS = 5.0
"""A plan is worth reading without it: where no converter runs, or all are busy, it is not waited for longer."""


async def previewed(bus: Bus, volumes: tuple[PlannedVolume, ...], output: Output) -> tuple[VolumePreview, ...]:
    """How each volume would be converted; nothing where no converter answers."""
    asked = PreviewConversion(volumes=tuple(v.model_copy(update={"said": {}}) for v in volumes), output=output)
    body = asked.model_dump_json().encode()
    try:
        headers = {"content-type": "application/json"}
        answer = await bus.connection.request(subjects.CONVERT_PREVIEW, body, timeout=PATIENCE_SECONDS, headers=headers)
        return ConversionPreview.model_validate_json(answer.data).volumes
    except (nats.errors.Error, TimeoutError, ValidationError):
        return ()
