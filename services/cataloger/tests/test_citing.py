"""How to cite a set: all of it, each publication once, or an answer that says it is not all; on both databases."""

import httpx
import pytest

from cataloger import queries
from cataloger.api.rest import build
from cataloger.errors import InvalidQueryError
from cataloger.testing_builders import a_record, store_commit
from cataloger.testing_databases import OnPostgres, OnSqlite
from cataloger.testing_world import World
from emporter_contracts.commands import CatalogQuery
from emporter_contracts.events import VolumeComplete


async def cited(world: World, n: int, source: str = "epfl", paper: str = "Lucchi et al. 2013") -> None:
    volume = f"{source}-{n}"
    await store_commit(world.objects, a_record(volume).model_copy(update={"citation": (paper,)}), volume)
    await world.hear(VolumeComplete(job=volume, revision=1, generation=1, volume=volume, digest="d" * 64))


class CitingSuite:
    @pytest.fixture
    async def seven(self, world: World, monkeypatch: pytest.MonkeyPatch) -> World:
        """Six volumes of one archive and one of another, on pages of two."""
        monkeypatch.setattr(queries, "CITED_PAGE", 2)
        for n in range(6):
            await cited(world, n, paper="Lucchi et al. 2013" if n % 2 else "Another et al. 2020")
        await cited(world, 0, source="idr")
        return world

    async def test_a_set_is_cited_past_the_end_of_a_page_data_sets_first_and_each_paper_once(self, seven):
        entries = await seven.catalog.citations(CatalogQuery(source="epfl"))
        assert [entry["id"] for entry in entries[:6]] == [f"epfl-{n}-r1" for n in range(6)]
        assert sorted(entry["title"] for entry in entries[6:]) == ["Another et al. 2020", "Lucchi et al. 2013"]

    async def test_a_set_that_is_too_large_is_refused_and_never_cut_off(self, seven, monkeypatch):
        monkeypatch.setattr(queries, "MAX_CITED", 6)
        assert len(await seven.catalog.citations(CatalogQuery(source="epfl"))) == 8
        with pytest.raises(InvalidQueryError, match="more than 6") as refused:
            await seven.catalog.citations(CatalogQuery())
        assert "source=" in refused.value.hint

    async def test_over_http_neither_a_limit_nor_an_order_cuts_it(self, seven):
        app = build(seven.catalog, seven.removals, seven.feed, {}, 15)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://catalog") as client:
            asked = {"source": "epfl", "q": "hippocampus", "format": "csl", "limit": 2, "sort": "relevance"}
            answer = await client.get("/v1/citations", params=asked)
            named = await client.get("/v1/citations", params={"volume": ["epfl-1", "epfl-2", "epfl-3"], "format": "csl"})
        assert len(answer.json()) == 8
        assert [entry["type"] for entry in named.json()] == ["dataset"] * 3 + ["article-journal"] * 2

    async def test_a_list_by_relevance_says_whether_all_that_fit_were_ranked(self, seven, monkeypatch):
        async def whole(ranked: int) -> bool:
            monkeypatch.setattr("cataloger.listing.RANKED", ranked)
            page = await seven.catalog.volumes(CatalogQuery(q="hippocampus", sort="relevance", limit=3))
            rows = page.items
            while page.cursor:
                page = await seven.catalog.volumes(CatalogQuery(q="hippocampus", sort="relevance", limit=3, cursor=page.cursor))
                rows += page.items
            assert len(rows) == min(ranked, 7)
            return page.document()["complete"]

        assert [await whole(7), await whole(6)] == [True, False]
        assert (await seven.catalog.volumes(CatalogQuery())).document()["complete"] is True


class TestCitingOnSqlite(OnSqlite, CitingSuite):
    pass


class TestCitingOnPostgres(OnPostgres, CitingSuite):
    pass
