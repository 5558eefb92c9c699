"""Look-ups of many at once: one statement for all the jobs, records, labels or events a page of volumes leads to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from heapq import merge
from typing import Any

from sqlalchemy import Row, func, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from cataloger.listing import SHOWN
from cataloger.models import Event, Job, Revision, Volume
from emporter_contracts.ids import job_of

LABELS = 100
"""Volumes of labels of one image that are given."""


async def jobs(session: AsyncSession, ids: Sequence[str]) -> dict[str, Job]:
    found = await session.execute(select(Job).where(Job.id.in_(ids)))
    return {job.id: job for job in found.scalars()}


async def records(session: AsyncSession, refs: Sequence[tuple[str, int]]) -> dict[tuple[str, int], dict[str, Any]]:
    """Records by volume and revision."""
    query = select(Revision).where(tuple_(Revision.volume, Revision.revision).in_(refs))
    return {(r.volume, r.revision): r.record for r in (await session.execute(query)).scalars()}


async def volumes(session: AsyncSession, ids: Sequence[str]) -> dict[str, Row[Any]]:
    """What is SHOWN of each of these volumes."""
    return {row.id: row for row in await session.execute(SHOWN.where(Volume.id.in_(ids)))}


async def labels(session: AsyncSession, images: Sequence[str]) -> dict[str, list[Row[Any]]]:
    """What is SHOWN of the first LABELS volumes that label each image, or any revision of it, by name."""
    place = func.row_number().over(partition_by=Volume.image, order_by=Volume.id).label("place")
    ranked = select(Volume.id, Volume.image, place).where(Volume.image.in_(images)).subquery()
    shown = SHOWN.add_columns(ranked.c.image).join(ranked, ranked.c.id == Volume.id)
    found: dict[str, list[Row[Any]]] = {image: [] for image in images}
    for row in await session.execute(shown.where(ranked.c.place <= LABELS).order_by(Volume.id)):
        found[row.image].append(row)
    return found


async def events(session: AsyncSession, volumes: Sequence[str], limit: int) -> dict[str, list[Event]]:
    """The first `limit` things said about each volume or about all volumes of its job, the oldest first."""
    jobs = {volume: job_of(volume) for volume in volumes}
    place = func.row_number().over(partition_by=(Event.job, Event.volume), order_by=(Event.at, Event.id)).label("place")
    about = or_(Event.volume.in_(volumes), Event.volume.is_(None))
    ranked = select(Event.id, place).where(Event.job.in_(set(jobs.values())), about).subquery()
    query = select(Event).join(ranked, ranked.c.id == Event.id).where(ranked.c.place <= limit).order_by(Event.at, Event.id)
    said: dict[tuple[str, str | None], list[Event]] = defaultdict(list)
    for event in (await session.execute(query)).scalars():
        said[event.job, event.volume].append(event)
    # What is said of a job is every volume's: it was read once, and falls in with each volume's own.
    return {
        volume: list(merge(said[job, volume], said[job, None], key=lambda e: (e.at, e.id)))[:limit]
        for volume, job in jobs.items()
    }
