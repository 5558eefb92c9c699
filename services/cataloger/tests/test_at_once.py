"""Two that touch one volume at once: the later one sees what the earlier one did. SQLite has one writer; PostgreSQL is asked here."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import select, text

from cataloger.curation import Curation
from cataloger.database import Database
from cataloger.models import Job
from cataloger.repository import Writer
from cataloger.testing_builders import JOB, a_record, at
from cataloger.testing_world import World
from emporter_contracts import storage
from emporter_contracts.plans import Hold
from emporter_runtime.objects import json_bytes


async def annotated(world: World) -> None:
    await Curation(world.database, world.objects).annotate(JOB, "stain", "osmium")


async def removed(world: World) -> None:
    await world.intake.removed(JOB, {1: at(99_000)})


async def released(world: World) -> None:
    await world.intake.released(JOB, {2})


async def take_in(world: World, revision: int) -> None:
    if revision == 2:
        hold = Hold(volume=JOB, revision=2, gates=("missing",), held_at=at(0))
        await world.objects.put(storage.VOLUMES, storage.hold(JOB, 2), json_bytes(hold))
    await world.hear(await world.finished(run=(revision, 1)))


async def somebody_waits(database: Database) -> bool:
    async with database.reading() as session:
        waiting = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
        return (await session.execute(waiting)).scalar_one() > 0


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (annotated, {"revision": 1, "removed": False, "held_revision": 3, "annotations": {"stain": "osmium"}}),
        (removed, {"revision": 3, "removed": False, "held_revision": 3, "annotations": {}}),
        (released, {"revision": 2, "removed": False, "held_revision": 3, "annotations": {}}),
    ],
)
async def test_a_change_made_while_a_revision_is_taken_in_is_not_lost(
    postgres: Database, change: Callable[[World], Awaitable[None]], seen: dict
) -> None:
    """The first revision is shown, the second is held; the third, held as well, is on its way in."""
    world = World(postgres)
    for revision in (1, 2):
        await take_in(world, revision)
    async with postgres.writing() as session:
        writer = Writer(session)
        await session.execute(select(Job.id).where(Job.id == JOB).with_for_update())
        record = a_record(revision=3).model_dump(mode="json")
        await writer.put(JOB, JOB, 3, record, committed=True)
        await writer.mark_held(JOB, 3, held=True)
        await writer.refresh(JOB)
        changing = asyncio.create_task(change(world))
        async with asyncio.timeout(30):
            while not changing.done() and not await somebody_waits(postgres):
                await asyncio.sleep(0.01)
    await changing
    row = await world.row()
    assert {name: row[name] for name in seen} == seen
