"""What people and outside scripts write: one suite, on both databases; then who may, over real connections."""

import json

import httpx
import pytest

from cataloger.api import writes
from cataloger.api.guard import WriteGuard
from cataloger.api.rest import build
from cataloger.curation import MAX_ANNOTATIONS, Curation, checked, merged
from cataloger.errors import AlreadyThereError, InvalidRecordError, NotInCatalogError
from cataloger.feed import Feed
from cataloger.rebuild import rebuild
from cataloger.testing_builders import JOB, a_record, a_status
from cataloger.testing_databases import OnPostgres, OnSqlite
from cataloger.testing_world import World
from emporter_contracts import storage
from emporter_runtime.health import serving

BODY = {"source": "idr", "source_id": "77", "metadata": {"core": {"description": "a liver"}}}


class CurationSuite:
    @pytest.fixture
    def curation(self, world):
        return Curation(world.database, world.objects)

    # -- annotations --

    async def test_an_annotation_is_shown_and_found(self, world, curation):
        await world.hear(await world.finished(), await world.finished("epfl-other", job="epfl-other"))
        await curation.annotate(JOB, "quality", "Excellent contrast")
        assert (await world.row())["annotations"] == {"quality": "Excellent contrast"}
        assert (await world.record())["annotations"] == {"quality": "Excellent contrast"}
        for query in ({"q": "excellent"}, {"annotation": "quality"}, {"annotation": "quality=Excellent contrast"}):
            assert [r["volume"] for r in await world.rows(**query)] == [JOB], query
        assert await world.rows(annotation="quality=poor") == []

    async def test_an_annotation_is_replaced_and_taken_away(self, world, curation):
        await world.hear(await world.finished())
        await curation.annotate(JOB, "k", "one")
        await curation.annotate(JOB, "k", "two")
        assert (await world.row())["annotations"] == {"k": "two"}
        await curation.unannotate(JOB, "k")
        assert (await world.row())["annotations"] == {}
        assert await world.rows(q="two") == []
        with pytest.raises(NotInCatalogError):
            await curation.unannotate(JOB, "k")

    async def test_annotations_stay_with_the_next_revision_and_a_lost_catalog(self, world, curation, other):
        await world.hear(await world.finished())
        await curation.annotate(JOB, "k", "one")
        await curation.annotate(JOB, "gone", "x")
        await curation.unannotate(JOB, "gone")
        await world.hear(await world.finished(run=(2, 1)))
        assert (await world.row())["annotations"] == {"k": "one"}
        await curation.enter(BODY)
        await rebuild(world.objects, other.database)
        assert (await other.row())["annotations"] == {"k": "one"}
        assert (await other.row("idr-77"))["external"] is True

    @pytest.mark.parametrize(
        ("key", "value"), [("1a", "x"), ("a/b", "x"), ("a" * 65, "x"), ("", "x"), ("k", ""), ("k", " "), ("k", "x" * 501)]
    )
    async def test_an_annotation_that_is_none_is_refused(self, world, curation, key, value):
        await world.hear(await world.finished())
        with pytest.raises(InvalidRecordError) as refused:
            await curation.annotate(JOB, key, value)
        assert refused.value.hint

    async def test_a_volume_has_so_many_annotations_and_no_more(self, world, curation, monkeypatch):
        monkeypatch.setattr("cataloger.curation.MAX_ANNOTATIONS", 2)
        await world.hear(await world.finished())
        for key in ("a", "b", "b"):
            await curation.annotate(JOB, key, "x")
        with pytest.raises(InvalidRecordError, match="annotations"):
            await curation.annotate(JOB, "c", "x")
        assert MAX_ANNOTATIONS == 100

    async def test_only_what_is_there_can_be_annotated(self, world, curation):
        with pytest.raises(NotInCatalogError):
            await curation.annotate("epfl-none", "k", "x")
        assert await world.objects.names(storage.RAW, storage.ANNOTATIONS_PREFIX) == []

    # -- records from outside --

    async def test_a_script_enters_enriches_and_completes_a_volume(self, world, curation):
        record = await curation.enter(BODY)
        assert (record["volume"], record["status"]) == ("idr-77", "pending")
        await curation.enrich("idr-77", {"status": "processing", "metadata": {"core": {"data_type": "uint8"}}})
        await curation.enrich("idr-77", {"status": "saving-data", "citation": ["X 2020"]})
        await curation.enrich("idr-77", {"status": "complete"})
        row = await world.row("idr-77")
        assert (row["status"], row["dtype"], row["description"], row["external"]) == ("complete", "uint8", "a liver", True)
        assert (row["job"], "blocks" in row["links"]) == (None, False)
        assert [r["volume"] for r in await world.rows(q="liver")] == ["idr-77"]

    @pytest.mark.parametrize(
        "patch",
        [
            {"status": "complete"}, {"status": "done"}, {"source": "epfl"}, {"volume": "x"}, {"metadata": {"core": {"data_typo": "x"}}},
            {"metadata": {"core": {"volume_shape": [1, 2]}}}, {"colour": "red"}, {"metadata": 5},
        ],
    )  # fmt: skip
    async def test_a_change_against_the_rules_is_refused_and_changes_nothing(self, world, curation, patch):
        before = await curation.enter(BODY)
        with pytest.raises(InvalidRecordError) as refused:
            await curation.enrich("idr-77", patch)
        assert refused.value.hint
        assert (await world.record("idr-77"))["updated_at"] == before["updated_at"]

    async def test_a_volume_is_entered_once(self, world, curation):
        await curation.enter(BODY)
        with pytest.raises(AlreadyThereError):
            await curation.enter(BODY)

    async def test_what_a_job_made_is_not_changed_from_outside(self, world, curation):
        await world.hear(await world.finished())
        with pytest.raises(AlreadyThereError):
            await curation.enrich(JOB, {"citation": ["me"]})
        with pytest.raises(AlreadyThereError):
            await curation.enter({"source": "epfl", "source_id": "hippocampus"})

    async def test_a_job_takes_the_place_of_what_a_script_entered(self, world, curation):
        await curation.enter(BODY)
        await world.hear(a_status(job="idr-77"), await world.finished("idr-77", job="idr-77"))
        row = await world.row("idr-77")
        assert (row["external"], row["status"], row["job"], row["links"]["blocks"][-9:]) == (
            False,
            "complete",
            "idr-77",
            "idr-77@r1",
        )

    @pytest.mark.parametrize(
        "body",
        [{}, {"source": "idr"}, {"source": "idr", "source_id": 5}, {**BODY, "volume": "No Id"}, {**BODY, "status": "failed"}],
    )
    async def test_what_is_no_volume_is_refused(self, world, curation, body):
        with pytest.raises(InvalidRecordError):
            await curation.enter(body)


