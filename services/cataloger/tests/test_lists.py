"""What lists, histories and the bus's questions are answered, and that it is valid: on both databases."""

import json
from itertools import pairwise

import pytest

from cataloger.errors import AnswerTooLargeError, InvalidQueryError, NotInCatalogError
from cataloger.testing_builders import JOB, a_record, a_status, at
from cataloger.testing_databases import OnPostgres, OnSqlite
from emporter_contracts import storage
from emporter_contracts.commands import CatalogQuery
from emporter_contracts.events import RawManifestComplete, VolumeComplete
from emporter_contracts.ids import VolumeRef
from emporter_contracts.jobs import Tally, Waiting
from emporter_contracts.plans import Manifest, ManifestObject, Segments
from emporter_runtime.objects import json_bytes


class ListsSuite:
    """Claims about the answers of any catalog."""

    # -- lists --

    async def test_pages_hold_every_row_once_while_rows_are_added(self, world):
        for n in range(7):
            await world.hear(a_status(job=f"epfl-v{n}", updated_at=at(n)))
        seen, cursor = [], None
        while True:
            page = await world.catalog.volumes(CatalogQuery(sort="-updated_at", limit=2, cursor=cursor))
            seen += [r["volume"] for r in page.items]
            cursor = page.cursor
            if cursor is None:
                break
            await world.hear(a_status(job=f"epfl-new{len(seen)}", updated_at=at(1000 + len(seen))))
        assert seen == [f"epfl-v{n}" for n in reversed(range(7))]

    @pytest.mark.parametrize("sort", ["id", "source", "status", "created_at", "updated_at", "bytes", "max_voxel_nm"])
    @pytest.mark.parametrize("sign", ["", "-"])
    async def test_every_sort_pages_through_equal_and_unknown_values(self, world, sort, sign):
        for n, size in enumerate([4.0, None, 8.0, 4.0, None, 0.1]):
            await world.hear(await world.finished(f"epfl-v{n}", job=f"epfl-v{n}", voxel_size_nm=(size, 1.0, 1.0)))
        await world.hear(a_status(job="epfl-stub"))
        seen, cursor = [], None
        for _ in range(20):
            page = await world.catalog.volumes(CatalogQuery(sort=sign + sort, limit=2, cursor=cursor))
            seen += page.items
            cursor = page.cursor
            if cursor is None:
                break
        assert sorted(r["volume"] for r in seen) == sorted([*(f"epfl-v{n}" for n in range(6)), "epfl-stub"])
        key = {"id": "volume"}.get(sort, sort)
        if key in seen[0] and all(r[key] is not None for r in seen):
            assert all(a[key] >= b[key] if sign else a[key] <= b[key] for a, b in pairwise(seen))

    async def test_filters_narrow_the_list_and_unknown_voxel_sizes_are_never_small_enough(self, world):
        await world.hear(await world.finished("epfl-fine", job="epfl-fine", voxel_size_nm=(5.0, 4.0, 4.0)))
        await world.hear(await world.finished("idr-coarse", job="idr-coarse", voxel_size_nm=(50.0, 8.0, 8.0), modality="SBF-SEM"))
        await world.hear(await world.finished("idr-unknown", job="idr-unknown", voxel_size_nm=(None, 4.0, 4.0)))
        await world.hear(a_status("failed", job="idr-broken"))

        async def names(**query):
            return sorted(r["volume"] for r in await world.rows(**query))

        assert await names(max_voxel_nm=5) == ["epfl-fine"]
        assert await names(source="idr") == ["idr-broken", "idr-coarse", "idr-unknown"]
        assert await names(status="failed") == ["idr-broken"]
        assert await names(modality="SBF-SEM") == ["idr-coarse"]
        assert await names(source="idr", status="complete", max_voxel_nm=100) == ["idr-coarse"]

    async def test_labels_are_found_by_their_image_whichever_revision_they_name(self, world):
        for n, image in enumerate(["epfl-image", "epfl-image@r1", "epfl-image@r2", "epfl-image2", None]):
            await world.hear(await world.finished(f"epfl-{n}", job=f"epfl-{n}", labels_of=image))

        async def names(image):
            return [r["volume"] for r in await world.rows(labels_of=image, sort="id")]

        assert await names("epfl-image") == ["epfl-0", "epfl-1", "epfl-2"]
        assert await names("epfl-image@r2") == ["epfl-2"]
        assert await names("epfl-image@r3") == []

    @pytest.mark.parametrize("q", ["hippocampus", "HIPPOCAMPUS mus", "musculus", "lucchi", "cc-by", "epfl-hippo", "uint8"])
    async def test_a_search_finds_words_of_id_description_organism_citation_and_licence(self, world, q):
        await world.hear(await world.finished(), a_status(job="idr-other"))
        assert [r["volume"] for r in await world.rows(q=q)] == [JOB]

    @pytest.mark.parametrize("q", ["%", "_____________________", "\\", "'; drop table volumes", "hippocampus rat", "\x00nothing"])
    async def test_a_search_for_what_is_not_there_finds_nothing(self, world, q):
        await world.hear(await world.finished())
        assert await world.rows(q=q) == []

    @pytest.mark.parametrize(
        "query",
        [
            {"sort": "colour"},
            {"status": "done"},
            {"cursor": "!!!"},
            {"cursor": "bnVsbA"},
            {"kind": "jobs", "status": "removed"},
            {"kind": "job"},
        ],
    )
    async def test_a_query_that_makes_no_sense_is_refused_with_a_hint(self, world, query):
        with pytest.raises(InvalidQueryError) as refused:
            await world.catalog.answer(CatalogQuery(**query))
        assert refused.value.hint

    async def test_a_cursor_of_another_list_is_refused(self, world):
        for n in range(3):
            await world.hear(a_status(job=f"epfl-v{n}"))
        cursor = (await world.catalog.volumes(CatalogQuery(limit=1))).cursor
        with pytest.raises(InvalidQueryError):
            await world.catalog.volumes(CatalogQuery(limit=1, cursor=cursor, sort="id"))

    async def test_jobs_are_listed_by_state_and_source_the_newest_first(self, world):
        for n, state in enumerate(["pending", "failed", "processing"]):
            await world.hear(a_status(state, job=f"epfl-v{n}", created_at=at(n)))
        everything = (await world.catalog.jobs(CatalogQuery(kind="jobs"))).items
        assert [j["job"] for j in everything] == ["epfl-v2", "epfl-v1", "epfl-v0"]
        assert [j["job"] for j in (await world.catalog.jobs(CatalogQuery(kind="jobs", status="failed"))).items] == ["epfl-v1"]
        assert (await world.catalog.jobs(CatalogQuery(kind="jobs", source="idr"))).items == []

    async def test_a_job_says_all_its_last_state_said(self, world):
        waiting = Waiting(reason="host_down", since=at(1), next_try=at(2), message="503")
        status = a_status("processing", version=4, waiting=waiting, fetch=Tally(done=1, total=4), volumes=(JOB,))
        await world.hear(a_status(), status)
        assert await world.catalog.job(JOB) == status

    async def test_the_history_is_oldest_first_and_only_about_this_volume(self, world):
        a, b = f"{JOB}--s0", f"{JOB}--s1"
        await world.hear(a_status(), await world.planned(a, b), await world.finished(a), await world.finished(b))
        types = [(e["type"].rsplit(".", 2)[1], e["volume"]) for e in await world.history(a)]
        assert sorted(types, key=str) == sorted([("raw_plan_ready", None), ("volume_complete", a), ("job_status", None)], key=str)
        assert all(x["at"] <= y["at"] for x, y in pairwise(await world.history(a)))

    async def test_what_is_not_there_is_said_with_what_is(self, world):
        await world.hear(await world.finished())
        with pytest.raises(NotInCatalogError) as unknown:
            await world.record(f"{JOB}@r7")
        assert f"{JOB}@r1" in unknown.value.hint
        with pytest.raises(NotInCatalogError):
            await world.record("epfl-nothing")
        with pytest.raises(NotInCatalogError):
            await world.catalog.job("epfl-nothing")

    # -- the bus's questions --

    async def test_an_answer_on_the_bus_is_never_larger_than_a_message(self, world):
        for n in range(12):
            await world.hear(await world.finished(f"epfl-v{n}", job=f"epfl-v{n}", description="x" * 100_000))
        seen, cursor = [], None
        while True:
            answer = await world.catalog.answer(CatalogQuery(sort="id", limit=1000, cursor=cursor))
            assert len(json.dumps(answer)) < 1_000_000
            seen += [r["volume"] for r in answer["items"]]
            cursor = answer["cursor"]
            if cursor is None:
                break
        assert len(seen) == len(set(seen)) == 12

    async def test_a_record_no_message_can_carry_is_refused_by_name(self, world):
        await world.hear(await world.finished(description="x" * 1_000_000))
        with pytest.raises(AnswerTooLargeError):
            await world.catalog.answer(CatalogQuery(kind="volume", id=JOB))

    async def test_volume_and_job_are_answered_as_one_item(self, world):
        await world.hear(a_status(), await world.finished())
        assert (await world.catalog.answer(CatalogQuery(kind="volume", id=f"{JOB}@r1")))["items"][0]["volume"] == JOB
        assert (await world.catalog.answer(CatalogQuery(kind="job", id=JOB)))["items"][0]["job"] == JOB

    async def test_events_origins_and_citations_are_answered_over_the_bus_as_over_http(self, world):
        manifest = RawManifestComplete(job=JOB, revision=1, generation=1, objects=1, bytes=1)
        await world.hear(a_status(), manifest, await world.finished())
        origin = ManifestObject(
            path="a.tif", url="https://x/a.tif", location=Segments(origin="o"), bytes=1, sha256="ab" * 32, version=""
        )
        await world.intake.manifest_found(Manifest(job=JOB, revision=1, objects=(origin,), completed_at=at(1)))

        async def ask(**query):
            return await world.catalog.answer(CatalogQuery(**query))

        first = await ask(kind="events", id=JOB, limit=1)
        rest = await ask(kind="events", id=JOB, cursor=first["cursor"])
        assert [e["id"] for e in first["items"] + rest["items"]] == [e["id"] for e in await world.history()]
        for wanted in "ab" * 32, "https://x/a.tif":
            assert [raw["path"] for raw in (await ask(kind="raw", id=wanted))["items"]] == ["a.tif"]
        assert (await ask(kind="citations", id=f"{JOB}@r1"))["items"] == await world.catalog.citation(VolumeRef(JOB))
        assert (await ask(kind="citations", source="epfl"))["items"] == await world.catalog.citation(VolumeRef(JOB))
        for kind in "events", "raw":
            with pytest.raises(InvalidQueryError):
                await ask(kind=kind)

    async def test_citations_no_message_can_carry_are_refused_and_never_cut_off(self, world, monkeypatch):
        for n in range(3):
            await world.hear(await world.finished(f"epfl-{n}", job=f"epfl-{n}"))
        monkeypatch.setattr("cataloger.queries.MESSAGE_BYTES", 500)
        with pytest.raises(AnswerTooLargeError):
            await world.catalog.answer(CatalogQuery(kind="citations", source="epfl"))

    # -- validity --

    async def test_drafts_and_final_records_are_valid(self, world):
        await world.hear(
            a_status(job="epfl-stub"), await world.planned(job="epfl-planned"), await world.finished("epfl-f", job="epfl-f")
        )
        assert [problems async for _, problems in world.catalog.table()] == [[], [], []]

    async def test_a_record_that_breaks_its_schema_is_shown_with_what_is_wrong(self, world):
        body = json.loads(json_bytes(a_record())) | {"created_at": "2024-05-01 12:00:00"}
        await world.objects.put(storage.VOLUMES, storage.record(JOB, 1), json.dumps(body).encode())
        await world.hear(VolumeComplete(job=JOB, revision=1, generation=1, volume=JOB, digest="d"))
        [(row, problems)] = [found async for found in world.catalog.table()]
        assert row["volume"] == JOB
        assert problems == ["$.created_at: '2024-05-01 12:00:00' is not a 'date-time'"]


class TestListsOnSqlite(OnSqlite, ListsSuite):
    pass


class TestListsOnPostgres(OnPostgres, ListsSuite):
    pass
