"""What a conversion would be, told before anything is fetched: levels, tasks, over-read, memory, or why it can't be done."""

from __future__ import annotations

import asyncio

from converter.planning import lay_out
from converter.settings import ConverterSettings
from emporter_contracts import subjects
from emporter_contracts.commands import Output, Refusal
from emporter_contracts.errors import EmporterError
from emporter_contracts.geometry import ChunkGrid
from emporter_contracts.plans import PlannedVolume
from emporter_contracts.previews import ConversionPreview, PreviewConversion, VolumePreview
from emporter_runtime.bus import Bus, Delivery


def preview(volume: PlannedVolume, output: Output, memory_bytes: int) -> VolumePreview:
    """How `volume`, whose `native` grid is known, would be converted by a process that may hold `memory_bytes`."""
    assert volume.native is not None
    try:
        plan = lay_out(volume, ChunkGrid(volume.native), output, memory_bytes)
    except EmporterError as error:
        refused = Refusal(code=error.code, message=error.message, hint=error.hint)
        return VolumePreview(volume=volume.volume, budget_bytes=memory_bytes, refused=refused)
    return VolumePreview(
        volume=volume.volume,
        levels=len(plan.levels),
        tasks=sum(level.tasks for level in plan.levels if not level.fused),
        over_read=plan.over_read,
        memory_bytes=plan.memory_bytes,
        budget_bytes=memory_bytes,
    )


def answer_previews(bus: Bus, settings: ConverterSettings) -> None:
    """Answer on `convert.preview`, with the memory that one task of this process has."""
    memory = settings.converter_memory_bytes // settings.converter_tasks

    @bus.answer(subjects.CONVERT_PREVIEW, queue="converter")
    async def on_preview(asked: PreviewConversion, _: Delivery) -> ConversionPreview:
        known = [volume for volume in asked.volumes if volume.native is not None]
        made = await asyncio.gather(*(asyncio.to_thread(preview, volume, asked.output, memory) for volume in known))
        return ConversionPreview(volumes=tuple(made))
