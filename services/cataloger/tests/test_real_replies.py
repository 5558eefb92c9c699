"""What the archives really say can be found by the words somebody would type: on both databases."""

import pytest

from cataloger.testing_builders import store_commit
from cataloger.testing_databases import OnPostgres, OnSqlite
from cataloger.testing_replies import LOOKED_FOR, records
from cataloger.testing_world import World
from emporter_contracts.commands import CatalogQuery
from emporter_contracts.events import VolumeComplete
from emporter_testing.samples import ROOT

REPLIES = ROOT.parent / "archives"

pytestmark = pytest.mark.skipif(
    not REPLIES.is_dir(), reason="beside the folder EMPORTER_SAMPLES names no replies of archives lie"
)


class RepliesSuite:
    async def test_each_is_found_first_by_its_own_words(self, world: World) -> None:
        for record in records(REPLIES):
            await store_commit(world.objects, record, record.volume)
            done = VolumeComplete(job=record.volume, revision=1, generation=1, volume=record.volume, digest="d" * 64)
            await world.hear(done)
        found = {}
        for words, _ in LOOKED_FOR:
            page = await world.catalog.volumes(CatalogQuery(q=words, sort="relevance"))
            found[words] = [row["volume"] for row in page.items][:1]
        assert found == {words: [volume] for words, volume in LOOKED_FOR}


class TestRepliesOnSqlite(OnSqlite, RepliesSuite):
    pass


class TestRepliesOnPostgres(OnPostgres, RepliesSuite):
    pass
