"""A plan before one's eyes: what an ingest would do, before anything is stored."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from emporter.cli import showing

if TYPE_CHECKING:
    from emporter_contracts.previews import PlanSummary, VolumePreview

LATER = frozenset(
    {"transient", "rate_limited", "store_unavailable", "disk_full", "host_down", "archive_unreachable", "unknown_host"}
)
"""Why a plan can't be made now though the job may well succeed: it waits."""


def describe(plan: PlanSummary, *, to_stderr: bool = False) -> None:
    """A few lines: objects, bytes, every volume with what must be known about it, licence, room."""
    out = sys.stderr if to_stderr else sys.stdout
    first = f"{plan.job}: {plan.objects} object{'s' if plan.objects != 1 else ''}, {showing.size(plan.raw_bytes)}"
    print(f"{first} in the archive, about {showing.size(plan.stored_bytes_estimate)} stored", file=out)
    previews = {preview.volume: preview for preview in plan.conversion}
    for volume in plan.volumes:
        nm = showing.nanometres(volume.voxel_size.nm)
        print(
            f"  {volume.volume}  {showing.voxels(volume.shape)} {volume.dtype}  {nm} nm  {volume.role}  {volume.format}", file=out
        )
        if volume.volume in previews:
            print(f"    {_converted(previews[volume.volume])}", file=out)
        for caveat in volume.caveats:
            print(f"    {caveat.code}: {caveat.evidence}", file=out)
    for caveat in plan.caveats:
        print(f"  {caveat.code}: {caveat.evidence}", file=out)
    licence = plan.licence.spdx or plan.licence.url or plan.licence.text
    print(f"  licence {licence or 'unknown'}, {showing.size(plan.free_bytes)} free", file=out)


def _converted(preview: VolumePreview) -> str:
    """How it would be converted, or why it can't be."""
    if preview.refused is not None:
        return f"can't be converted: {preview.refused.message}; {preview.refused.hint}"
    tasks = (
        f"{preview.levels} level{'s' if preview.levels != 1 else ''} in {preview.tasks} task{'s' if preview.tasks != 1 else ''}"
    )
    memory = f"{showing.size(preview.memory_bytes)} of {showing.size(preview.budget_bytes)} memory"
    return f"{tasks}, each byte read {preview.over_read:.2f} times, {memory}"
