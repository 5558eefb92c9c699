"""What each quality gate found, of every revision: listed, filtered by, counted; on both databases."""

import pytest

from cataloger.api.graphql import answer
from cataloger.derived import edges_of, results_of
from cataloger.errors import InvalidQueryError
from cataloger.rebuild import rebuild
from cataloger.repository import Writer
from cataloger.testing_builders import a_record, a_status, judged, store_commit
from cataloger.testing_databases import OnPostgres, OnSqlite
from cataloger.testing_killed import differences, rows
from cataloger.testing_world import World
from emporter_contracts.commands import CatalogQuery
from emporter_contracts.events import VolumeComplete
from emporter_contracts.records import GateResult

EMPTY = GateResult(gate="empty", verdict="pass", measured=0.01, threshold=0.4, evidence="1.0% of all voxels are 0")


def shifted(verdict: str, *slices: int) -> GateResult:
    return GateResult(gate="shifted", verdict=verdict, measured=len(slices), threshold=1, slices=slices, evidence=f"{slices}")


async def commit(world: World, volume: str, revision: int, *gates: GateResult, **core) -> None:
    record = a_record(volume, revision, **core)
    await store_commit(world.objects, judged(record, *gates) if gates else record, volume)
    await world.hear(VolumeComplete(job=volume, revision=revision, generation=1, volume=volume, digest="d" * 64))


