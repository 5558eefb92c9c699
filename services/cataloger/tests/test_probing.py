"""However rows are looked for, walked or entered by an index, the same are found in the same order; on PostgreSQL."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from cataloger.database import Database
from cataloger.errors import TooSlowError
from cataloger.queries import CITED_PAGE, MAX_CITED
from cataloger.repository import Writer
from cataloger.testing import filled_database
from cataloger.testing_builders import a_record, a_status, at, judged
from cataloger.testing_world import World
from emporter_contracts.commands import CatalogQuery
from emporter_contracts.records import GateResult, Verdict

COUNT = 60
WAYS: dict[str, dict[str, float]] = {
    "seen at once": {"PROBED_RECORDS": COUNT},
    "walked": {"PROBED_RECORDS": 4, "WALKED_RECORDS": 1000, "PROBED": 4},
    "some a page": {"PROBED_RECORDS": 3, "WALKED_RECORDS": 5, "RARE": 1000, "COMMON": 1000},
    "few": {"PROBED_RECORDS": 4, "WALKED_RECORDS": 2, "FEW": 1000},
    "many": {"PROBED_RECORDS": 4, "WALKED_RECORDS": 2, "FEW": 0},
    "by several indexes": {"PROBED_RECORDS": 4, "WALKED_RECORDS": 2, "FEW": 6, "RARE": 1, "COMMON": 1},
}
"""How it is looked for: with other numbers the same catalog is a large one."""
QUERIES: list[tuple[dict[str, Any], Callable[[int], bool]]] = [
    ({"where": ("additional_metadata.dose=7",)}, lambda n: dose(n) == 7),
    ({"where": ("additional_metadata.dose>=50",)}, lambda n: dose(n) >= 50),
    ({"where": ("additional_metadata.dose>=10", "additional_metadata.dose<14")}, lambda n: 10 <= dose(n) < 14),
    ({"where": ("additional_metadata.dose!=7",)}, lambda n: dose(n) != 7),
    ({"where": ("additional_metadata.code~7",)}, lambda n: "7" in str(n)),
    ({"where": ("additional_metadata.code~code 7", "metadata.core.axes=zyx")}, lambda n: str(n).startswith("7")),
    ({"where": ("additional_metadata.seldom", "additional_metadata.dose<30")}, lambda n: n % 6 == 0 and dose(n) < 30),
    ({"where": ("metadata.core.axes!=zyx",)}, lambda _: False),
    ({"where": ("metadata.core.axes=zyx",)}, lambda _: True),
    ({"where": ("additional_metadata.long>=1000",)}, lambda n: n == 31),
    ({"gate": "shifted"}, lambda n: said(n) in {"fail", "warn"}),
    ({"gate": "shifted:fail"}, lambda n: said(n) == "fail"),
    ({"gate": "shifted:pass"}, lambda n: said(n) == "pass"),
    ({"gate": "shifted", "where": ("additional_metadata.dose<30",)}, lambda n: said(n) in {"fail", "warn"} and dose(n) < 30),
    ({"gate": "shifted", "source": "epfl"}, lambda n: said(n) in {"fail", "warn"} and n % 10 == 0),
    ({"source": "epfl", "where": ("additional_metadata.dose>=20",)}, lambda n: n % 10 == 0 and dose(n) >= 20),
    ({"q": "gyrus", "where": ("additional_metadata.dose>=20",)}, lambda n: n % 7 == 0 and dose(n) >= 20),
]


def dose(n: int) -> int:
    return n * 17 % COUNT


def said(n: int) -> Verdict | None:
    return {0: "fail", 1: "warn", 2: None}.get(n % 12, "pass")


def records(n: int) -> list[Any]:
    """The revisions of a volume; where there are two, the older one was found the worst by every gate."""
    words = "gyrus" if n % 7 == 0 else "sulcus"
    extra = {"dose": dose(n), "code": f"code {n}", "long": [1000 if n == 31 else 0] * 101} | ({"seldom": 1} if n % 6 == 0 else {})
    found = []
    for revision in range(1, 3 if n % 5 == 4 else 2):
        record = a_record(volume_of(n), revision, description=words, volume_shape=(n % 3 + 1, 10, 10))
        verdict = "fail" if revision == 1 and n % 5 == 4 else said(n)
        if verdict is not None:
            record = judged(record, GateResult(gate="shifted", verdict=verdict))
        # Three at a time are as new as each other.
        found.append(record.model_copy(update={"additional_metadata": extra, "updated_at": at(n * 7 % COUNT // 3)}))
    return found


def volume_of(n: int) -> str:
    return f"{'epfl' if n % 10 == 0 else 'idr'}-{n}"


@pytest.fixture(scope="module")
def sixty_url(postgres_url: str, migrated_postgres: str) -> str:
    async def fill(database: Database) -> None:
        for n in range(COUNT):
            async with database.writing() as session:
                writer = Writer(session)
                await writer.open(a_status(job=volume_of(n)))
                for record in records(n):
                    body = record.model_dump(mode="json")
                    await writer.put(record.volume, record.volume, record.revision, body, committed=True)
                await writer.refresh(volume_of(n))

    return asyncio.run(filled_database(postgres_url, migrated_postgres, fill))


@pytest.fixture
async def sixty(sixty_url: str):
    database = Database.open(sixty_url)
    yield World(database)
    await database.close()


async def pages_of(world: World, limit: int, **query: Any) -> list[list[str]]:
    pages, cursor = [], None
    for _ in range(2 * COUNT):
        page = await world.catalog.volumes(CatalogQuery(**query, limit=limit, cursor=cursor))
        pages.append([row["volume"] for row in page.items])
        if (cursor := page.cursor) is None:
            return pages
    raise AssertionError(f"no end: {pages}")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("query", "fits"), QUERIES, ids=lambda asked: str(asked) if isinstance(asked, dict) else "")
async def test_however_it_is_looked_for_the_same_are_found_in_the_same_order(sixty, monkeypatch, way, query, fits):
    for name, number in WAYS[way].items():
        monkeypatch.setattr(f"cataloger.probing.{name}", number)
    fitting = {volume_of(n) for n in range(COUNT) if fits(n)}
    for sort in "-updated_at", "bytes", "source":
        [whole] = await pages_of(sixty, 100, sort=sort)
        assert len(whole) == COUNT
        pages = await pages_of(sixty, 7, sort=sort, **query)
        assert list(itertools.chain(*pages)) == [volume for volume in whole if volume in fitting], sort
        assert all(len(page) <= 7 for page in pages)


@pytest.mark.parametrize("way", ["few", "many"])
async def test_pages_are_full_where_an_index_leads(sixty, monkeypatch, way):
    for name, number in WAYS[way].items():
        monkeypatch.setattr(f"cataloger.probing.{name}", number)
    for query in {"where": ("additional_metadata.dose>=48",)}, {"gate": "shifted"}:
        *full, _ = await pages_of(sixty, 4, sort="updated_at", **query)
        assert [len(page) for page in full] == [4] * len(full)
        assert full


async def test_what_no_index_leads_to_is_looked_for_some_records_a_page(sixty, monkeypatch):
    for name, number in {"PROBED_RECORDS": 2, "WALKED_RECORDS": 8}.items():
        monkeypatch.setattr(f"cataloger.probing.{name}", number)
    for where in "metadata.core.axes!=zyx", "additional_metadata.long>=1000", "metadata.core.axes>zyx":
        assert len(await pages_of(sixty, 20, where=(where,))) == 6, "ten of sixty records are looked at for each page"


async def test_facets_and_relevance_say_that_not_all_was_looked_at(sixty, monkeypatch):
    everything, nothing = ("metadata.core.axes=zyx",), ("metadata.core.axes!=zyx",)
    counted = await sixty.catalog.facets(CatalogQuery(kind="facets", where=everything))
    assert (counted["counted"], counted["complete"]) == (COUNT, True)
    ranked = await sixty.catalog.volumes(CatalogQuery(q="sulcus", sort="relevance", where=nothing))
    assert (ranked.items, ranked.complete) == ([], True)
    for name, number in {"PROBED_RECORDS": 2, "WALKED_RECORDS": 8}.items():
        monkeypatch.setattr(f"cataloger.probing.{name}", number)
    counted = await sixty.catalog.facets(CatalogQuery(kind="facets", where=nothing))
    assert (counted["counted"], counted["complete"]) == (0, False)
    ranked = await sixty.catalog.volumes(CatalogQuery(q="sulcus", sort="relevance", where=nothing))
    assert (ranked.items, ranked.complete) == ([], False)
    monkeypatch.setattr("cataloger.facets.FACET_RECORDS", 12)
    counted = await sixty.catalog.facets(CatalogQuery(kind="facets", where=everything))
    assert (counted["counted"], counted["complete"]) == (12, False)


async def test_a_set_is_cited_however_many_pages_it_is_found_in(sixty, monkeypatch):
    for name, number in {"PROBED_RECORDS": 1, "WALKED_RECORDS": 1}.items():
        monkeypatch.setattr(f"cataloger.probing.{name}", number)
    last = CatalogQuery(kind="citations", where=("additional_metadata.code~9", "metadata.core.axes!=xyz"))
    assert len(await pages_of(sixty, 500, sort="id", where=last.where)) > MAX_CITED / CITED_PAGE
    assert len(await sixty.catalog.citations(last)) == 6 + 1, "six volumes, and the publication all of them name"
    monkeypatch.setattr("cataloger.queries.CITING_SECONDS", 0.0)
    with pytest.raises(TooSlowError, match="the set") as ended:
        await sixty.catalog.citations(last)
    assert "source=" in ended.value.hint
