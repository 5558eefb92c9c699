"""PostgreSQL can answer what is asked often from an index."""

import asyncio

import pytest

from cataloger.database import Database
from cataloger.testing import create_database
from cataloger.testing_builders import a_status, at
from cataloger.testing_plans import plans_of
from cataloger.testing_world import World
from emporter_contracts.commands import CatalogQuery

# A few rows are always read fastest from end to end; whether an index could answer is what is asked here.
NO_SCANS = ("enable_seqscan = off",)


@pytest.fixture(scope="module")
def forty_url(postgres_url: str, migrated_postgres: str) -> str:
    """A catalog of forty volumes, which is only read."""

    async def filled() -> str:
        url = await create_database(postgres_url, migrated_postgres)
        database = Database.open(url)
        world = World(database)
        for n in range(40):
            await world.hear(a_status(job=f"idr-{n}", created_at=at(n), updated_at=at(n)))
        await database.close()
        return url

    return asyncio.run(filled())


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
        ({"labels_of": "idr-1", "sort": "id"}, "ix_volumes_image"),
        ({"q": "hippocampus", "sort": "relevance"}, "search_by_words"),
        ({"ranges": {"bytes": "1e3..2e3"}, "sort": "bytes"}, "ix_volumes_bytes"),
        ({"ranges": {"created_at": "2024-05-01"}, "sort": "-created_at"}, "ix_volumes_created_at"),
        ({"where": ("metadata.core.axes=zyx",)}, "search_by_record"),
    ],
)
async def test_a_question_is_answered_from_an_index(forty, query, index):
    asked = World(forty).catalog.volumes(CatalogQuery(**query))
    plans = await plans_of(forty, asked, settings=(*NO_SCANS, *_only(query)))
    assert index in {i for plan in plans for i in plan.indexes}


def _only(query: dict) -> tuple[str, ...]:
    """Words and JSON paths are looked up in bitmaps: a plain index scan in the list's order is as good for forty rows."""
    return ("enable_indexscan = off",) if "q" in query or "where" in query else ("enable_bitmapscan = off",)


async def test_a_time_long_ago_is_entered_by_both_its_ends(forty, monkeypatch):
    monkeypatch.setattr("cataloger.probing.PROBED", 4)
    monkeypatch.setattr("cataloger.probing.FARTHEST", 8)
    day = at(0).date().isoformat()
    asked = World(forty).catalog.volumes(CatalogQuery(ranges={"created_at": f"{day}..{at(1).isoformat()}"}))
    *_, gathered, _ = (plan.statement for plan in await plans_of(forty, asked))
    assert "created_at >= $1" in gathered
    assert "created_at <= $2" in gathered
    assert "IS true" not in gathered, "what is written so enters no index"


async def test_a_file_is_looked_up_by_content_and_by_address(postgres):
    world = World(postgres)
    for asked, index in (("a" * 64, None), "ix_raw_objects_sha256"), ((None, "http://x/"), "ix_raw_objects_url_key"):
        [plan, *_] = await plans_of(postgres, world.catalog.came_of(*asked), settings=NO_SCANS)
        assert index in plan.indexes
