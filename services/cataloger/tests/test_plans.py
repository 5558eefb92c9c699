"""PostgreSQL can answer what is asked often from an index."""

import asyncio

import pytest

from cataloger.database import Database
from cataloger.parts import parts_of
from cataloger.testing import filled_database
from cataloger.testing_builders import a_status, at
from cataloger.testing_plans import _statements, plans_of
from cataloger.testing_world import World
from emporter_contracts.commands import CatalogQuery
from emporter_contracts.ids import VolumeRef

# A few rows are always read fastest from end to end; whether an index could answer is what is asked here.
NO_SCANS = ("enable_seqscan = off",)


@pytest.fixture(scope="module")
def forty_url(postgres_url: str, migrated_postgres: str) -> str:
    """A catalog of forty volumes, which is only read."""

    async def fill(database: Database) -> None:
        for n in range(40):
            await World(database).hear(a_status(job=f"idr-{n}", created_at=at(n), updated_at=at(n)))

    return asyncio.run(filled_database(postgres_url, migrated_postgres, fill))


@pytest.fixture
async def forty(forty_url: str):
    database = Database.open(forty_url)
    yield database
    await database.close()


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ({}, "ix_volumes_updated_at"),
        ({"sort": "-bytes"}, "search_by_bytes"),
        ({"sort": "max_voxel_nm"}, "search_by_max_voxel_nm"),
        ({"source": "idr"}, "ix_volumes_source_updated_at"),
        ({"status": "failed"}, "ix_volumes_status_updated_at"),
        ({"organism": "Mus musculus"}, "ix_volumes_organism"),
        ({"modality": "TEM"}, "ix_volumes_modality"),
        ({"dtype": "uint8"}, "ix_volumes_dtype"),
        ({"licence": "CC0-1.0"}, "ix_volumes_licence"),
        ({"verdict": "fail"}, "ix_volumes_verdict"),
        ({"held": True}, "ix_volumes_held"),
        ({"managed": False}, "ix_volumes_managed"),
        ({"managed": True}, "ix_volumes_managed"),
        ({"labels_of": "idr-1", "sort": "id"}, "ix_volumes_image"),
        ({"q": "hippocampus", "sort": "relevance"}, "search_by_words"),
        ({"ranges": {"bytes": "1e3..2e3"}, "sort": "bytes"}, "ix_volumes_bytes"),
        ({"ranges": {"created_at": "2024-05-01"}, "sort": "-created_at"}, "ix_volumes_created_at"),
    ],
)
async def test_a_question_is_answered_from_an_index(forty, query, index):
    asked = World(forty).catalog.volumes(CatalogQuery(**query))
    plans = await plans_of(forty, asked, settings=(*NO_SCANS, *_only(query)))
    assert index in {i for plan in plans for i in plan.indexes}


def _only(query: dict) -> tuple[str, ...]:
    """Words and JSON paths are looked up in bitmaps: a plain index scan in the list's order is as good for forty rows."""
    return ("enable_indexscan = off",) if "q" in query or "where" in query else ("enable_bitmapscan = off",)


async def test_what_a_gate_rarely_finds_is_looked_up(forty, monkeypatch):
    monkeypatch.setattr("cataloger.probing.PROBED_RECORDS", 4)
    asked = World(forty).catalog.volumes(CatalogQuery(gate="shifted:fail"))
    plans = await plans_of(forty, asked, settings=(*NO_SCANS, "enable_bitmapscan = off"))
    [entered] = [plan for plan in plans if "found AS" in plan.statement]
    assert "ix_quality_results_gate" in entered.indexes


async def test_what_a_gate_passes_is_in_no_index_and_not_looked_for_in_one(forty, monkeypatch):
    monkeypatch.setattr("cataloger.probing.PROBED_RECORDS", 4)
    plans = await plans_of(forty, World(forty).catalog.volumes(CatalogQuery(gate="shifted:pass")))
    assert not any("found AS" in plan.statement for plan in plans)