class GatesSuite:
    @pytest.fixture
    async def four(self, world: World) -> World:
        """One that failed, one that failed before and passes now, one that warns, one that nobody judged."""
        await commit(world, "idr-bad", 1, EMPTY, shifted("fail", 7, 9))
        await commit(world, "idr-mended", 1, EMPTY, shifted("fail", 3))
        await commit(world, "idr-mended", 2, EMPTY, shifted("pass"))
        await commit(world, "idr-odd", 1, EMPTY, shifted("warn", 1))
        await commit(world, "idr-old", 1)
        return world

    async def names(self, world: World, **query) -> list[str]:
        return sorted(row["volume"] for row in await world.rows(**query))

    async def found(self, world: World, **query) -> list[str]:
        page = await world.catalog.quality(CatalogQuery(kind="quality", **query))
        return [f"{r['volume']}@r{r['revision']} {r['gate']} {r['verdict']}" for r in page.items]

    async def test_a_list_is_narrowed_to_what_a_gate_says_of_the_revision_shown(self, four):
        assert await self.names(four, gate="shifted") == ["idr-bad", "idr-odd"]
        assert await self.names(four, gate="shifted:fail") == ["idr-bad"]
        assert await self.names(four, gate="shifted:pass") == ["idr-mended"]
        assert await self.names(four, gate="jump:pass") == [], "what was not judged did not pass"
        assert await self.names(four, gate="shifted", verdict="warn") == ["idr-odd"]

    @pytest.mark.parametrize("gate", ["shift", "shifted:bad", "shifted:", ":fail"])
    async def test_a_gate_there_is_none_of_is_refused_with_those_there_are(self, world, gate):
        for asked in (world.rows(gate=gate), world.catalog.quality(CatalogQuery(kind="quality", gate=gate))):
            with pytest.raises(InvalidQueryError, match="gate=") as refused:
                await asked
            assert "shifted" in refused.value.hint

    async def test_results_of_all_revisions_are_listed_the_newest_first(self, four):
        assert await self.found(four, gate="shifted") == [
            "idr-mended@r2 shifted pass",
            "idr-odd@r1 shifted warn",
            "idr-mended@r1 shifted fail",
            "idr-bad@r1 shifted fail",
        ]
        assert await self.found(four, gate="shifted", verdict="fail") == ["idr-mended@r1 shifted fail", "idr-bad@r1 shifted fail"]
        assert await self.found(four, gate="shifted:warn") == ["idr-odd@r1 shifted warn"]
        assert await self.found(four, verdict="warn") == ["idr-odd@r1 shifted warn"]
        assert await self.found(four, id="idr-mended@r2") == ["idr-mended@r2 shifted pass", "idr-mended@r2 empty pass"]
        assert len(await self.found(four, id="idr-mended")) == 4

    async def test_a_result_says_which_slices_why_and_how_its_revision_stands(self, four):
        await four.intake.removed("idr-bad", {1: a_record().updated_at})
        mended, bad = (await four.catalog.quality(CatalogQuery(kind="quality", gate="shifted:fail"))).items
        assert (mended["shown"], mended["removed"], mended["held"]) == (False, False, False)
        assert bad == {
            "volume": "idr-bad", "revision": 1, "gate": "shifted", "verdict": "fail", "at": "2024-05-01T17:16:40Z",
            "measured": 2.0, "threshold": 1.0, "slices": [7, 9], "evidence": "(7, 9)",
            "shown": True, "held": False, "removed": True,
        }  # fmt: skip

    async def test_pages_follow_each_other_without_a_gap(self, four):
        query, sizes, listed = CatalogQuery(kind="quality", limit=3), [], []
        while True:
            page = await four.catalog.quality(query)
            sizes.append(len(page.items))
            listed += [(r["at"], r["volume"], r["gate"]) for r in page.items]
            if page.cursor is None:
                break
            query = query.model_copy(update={"cursor": page.cursor})
        assert sizes == [3, 3, 2]
        assert listed == sorted(set(listed), reverse=True)

    async def test_a_cursor_of_another_list_is_refused(self, four):
        cursor = (await four.catalog.volumes(CatalogQuery(limit=1))).cursor
        with pytest.raises(InvalidQueryError, match="cursor"):
            await four.catalog.quality(CatalogQuery(kind="quality", cursor=cursor))

    async def test_findings_are_counted_by_gate(self, four):
        for query in (CatalogQuery(), CatalogQuery(source="idr")):
            facets = (await four.catalog.facets(query))["facets"]
            assert facets["gate"] == [{"value": "shifted", "count": 2}]

    async def test_graphql_and_the_bus_tell_the_same(self, four):
        asked = '{ quality(gate: "shifted", verdict: "fail", first: 1) { items { volume revision slices shown } cursor } }'
        told = (await answer(four.catalog, {"query": asked}))["data"]["quality"]
        assert told["items"] == [{"volume": "idr-mended", "revision": 1, "slices": [3], "shown": False}]
        after = asked.replace("first: 1", f'first: 1, after: "{told["cursor"]}"')
        told = (await answer(four.catalog, {"query": after}))["data"]["quality"]
        assert (told["items"][0]["volume"], told["cursor"]) == ("idr-bad", None)
        volumes = '{ volumes(filter: {gate: "shifted:warn"}) { items { id } } }'
        assert (await answer(four.catalog, {"query": volumes}))["data"]["volumes"]["items"] == [{"id": "idr-odd"}]
        heard = await four.catalog.answer(CatalogQuery(kind="quality", id="idr-bad", gate="shifted"))
        assert [row["slices"] for row in heard["items"]] == [[7, 9]]

    async def test_a_record_told_again_takes_the_place_of_what_was_known(self, world):
        await commit(world, "idr-a", 1, EMPTY, shifted("fail", 7), labels_of="idr-image@r2")
        await commit(world, "idr-a", 1, shifted("pass"))
        assert await self.found(world) == ["idr-a@r1 shifted pass"]
        assert len((await rows(world.database))["lineage_edges"]) == 1

    async def test_what_an_outside_script_enters_is_listed_too(self, world):
        record = judged(a_record("idr-outside", labels_of="idr-image"), shifted("warn", 1)).model_dump(mode="json")
        record["metadata"]["quality"]["gates"] *= 2
        record["metadata"]["quality"]["gates"].append({"gate": "g" * 5000, "verdict": "pass"})
        async with world.database.writing() as session:
            await Writer(session).put_external(record)
        assert await self.found(world) == ["idr-outside@r1 shifted warn"]
        assert [row["kind"] for row in (await rows(world.database))["lineage_edges"].values()] == ["labelled_by"]

    async def test_edges_and_results_are_those_of_a_catalog_made_again(self, four, other):
        await commit(four, "idr-labels", 1, EMPTY, role="labels", labels_of="idr-bad@r1")
        await four.hear(a_status(job="idr-late"), await four.planned(job="idr-late"))
        await rebuild(four.objects, other.database)
        here, there = await rows(four.database), await rows(other.database)
        # What was only said on the bus, the store does not know.
        del here["lineage_edges"]["idr-late/1/made"]
        assert len(here["quality_results"]) == 9
        assert len(here["lineage_edges"]) == 7
        assert differences({name: here[name] for name in ("lineage_edges", "quality_results")}, there) == []


class TestGatesOnSqlite(OnSqlite, GatesSuite):
    pass


class TestGatesOnPostgres(OnPostgres, GatesSuite):
    pass


def test_a_correction_hangs_on_what_it_corrects_and_on_no_run() -> None:
    record = a_record(revision=3, labels_of="epfl-image").model_dump(mode="json")
    at = record["updated_at"]
    record["metadata"]["provenance"]["corrections"] = [
        {"revises": 1, "arrays": 1, "by": "a", "at": at},
        {"revises": 2, "arrays": 1, "by": "b", "at": at},
    ]
    found = {(e["kind"], e["start"], e["start_revision"]) for e in edges_of("job", record, external=False)}
    assert found == {("labelled_by", "epfl-image", None), ("corrected_as", record["volume"], 2)}


def test_of_a_gate_that_is_named_twice_the_worst_counts() -> None:
    record = judged(a_record(), shifted("warn", 1), shifted("fail", 2), shifted("pass")).model_dump(mode="json")
    assert [(row["verdict"], row["slices"]) for row in results_of(record)] == [("fail", [2])]
