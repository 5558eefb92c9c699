"""A plan before one's eyes: what an ingest would do, before anything is stored."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from emporter.cli import showing

if TYPE_CHECKING:
    from emporter_contracts.plans import PlanSummary

LATER = frozenset(
    {"transient", "rate_limited", "store_unavailable", "disk_full", "host_down", "archive_unreachable", "unknown_host"}
)
"""Why a plan can't be made now though the job may well succeed: it waits."""


def describe(plan: PlanSummary, *, to_stderr: bool = False) -> None:
    """A few lines: objects, bytes, every volume with what must be known about it, licence, room."""
    out = sys.stderr if to_stderr else sys.stdout
    first = f"{plan.job}: {plan.objects} object{'s' if plan.objects != 1 else ''}, {showing.size(plan.raw_bytes)}"
    print(f"{first} in the archive, about {showing.size(plan.stored_bytes_estimate)} stored", file=out)
    for volume in plan.volumes:
        nm = showing.nanometres(volume.voxel_size.nm)
        print(
            f"  {volume.volume}  {showing.voxels(volume.shape)} {volume.dtype}  {nm} nm  {volume.role}  {volume.format}", file=out
        )
        for caveat in volume.caveats:
            print(f"    {caveat.code}: {caveat.evidence}", file=out)
    for caveat in plan.caveats:
        print(f"  {caveat.code}: {caveat.evidence}", file=out)
    licence = plan.licence.spdx or plan.licence.url or plan.licence.text
    print(f"  licence {licence or 'unknown'}, {showing.size(plan.free_bytes)} free", file=out)