async def test_a_time_long_ago_is_entered_by_both_its_ends(forty, monkeypatch):
    monkeypatch.setattr("cataloger.probing.PROBED", 4)
    monkeypatch.setattr("cataloger.probing.FARTHEST", 8)
    day = at(0).date().isoformat()
    asked = World(forty).catalog.volumes(CatalogQuery(ranges={"created_at": f"{day}..{at(1).isoformat()}"}))
    *_, gathered, _ = (plan.statement for plan in await plans_of(forty, asked))
    assert "created_at >= $1" in gathered
    assert "created_at <= $2" in gathered
    assert "IS true" not in gathered, "what is written so enters no index"


@pytest.mark.parametrize(
    "where",
    ["additional_metadata.dose>=5", "metadata.core.description~zebrafish", "additional_metadata.dose", "metadata.core.axes=xyz"],
)
async def test_what_few_records_hold_is_entered_by_the_index_of_fields(forty, monkeypatch, where):
    monkeypatch.setattr("cataloger.probing.PROBED_RECORDS", 4)
    # What all have is tried row by row, whatever index there is.
    asked = World(forty).catalog.volumes(CatalogQuery(where=("metadata.core.axes!=xyz", where)))
    plans = await plans_of(forty, asked, settings=(*NO_SCANS, "enable_indexscan = off"))
    [entered] = [plan for plan in plans if "search_fields" in plan.statement]
    assert "search_by_fields" in entered.indexes
    assert entered.statement.count("search_keys") == 1 + where.count("~"), "what all have is not entered"


@pytest.mark.parametrize(
    ("other", "asked"),
    [
        ("metadata.core.axes=zyx", True),
        ("metadata.core.axes~zyx", True),
        ("metadata.core.axes!=xyz", False),
        ("revision>=0", False),
    ],
)
async def test_the_index_is_asked_at_once_what_few_keys_tell_of_other_conditions(forty, monkeypatch, other, asked):
    monkeypatch.setattr("cataloger.probing.PROBED_RECORDS", 4)
    with _statements(forty) as sent:
        page = await World(forty).catalog.volumes(CatalogQuery(where=(other, "source_id=7")))
    [entered] = [statement for statement, _ in sent if "found AS" in statement]
    assert (entered.count("search_keys") > 1) is asked, "one for the rare condition"
    assert [row["source_id"] for row in page.items] == ["7"]


async def test_a_long_word_is_looked_up_by_its_rarest_part(forty, monkeypatch):
    monkeypatch.setattr("cataloger.probing.PROBED", 4)
    monkeypatch.setattr("cataloger.probing.FARTHEST", 8)
    # All volumes hold its beginning, none the rest.
    for query in CatalogQuery(q="unknownqzj"), CatalogQuery(q="unknownqzj", kind="facets"), CatalogQuery(q="unknown unknownqzj"):
        with _statements(forty) as sent:
            await World(forty).catalog.answer(query)
        assert [part for _, parameters in sent for part in parameters if part in parts_of("unknownqzj")] == ["wnqzj"]


async def test_the_index_of_records_is_not_asked_where_that_of_gates_leads(forty, monkeypatch):
    monkeypatch.setattr("cataloger.probing.PROBED_RECORDS", 4)
    with _statements(forty) as sent:
        await World(forty).catalog.volumes(CatalogQuery(gate="shifted:fail", where=("metadata.core.axes=zyx",)))
    [entered] = [statement for statement, _ in sent if "found AS" in statement]
    assert "search_keys" not in entered


async def test_a_list_seen_to_its_end_is_looked_at_once(forty):
    with _statements(forty) as sent:
        await World(forty).catalog.volumes(CatalogQuery(where=("source_id=7",)))
    assert len([statement for statement, _ in sent if "FROM revisions" in statement]) == 1


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("empiar-11759", ("empia", "mpiar", "11759")),
        ("11759", ()),
        ("short", ()),
        ("a-b-c-d-e-f", ()),
        ("bräuninger", ("uning", "ninge", "inger")),
        ("abababab", ("ababa", "babab")),
        ("x" * 50 + "abcdefghijklmnop", tuple("abcdefghijklmnop"[n : n + 5] for n in range(12))),
        ("100%_sure", ()),
    ],
)
def test_parts_of_a_word(word, parts):
    assert parts_of(word) == parts


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ({}, "ix_quality_results_at"),
        ({"verdict": "fail"}, "ix_quality_results_verdict"),
        ({"gate": "shifted", "verdict": "fail"}, "ix_quality_results_gate"),
        ({"gate": "shifted:fail"}, "ix_quality_results_gate"),
        ({"id": "idr-1"}, "quality_results_pkey"),
    ],
)
async def test_results_of_gates_are_listed_from_an_index(forty, query, index):
    listed = World(forty).catalog.quality(CatalogQuery(kind="quality", **query))
    results, *_ = await plans_of(forty, listed, settings=(*NO_SCANS, "enable_bitmapscan = off"))
    assert results.indexes == {index}


