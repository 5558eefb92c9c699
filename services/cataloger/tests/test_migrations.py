"""The tables in the database are those of the models, whoever made them."""

import asyncio

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, select, text
from sqlalchemy.ext.asyncio import create_async_engine

from cataloger.curation import Curation
from cataloger.database import MIGRATIONS, Database, DatabaseUnavailableError, downgrade
from cataloger.feed import Feed
from cataloger.intake import Intake
from cataloger.models import NATIVE, Base, LineageEdge, QualityResult
from cataloger.queries import Catalog
from cataloger.rebuild import rebuild
from cataloger.repository import rederive
from cataloger.testing_builders import JOB, a_record, a_status, fact_of, judged, store_commit
from cataloger.testing_world import World
from emporter_contracts.commands import CatalogQuery
from emporter_contracts.events import VolumeComplete
from emporter_contracts.records import GateResult
from emporter_runtime.objects import Objects

REVISIONS = sorted(path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))[:-1]
"""All but the last, which is where a test begins."""


def is_common(_, name, kind, reflected, compared) -> bool:
    """Not one database's own way of searching, which the models do not know."""
    return not (name or "").startswith(NATIVE)


async def derived(database: Database) -> list[list[tuple]]:
    """The edges and the results of gates."""
    async with database.reading() as session:
        found = [(await session.execute(select(model.__table__))).all() for model in (LineageEdge, QualityResult)]
    return [sorted(tuple(map(str, row)) for row in rows) for rows in found]


class MigrationSuite:
    @pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index search_")
    async def test_migrated_tables_are_the_models_tables(self, url):
        await self.migrate(url)
        engine = create_async_engine(url)
        async with engine.connect() as connection:
            differences = await connection.run_sync(
                lambda c: compare_metadata(
                    MigrationContext.configure(c, opts={"compare_type": True, "include_object": is_common}), Base.metadata
                )
            )
        await engine.dispose()
        assert differences == []

    async def test_every_migration_can_be_taken_back_and_made_again(self, url):
        await self.migrate(url)
        database = Database.open(url)
        world = Intake(database, Objects.in_memory(), Feed())
        status = a_status()
        await world.state_changed(status, fact_of(status))
        for to in [*reversed(REVISIONS), "base"]:
            await database.run_sync(lambda c, to=to: downgrade(c, to))
            assert await database.run_sync(lambda c: MigrationContext.configure(c).get_current_revision()) == (
                to if to != "base" else None
            )
            if to != "base":
                assert await database.run_sync(lambda c: c.execute(text("SELECT id FROM volumes")).scalars().all()) == [JOB]
        assert await database.run_sync(lambda c: [t for t in inspect(c).get_table_names() if t != "alembic_version"]) == []
        await database.migrate()
        assert await database.ready()
        await database.close()

    @pytest.mark.parametrize("older", ["0001", "0007", "0008"])
    async def test_rows_of_an_older_version_are_made_anew_and_found(self, url, older):
        await self.migrate(url)
        database = Database.open(url)
        status = a_status()
        await Intake(database, Objects.in_memory(), Feed()).state_changed(status, fact_of(status))
        await database.run_sync(lambda c: downgrade(c, older))
        await database.migrate()
        assert await rederive(database) == 1
        found = await Catalog(database).volumes(CatalogQuery(q="hippocampus", sort="relevance"))
        assert [row["volume"] for row in found.items] == [JOB]
        assert await rederive(database) == 0
        await database.close()

    @pytest.mark.parametrize("first", ["the start", "what happens meanwhile"])
    async def test_edges_and_results_come_back_with_their_tables(self, url, first):
        await self.migrate(url)
        database = Database.open(url)
        world = World(database)
        found = GateResult(
            gate="shifted", verdict="fail", measured=1, threshold=1, slices=(7,), evidence="slices 7 are displaced"
        )
        for revision, image in ((1, "epfl-image@r3"), (2, None)):
            record = judged(a_record(revision=revision, labels_of=image), found)
            await store_commit(world.objects, record)
            await world.hear(VolumeComplete(job=JOB, revision=revision, generation=1, volume=JOB, digest="d" * 64))
        before = await derived(database)
        assert [len(rows) for rows in before] == [3, 2]
        await database.run_sync(lambda c: downgrade(c, "0009"))
        await database.migrate()
        assert await derived(database) == [[], []]
        if first == "the start":
            assert await rederive(database) == 1
        else:
            await Curation(database, world.objects).annotate(JOB, "stain", "osmium")
            assert await rederive(database) == 0
        assert await derived(database) == before
        await database.close()

    async def test_what_is_read_where_it_lies_is_known_as_soon_as_there_is_a_column_for_it(self, url):
        await self.migrate(url)
        database = Database.open(url)
        world = World(database)
        for volume, managed in (("epfl-here", True), ("registered-there", False)):
            await store_commit(world.objects, a_record(volume, 1).model_copy(update={"managed": managed}), volume)
        await rebuild(world.objects, database)
        await database.run_sync(lambda c: downgrade(c, "0011"))
        await database.migrate()
        assert [row["volume"] for row in await world.rows(managed=False)] == ["registered-there"]
        assert [row["volume"] for row in await world.rows(managed=True)] == ["epfl-here"]
        await database.close()

    async def test_migrating_again_changes_nothing(self, url):
        await self.migrate(url)
        await self.migrate(url)

    async def test_several_processes_that_start_at_once_migrate_once(self, url):
        await asyncio.gather(*(self.migrate(url) for _ in range(5)))

    async def test_a_database_without_our_tables_is_not_ready(self, url):
        database = Database.open(url)
        with pytest.raises(Exception, match="volumes"):
            await database.ready()
        await database.migrate()
        assert await database.ready()
        await database.close()

    async def migrate(self, url: str) -> None:
        database = Database.open(url)
        await database.migrate()
        await database.close()


class TestMigrationsOnSqlite(MigrationSuite):
    @pytest.fixture
    def url(self, sqlite_database_url):
        return sqlite_database_url

    async def test_a_reader_is_not_held_up_by_a_writer(self, url):
        await self.migrate(url)
        database = Database.open(url)
        async with database.writing() as writing, database.reading() as reading:
            await writing.execute(text("INSERT INTO events VALUES ('e','t','j',NULL,1,1,NULL,'2024-01-01','{}')"))
            assert (await reading.execute(text("SELECT count(*) FROM events"))).scalar_one() == 0
        await database.close()

    async def test_what_was_acknowledged_survives_a_power_cut(self, url):
        await self.migrate(url)
        database = Database.open(url)
        async with database.reading() as session:
            assert (await session.execute(text("PRAGMA journal_mode"))).scalar_one() == "wal"
            assert (await session.execute(text("PRAGMA synchronous"))).scalar_one() == 2
        await database.close()


class TestMigrationsOnPostgres(MigrationSuite):
    @pytest.fixture
    def url(self, postgres_database_url):
        return postgres_database_url


async def test_a_database_server_that_is_not_there_is_unavailable_with_a_hint(unused_tcp_port):
    database = Database.open(f"postgresql+asyncpg://emporter@127.0.0.1:{unused_tcp_port}/x")
    with pytest.raises(DatabaseUnavailableError) as away:
        await database.migrate()
    assert "EMPORTER_DATABASE_URL" in away.value.hint
    await database.close()
