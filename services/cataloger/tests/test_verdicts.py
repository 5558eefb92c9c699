"""What the quality gates said, and what is held, is in every list: filtered, counted, told, exported; on both databases."""

import csv
import json

import pytest

from cataloger.api.graphql import answer
from cataloger.api.tables import csv_lines, json_parts
from cataloger.errors import InvalidQueryError
from cataloger.testing_builders import a_record, a_status, at, store_commit, store_tombstone
from cataloger.testing_databases import OnPostgres, OnSqlite
from cataloger.testing_world import World
from emporter_contracts import storage
from emporter_contracts.commands import CatalogQuery
from emporter_contracts.events import VolumeComplete
from emporter_contracts.plans import Hold
from emporter_contracts.records import Quality
from emporter_runtime.objects import json_bytes


async def judged(world: World, volume: str, verdict: str | None, revision: int = 1, *, held: bool = False) -> None:
    """A committed revision the gates said this of."""
    record = a_record(volume, revision)
    metadata = record.metadata.model_copy(update={"quality": Quality(verdict=verdict, held=held)})
    if held:
        hold = Hold(volume=volume, revision=revision, gates=("missing",), held_at=record.updated_at)
        await world.objects.put(storage.VOLUMES, storage.hold(volume, revision), json_bytes(hold))
    await store_commit(world.objects, record.model_copy(update={"metadata": metadata}), volume)
    await world.hear(VolumeComplete(job=volume, revision=revision, generation=1, volume=volume, digest="d" * 64))


class VerdictsSuite:
    @pytest.fixture
    async def four(self, world: World) -> World:
        """One that passed, one that failed and is held, one that passed before and is held now, one that nobody judged."""
        await judged(world, "idr-good", "pass")
        await judged(world, "idr-bad", "fail", held=True)
        await judged(world, "idr-worse", "pass")
        await judged(world, "idr-worse", "fail", 2, held=True)
        await judged(world, "idr-old", None)
        return world

    async def names(self, world: World, **query) -> list[str]:
        return sorted(row["volume"] for row in await world.rows(**query))

    async def test_a_list_is_narrowed_to_a_verdict_and_to_what_is_held(self, four):
        assert await self.names(four, verdict="fail") == ["idr-bad"]
        assert await self.names(four, verdict="pass") == ["idr-good", "idr-worse"]
        assert await self.names(four, verdict="warn") == []
        assert await self.names(four, held=True) == ["idr-bad", "idr-worse"]
        assert await self.names(four, held=False) == ["idr-good", "idr-old"]
        with pytest.raises(InvalidQueryError, match="verdict"):
            await four.rows(verdict="bad")

    async def test_a_row_says_the_verdict_of_what_is_shown_and_which_revision_is_held(self, four):
        rows = {row["volume"]: (row["revision"], row["verdict"], row["held"], row["held_revision"]) for row in await four.rows()}
        assert rows == {
            "idr-good": (1, "pass", False, None),
            "idr-bad": (1, "fail", True, 1),
            "idr-worse": (1, "pass", True, 2),
            "idr-old": (1, None, False, None),
        }

    async def test_what_was_released_removed_or_overtaken_is_held_no_more(self, four):
        await four.intake.released("idr-bad", {1})
        await store_tombstone(four.objects, "idr-worse", 2, keeps_record=True)
        await four.intake.removed("idr-worse", {2: at(99_000)})
        assert await self.names(four, held=True) == []
        await judged(four, "idr-late", "fail", held=True)
        assert await self.names(four, held=True) == ["idr-late"]
        await judged(four, "idr-late", "pass", 2)
        assert await self.names(four, held=True) == []

    async def test_verdicts_and_holds_are_counted(self, four):
        facets = (await four.catalog.facets(CatalogQuery(source="idr")))["facets"]
        assert {one["value"]: one["count"] for one in facets["verdict"]} == {"pass": 2, "fail": 1, None: 1}
        assert {one["value"]: one["count"] for one in facets["held"]} == {"true": 2, "false": 2}

    async def test_tables_have_both(self, four):
        lines = [line async for line in csv_lines(four.catalog)]
        rows = {row["volume"]: (row["verdict"], row["held"]) for row in csv.DictReader(lines)}
        assert rows == {
            "idr-good": ("pass", "no"),
            "idr-bad": ("fail", "yes"),
            "idr-worse": ("pass", "yes"),
            "idr-old": ("", "no"),
        }
        table = json.loads("".join([part async for part in json_parts(four.catalog)]))
        assert {row["volume"]: row["held"] for row in table["volumes"]}["idr-worse"] is True

    async def test_graphql_filters_and_tells_them(self, four):
        query = '{ volumes(filter: {verdict: "pass", held: true}) { items { id verdict held held_revision } } }'
        found = (await answer(four.catalog, {"query": query}))["data"]["volumes"]["items"]
        assert found == [{"id": "idr-worse", "verdict": "pass", "held": True, "held_revision": 2}]

    async def test_a_volume_on_its_way_has_no_verdict_and_is_not_held(self, world):
        await world.hear(a_status())
        row = await world.row()
        assert (row["verdict"], row["held"]) == (None, False)


class TestVerdictsOnSqlite(OnSqlite, VerdictsSuite):
    pass


class TestVerdictsOnPostgres(OnPostgres, VerdictsSuite):
    pass