@pytest.mark.parametrize(
    "query", [{"kind": "volumes", "gate": "shifted"}, {"kind": "quality", "gate": "shifted", "verdict": "fail"}]
)
async def test_findings_are_looked_up_in_sqlite_too(sqlite, query):
    with _statements(sqlite) as sent:
        await World(sqlite).catalog.answer(CatalogQuery(**query))
    [(statement, parameters)] = [said for said in sent if "quality_results" in said[0]]
    async with sqlite._engine.connect() as connection:
        steps = (await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)).scalars("detail").all()
    assert any("ix_quality_results_gate (gate=? AND verdict=?)" in step for step in steps)


async def test_edges_are_walked_by_index_from_either_end(forty):
    plans = await plans_of(forty, World(forty).catalog.lineage(VolumeRef("idr-1")), settings=NO_SCANS)
    walked = [plan.indexes for plan in plans if "FROM lineage_edges" in plan.statement]
    assert walked == [{"lineage_edges_pkey"}, {"ix_lineage_edges_start"}]


async def test_what_the_index_of_fields_finds_is_asked_of_the_record(forty, monkeypatch):
    monkeypatch.setattr("cataloger.probing.PROBED_RECORDS", 4)
    catalog = World(forty).catalog
    # Both ends of a range are looked up, so a record at its end is found and does not fit.
    assert (await catalog.volumes(CatalogQuery(where=("revision>1",)))).items == []
    assert (await catalog.facets(CatalogQuery(where=("revision>1",), kind="facets")))["counted"] == 0
    assert len((await catalog.volumes(CatalogQuery(where=("revision>=1", "source_id=7")))).items) == 1


@pytest.mark.parametrize("kind", ["facets", "by source"])
async def test_a_list_that_is_not_walked_is_narrowed_to_what_an_index_finds(forty, monkeypatch, kind):
    monkeypatch.setattr("cataloger.probing.PROBED_RECORDS", 4)
    catalog, rare, common = World(forty).catalog, ("metadata.core.axes=xyz",), ("metadata.core.axes=zyx",)
    for where, entered in (rare, True), (common, False):
        query = CatalogQuery(where=where, sort="source") if kind == "by source" else CatalogQuery(where=where, kind="facets")
        asked = catalog.facets(query) if kind == "facets" else catalog.volumes(query)
        plans = await plans_of(forty, asked, settings=(*NO_SCANS, "enable_indexscan = off"))
        assert any("search_by_fields" in plan.indexes for plan in plans) is entered


async def test_what_many_volumes_have_is_not_handed_on_as_a_list_of_them(forty, monkeypatch):
    monkeypatch.setattr("cataloger.probing.PROBED_RECORDS", 4)
    monkeypatch.setattr("cataloger.probing.SORTED", 3)
    catalog = World(forty).catalog
    few, many = ("source_id~39",), ("source_id~1",)
    counted = [(await catalog.facets(CatalogQuery(where=where, kind="facets")))["counted"] for where in (few, many)]
    assert counted == [1, 13]
    listed = await catalog.volumes(CatalogQuery(where=many, sort="source", limit=50))
    assert [row["source_id"] for row in listed.items] == sorted(str(n) for n in range(40) if "1" in str(n))


async def test_a_file_is_looked_up_by_content_and_by_address(postgres):
    world = World(postgres)
    for asked, index in (("a" * 64, None), "ix_raw_objects_sha256"), ((None, "http://x/"), "ix_raw_objects_url_key"):
        [plan, *_] = await plans_of(postgres, world.catalog.came_of(*asked), settings=NO_SCANS)
        assert index in plan.indexes
