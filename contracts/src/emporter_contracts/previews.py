"""What an ingest would do, asked before anything is fetched: `ingest.plan`, and of the converter `convert.preview`."""

from __future__ import annotations

from emporter_contracts.commands import Message, Output, Refusal
from emporter_contracts.plans import Caveat, Licence, PlannedVolume


class PreviewConversion(Message):
    """Asked on `convert.preview`: how these volumes would be converted."""

    volumes: tuple[PlannedVolume, ...]
    output: Output = Output()


class VolumePreview(Message):
    """How one volume would be converted: by a converter with `budget_bytes` of memory, in so many tasks over all levels."""

    volume: str
    levels: int = 0
    tasks: int = 0
    over_read: float = 1.0
    """Bytes decoded over bytes of the volume: how often, on average, a source strip or chunk is read."""
    memory_bytes: int = 0
    """What a converter's process is expected to hold at most."""
    budget_bytes: int
    refused: Refusal | None = None
    """Why it can't be converted; where memory is short its hint says the smallest budget that would do."""


class ConversionPreview(Message):
    """Answer on `convert.preview`, a volume each."""

    volumes: tuple[VolumePreview, ...]


class PlanSummary(Message):
    """Answer to `ingest.plan`: what an ingest would do. `free_bytes` is None where the room left can't be known."""

    job: str
    source: str
    objects: int
    raw_bytes: int
    copied_bytes: int
    voxel_bytes: int
    stored_bytes_estimate: int
    free_bytes: int | None
    fits: bool
    volumes: tuple[PlannedVolume, ...]
    description: str = ""
    licence: Licence = Licence()
    citation: tuple[str, ...] = ()
    caveats: tuple[Caveat, ...] = ()
    conversion: tuple[VolumePreview, ...] = ()
    """How each volume would be converted, as a converter says; empty where none answered, or the headers do not tell enough."""
    existing: str | None = None
    """State of the job where this very request was made before."""
