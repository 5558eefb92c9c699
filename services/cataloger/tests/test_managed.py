"""Volumes that are read where they lie, in the catalog."""

from cataloger.facets import narrows
from cataloger.rebuild import rebuild
from cataloger.testing_builders import a_record, store_commit
from cataloger.testing_world import World
from emporter_contracts.commands import CatalogQuery

THERE = "registered-cells"


async def test_a_volume_that_is_read_where_it_lies_is_told_from_those_kept_here_in_sqlite(sqlite):
    await told_apart(World(sqlite))


async def test_and_in_postgresql(postgres):
    await told_apart(World(postgres))


async def told_apart(world: World) -> None:
    await world.hear(await world.finished())
    await store_commit(world.objects, a_record(THERE, 1).model_copy(update={"managed": False}), THERE)
    # There is no run of a job behind it: the commit alone tells.
    await rebuild(world.objects, world.database)
    rows = {row["volume"]: row["managed"] for row in await world.rows()}
    assert rows[THERE] is False
    assert sum(rows.values()) == len(rows) - 1
    assert [row["volume"] for row in await world.rows(managed=False)] == [THERE]
    assert THERE not in {row["volume"] for row in await world.rows(managed=True)}
    assert [row["volume"] for row in await world.rows(where=("managed=false",))] == [THERE]
    assert (await world.row(THERE))["status"] == "complete"


def test_asking_for_what_is_not_kept_here_narrows_the_catalog():
    assert narrows(CatalogQuery(managed=False))
    assert not narrows(CatalogQuery())