class TestCurationOnSqlite(OnSqlite, CurationSuite):
    pass


class TestCurationOnPostgres(OnPostgres, CurationSuite):
    pass


@pytest.mark.parametrize(
    ("token", "host", "header", "status"),
    [
        ("", "127.0.0.1", None, 200), ("", "::1", None, 200), ("", "0.0.0.0", None, 403), ("", "catalog.lab", None, 403),
        ("s3cret", "0.0.0.0", None, 401), ("s3cret", "0.0.0.0", "Bearer wrong", 401), ("s3cret", "0.0.0.0", "Basic s3cret", 401),
        ("s3cret", "127.0.0.1", None, 401), ("s3cret", "0.0.0.0", "Bearer s3cret", 200),
    ],
)  # fmt: skip
async def test_who_may_write(sqlite, token, host, header, status):
    world = World(sqlite)
    await world.hear(await world.finished())
    async with serve(world, WriteGuard(token, host)) as client:
        headers = {"Authorization": header} if header else {}
        answer = await client.put(f"/v1/volumes/{JOB}/annotations/k", json={"value": "x"}, headers=headers)
    assert answer.status_code == status
    if status != 200:
        assert "EMPORTER_CATALOG_TOKEN" in answer.json()["hint"]


def serve(world: World, guard: WriteGuard):
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def client():
        entering = writes.routes(Curation(world.database, world.objects), guard)
        app = build(world.catalog, world.removals, Feed(), {}, 1.0, entering)
        async with serving(app, "127.0.0.1", 0) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            yield client

    return client()


async def test_the_routes_of_an_outside_script(sqlite):
    async with serve(World(sqlite), WriteGuard("", "127.0.0.1")) as client:
        entered = await client.post("/v1/volumes", json=BODY)
        assert (entered.status_code, entered.headers["location"]) == (201, "/v1/volumes/idr-77")
        assert (await client.post("/v1/volumes", json=BODY)).status_code == 409
        patched = await client.patch("/v1/volumes/idr-77", json={"status": "processing"})
        assert (patched.status_code, patched.json()["status"]) == (200, "processing")
        assert (await client.patch("/v1/volumes/idr-77@r1", json={})).status_code == 400
        assert (await client.put("/v1/volumes/idr-77/annotations/k", json={"value": "x"})).status_code == 200
        assert (await client.delete("/v1/volumes/idr-77/annotations/k")).status_code == 204
        assert (await client.delete("/v1/volumes/idr-77/annotations/k")).status_code == 404


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"{}", "text/plain"), (b"{", "application/json"), (b"[]", "application/json"), (b"[" * 100_000, "application/json"),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "application/json"), (b" " * (2**20 + 1), "application/json"), (b"\xff", "application/json"),
        (b'{"source": "\\ud800", "source_id": "x"}', "application/json"),
    ],
)  # fmt: skip
async def test_a_body_that_is_none_is_refused(sqlite, content, kind):
    async with serve(World(sqlite), WriteGuard("", "127.0.0.1")) as client:
        answer = await client.post("/v1/volumes", content=content, headers={"content-type": kind})
    assert (answer.status_code, bool(answer.json()["hint"])) == (400, True)


def test_a_merge_patch_is_that_of_its_rfc():
    assert merged({"a": "b", "c": {"d": "e", "f": "g"}}, {"a": "z", "c": {"f": None}}) == {"a": "z", "c": {"d": "e"}}
    assert merged({"a": [1]}, {"a": {"b": {"c": None}}}) == {"a": {"b": {}}}


def test_a_whole_record_is_checked_as_it_stands():
    record = json.loads(a_record().model_dump_json())
    assert checked(record)["volume"] == JOB
