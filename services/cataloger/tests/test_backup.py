"""The commands of docs/operations.md: what they save comes back, row by row, webhooks with their secrets among it."""

import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from cataloger.curation import Curation
from cataloger.database import Database
from cataloger.models import Delivery, Webhook
from cataloger.rebuild import rebuild
from cataloger.testing import postgres_binaries
from cataloger.testing_builders import JOB, a_status
from cataloger.testing_killed import differences, killable_postgres, rows
from cataloger.testing_world import World
from cataloger.webhooks import Subscription, Webhooks

SQLITE_BACKUP = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('VACUUM INTO ?', sys.argv[2:])"
"""As in docs/operations.md."""


async def filled(database: Database) -> World:
    await database.migrate()
    world = World(database)
    await Webhooks(database).subscribe(Subscription(url="http://receiver.example/", types=("io.emporter.volume_complete.v1",)))
    await world.hear(a_status(), await world.planned(), await world.finished())
    await world.hear(a_status("complete", version=2, volumes=(JOB,), committed=(JOB,)))
    await Curation(database, world.objects).annotate(JOB, "reviewed", "yes")
    return world


async def own(database: Database) -> list[tuple]:
    """What only the database has."""
    async with database.reading() as session:
        return [await _all(session, Webhook.id, Webhook.secret), await _all(session, Delivery.event, Delivery.state)]


async def _all(session: AsyncSession, *columns) -> list[tuple]:
    return sorted(tuple(row) for row in await session.execute(select(*columns)))


async def check(restored: Database, live: Database, world: World) -> None:
    await restored.migrate()
    assert differences(await rows(live), await rows(restored)) == []
    assert await own(restored) == await own(live)
    assert all(await own(restored))
    # What came after the backup is in the store.
    await world.finished("epfl-later", job="epfl-later")
    await rebuild(world.objects, restored)
    world.database = restored
    assert (await World(restored).row("epfl-later"))["status"] == "complete"
    assert (await World(restored).row())["annotations"] == {"reviewed": "yes"}
    assert await own(restored) == await own(live)


@pytest.mark.skipif(postgres_binaries() is None, reason="no PostgreSQL server here (Debian: apt-get install postgresql)")
async def test_a_dump_of_postgres_is_restored_whole_and_a_rebuild_adds_what_came_after(tmp_path: Path):
    with killable_postgres() as server:
        live = Database.open(server.create("emporter"))
        world = await filled(live)
        server.tool("pg_dump", "--format=custom", "--file=catalog.dump", "emporter")
        restored = Database.open(server.create("restored"))
        server.tool("pg_restore", "--exit-on-error", "--dbname=restored", "catalog.dump")
        try:
            await check(restored, live, world)
        finally:
            await restored.close()
            await live.close()


async def test_a_copy_of_a_sqlite_catalog_in_use_is_the_catalog_and_a_rebuild_adds_what_came_after(tmp_path: Path):
    live = Database.open(f"sqlite+aiosqlite:///{tmp_path}/catalog.db")
    world = await filled(live)
    command = [sys.executable, "-c", SQLITE_BACKUP, f"{tmp_path}/catalog.db", f"{tmp_path}/catalog-backup.db"]
    subprocess.run(command, check=True)
    restored = Database.open(f"sqlite+aiosqlite:///{tmp_path}/catalog-backup.db")
    try:
        await check(restored, live, world)
    finally:
        await restored.close()
        await live.close()


def test_the_documented_commands_are_these():
    page = (Path(__file__).resolve().parents[3] / "docs" / "operations.md").read_text()
    for command in (
        SQLITE_BACKUP,
        "pg_dump --format=custom --file=catalog.dump emporter",
        "pg_restore --exit-on-error --dbname=",
    ):
        assert command in page
