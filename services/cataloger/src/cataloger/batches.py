"""Look-ups of many at once: one statement for all the jobs, records or labels a page of volumes leads to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from cataloger.models import Job, Revision, Volume

LABELS = 100
"""Volumes of labels of one image that are given."""


async def jobs(session: AsyncSession, ids: Sequence[str]) -> dict[str, Job]:
    found = await session.execute(select(Job).where(Job.id.in_(ids)))
    return {job.id: job for job in found.scalars()}


async def records(session: AsyncSession, refs: Sequence[tuple[str, int]]) -> dict[tuple[str, int], dict[str, Any]]:
    """Records by volume and revision."""
    query = select(Revision).where(tuple_(Revision.volume, Revision.revision).in_(refs))
    return {(r.volume, r.revision): r.record for r in (await session.execute(query)).scalars()}


async def volumes(session: AsyncSession, ids: Sequence[str]) -> dict[str, tuple[Volume, Job | None]]:
    query = select(Volume, Job).join(Job, Job.id == Volume.job, isouter=True).where(Volume.id.in_(ids))
    return {volume.id: (volume, job) for volume, job in await session.execute(query)}


async def labels(session: AsyncSession, images: Sequence[str]) -> dict[str, list[tuple[Volume, Job | None]]]:
    """The volumes that label each image, or any revision of it, by name."""
    query = select(Volume, Job).join(Job, Job.id == Volume.job, isouter=True).where(Volume.image.in_(images))
    found: dict[str, list[tuple[Volume, Job | None]]] = {image: [] for image in images}
    for volume, job in await session.execute(query.order_by(Volume.id).limit(LABELS * len(images))):
        mine = found[volume.image or ""]
        if len(mine) < LABELS:
            mine.append((volume, job))
    return found
