"""What the catalog shows after what was said: one suite, on both databases."""

import asyncio
import json
import random
from itertools import pairwise

import pytest

from cataloger.errors import AnswerTooLargeError, InvalidQueryError, NotInCatalogError
from cataloger.rebuild import rebuild
from cataloger.testing_builders import (
    JOB,
    a_plan,
    a_record,
    a_status,
    at,
    fact_of,
    store_commit,
    store_plan,
    store_tombstone,
)
from cataloger.testing_world import World
from emporter_contracts import storage
from emporter_contracts.commands import CatalogQuery, IngestRequest, Refusal
from emporter_contracts.events import LevelComplete, RawManifestComplete, RawPlanReady, VolumeComplete
from emporter_contracts.jobs import Tally, Waiting
from emporter_contracts.plans import StoredRequest
from emporter_runtime.commits import release
from emporter_runtime.objects import Objects, json_bytes
from emporter_runtime.runs import RunNote


class CatalogSuite:
    """Claims about any catalog."""

    # -- a run, from stub to record --

    async def test_a_pending_job_is_a_stub_under_its_own_name(self, world):
        await world.hear(a_status("pending"))
        row = await world.row(JOB)
        assert (row["status"], row["shape"], row["voxel_size_nm"]) == ("pending", None, [None, None, None])
        assert row["latest_run"] == {"revision": 1, "generation": 1, "state": "pending"}

    async def test_the_plan_replaces_the_stub_by_the_jobs_volumes(self, world):
        await world.hear(a_status("pending"), await world.planned(f"{JOB}--s0", f"{JOB}--s1"))
        assert sorted(r["volume"] for r in await world.rows()) == [f"{JOB}--s0", f"{JOB}--s1"]
        row = await world.row(f"{JOB}--s1")
        assert row["shape"] == [165, 768, 1024]
        assert row["voxel_size_nm"] == [5.0, 5.0, 5.0]
        assert (row["dtype"], row["modality"], row["licence"], row["role"]) == ("uint8", "FIB-SEM", "CC-BY-4.0", "image")
        assert row["citation"] == ["Lucchi et al. 2013"]

    async def test_volumes_named_by_a_state_before_the_plan_is_heard_replace_the_stub_too(self, world):
        await world.hear(a_status("pending"), a_status("processing", version=2, volumes=(f"{JOB}--s0",)))
        assert [r["volume"] for r in await world.rows()] == [f"{JOB}--s0"]

    async def test_a_committed_volume_has_the_record_the_store_has(self, world):
        await world.hear(a_status("pending"), await world.planned(), await world.finished())
        record = await world.record()
        stored = json.loads(await world.objects.get(storage.VOLUMES, storage.record(JOB, 1)))
        assert {name: record[name] for name in stored} == stored
        assert (await world.row())["status"] == "complete"

    async def test_whoever_sees_a_job_complete_finds_its_volumes_complete(self, world):
        await world.planned()
        await world.finished()
        await world.hear(a_status("complete", version=9, volumes=(JOB,), committed=(JOB,)))
        assert (await world.record())["metadata"]["technical"]["sha256"] == "ab" * 32

    async def test_a_volume_is_not_complete_before_its_record_is_there(self, world):
        await world.hear(a_status("complete", version=9, volumes=(JOB,)))
        assert (await world.row())["status"] == "saving-data"

    @pytest.mark.parametrize("state", ["processing", "saving-data", "failed", "cancelled"])
    async def test_a_volume_that_is_not_committed_goes_where_its_job_goes(self, world, state):
        await world.hear(a_status("pending"), await world.planned(), a_status(state, version=5, volumes=(JOB,)))
        assert (await world.row())["status"] == state
        assert (await world.record())["status"] == state

    async def test_a_failed_job_keeps_the_volumes_it_committed(self, world):
        done, lost = f"{JOB}--s0", f"{JOB}--s1"
        await world.hear(a_status("pending"), await world.planned(done, lost), await world.finished(done))
        refusal = Refusal(code="corrupt_object", message="page 3 is cut off", hint="fetch it again")
        await world.hear(a_status("failed", version=7, volumes=(done, lost), committed=(done,), error=refusal))
        assert {r["volume"]: r["status"] for r in await world.rows()} == {done: "complete", lost: "failed"}

    async def test_a_voxel_size_nobody_says_stays_unknown(self, world):
        await world.hear(await world.planned(voxel_size_nm=(None, 5.0, 5.0)))
        assert (await world.row())["voxel_size_nm"] == [None, 5.0, 5.0]
        assert (await world.rows(max_voxel_nm=1000)) == []

    # -- revisions --

    async def test_a_committed_revision_stays_while_the_next_is_made(self, world):
        await world.hear(a_status("pending"), await world.planned(), await world.finished(), a_status("complete", version=9))
        await world.hear(a_status("pending", run=(2, 1)))
        row = await world.row()
        assert (row["status"], row["revision"]) == ("complete", 1)
        assert row["latest_run"] == {"revision": 2, "generation": 1, "state": "pending"}
        assert len(await world.rows()) == 1

    async def test_a_failed_second_revision_leaves_the_first_as_it_is(self, world):
        await world.hear(a_status("pending"), await world.planned(), await world.finished())
        await world.hear(a_status("pending", run=(2, 1)), await world.planned(run=(2, 1)))
        await world.hear(a_status("failed", run=(2, 1), version=4, volumes=(JOB,)))
        row = await world.row()
        assert (row["status"], row["revision"], row["latest_run"]["state"]) == ("complete", 1, "failed")
        assert (await world.record(f"{JOB}@r2"))["status"] == "failed"

    async def test_the_newest_commit_is_the_volume_and_the_older_stays_to_be_read(self, world):
        await world.hear(await world.finished(description="first"), await world.finished(run=(2, 1), description="second"))
        assert (await world.record())["metadata"]["core"]["description"] == "second"
        assert (await world.record(f"{JOB}@r1"))["metadata"]["core"]["description"] == "first"

    async def test_a_commit_heard_late_moves_nothing_backwards(self, world):
        await world.hear(await world.finished(run=(2, 1)), await world.finished(run=(1, 1)))
        assert (await world.row())["revision"] == 2

    async def test_a_new_revision_forgets_what_the_old_one_planned_and_never_wrote(self, world):
        await world.hear(a_status("pending"), await world.planned(f"{JOB}--s0"), a_status("failed", version=4))
        await world.hear(a_status("pending", run=(2, 1)))
        assert [(r["volume"], r["status"], r["revision"]) for r in await world.rows()] == [(JOB, "pending", 2)]

    # -- order and doubles --

    async def test_an_older_state_is_listed_and_changes_nothing(self, world):
        await world.hear(a_status("processing", version=3), a_status("pending", version=2))
        assert (await world.row())["status"] == "processing"
        assert [e["version"] for e in await world.history()] == [2, 3]

    async def test_a_retry_is_newer_than_the_failure_before_it(self, world):
        await world.hear(a_status("failed", version=9), a_status("pending", run=(1, 2), version=1))
        assert (await world.row())["status"] == "pending"

    async def test_the_end_of_a_run_counts_even_where_a_wiped_bus_counts_versions_anew(self, world):
        await world.hear(a_status("processing", version=57), a_status("failed", version=3))
        assert (await world.catalog.job(JOB)).state == "failed"

    async def test_a_message_delivered_twice_is_listed_once(self, world):
        event = await world.planned()
        await world.hear(event, event, a_status(), a_status())
        assert len(await world.history()) == 2

    async def test_a_late_plan_of_an_older_revision_is_ignored(self, world):
        old = await world.planned(f"{JOB}--old")
        await world.hear(a_status("pending", run=(2, 1)), old)
        assert [r["volume"] for r in await world.rows()] == [JOB]

    @pytest.mark.parametrize("seed", range(8))
    async def test_facts_in_any_order_and_doubled_leave_the_same_catalog(self, world, seed):
        a, b = f"{JOB}--s0", f"{JOB}--s1"
        story = [
            a_status("pending"),
            await world.planned(a, b),
            a_status("processing", version=2, volumes=(a, b)),
            RawManifestComplete(job=JOB, revision=1, generation=1, objects=1, bytes=1),
            LevelComplete(job=JOB, revision=1, generation=1, volume=a, level=0),
            await world.finished(a),
            a_status("failed", version=5, volumes=(a, b), committed=(a,)),
            a_status("pending", run=(1, 2)),
            a_status("complete", run=(1, 2), version=6, volumes=(a, b), committed=(a, b)),
            await world.finished(b),
            a_status("pending", run=(2, 1)),
            await world.planned(a, b, run=(2, 1)),
            a_status("processing", run=(2, 1), version=3, volumes=(a, b)),
            await world.finished(b, run=(2, 1)),
            a_status("cancelled", run=(2, 1), version=4, volumes=(a, b), committed=(b,)),
        ]
        shuffled = story + random.Random(seed).choices(story, k=5)
        random.Random(seed).shuffle(shuffled)
        await world.hear(*shuffled)
        shown = {r["volume"]: (r["status"], r["revision"], r["latest_run"]["state"]) for r in await world.rows()}
        assert shown == {a: ("complete", 1, "cancelled"), b: ("complete", 2, "cancelled")}
        assert (await world.record(f"{a}@r2"))["status"] == "cancelled"
        assert len(await world.history(a)) + 1 == len({fact_of(s).id for s in story}) - 1

    async def test_states_of_one_job_taken_in_at_the_same_time_end_at_the_newest(self, world):
        await asyncio.gather(*(world.hear(a_status("processing", version=v)) for v in range(1, 25)))
        assert (await world.catalog.job(JOB)).version == 24
        assert len(await world.history()) == 24

    async def test_many_jobs_at_the_same_time_are_all_there(self, world):
        await asyncio.gather(*(world.hear(a_status(job=f"epfl-v{n}")) for n in range(30)))
        assert len(await world.rows()) == 30

    # -- what stores and archives do to us --

    async def test_a_plan_that_is_gone_leaves_the_stub(self, world):
        await world.hear(a_status("failed", version=3))
        await world.hear(RawPlanReady(job=JOB, revision=1, generation=1, objects=1, bytes=1, volumes=(JOB,)))
        assert (await world.row())["status"] == "failed"
        assert len(await world.history()) == 2

    async def test_a_commit_whose_record_is_lost_is_listed_and_the_volume_is_not_complete(self, world):
        await world.hear(a_status("processing", volumes=(JOB,)))
        await world.hear(VolumeComplete(job=JOB, revision=1, generation=1, volume=JOB, digest="d"))
        assert (await world.row())["status"] == "processing"
        assert len(await world.history()) == 2

    async def test_text_no_database_likes_is_kept_readable(self, world):
        plan = await world.planned(description="nul \x00 inside", archive={"k\x00": "é"})
        await world.hear(plan)
        record = await world.record()
        assert record["metadata"]["core"]["description"] == "nul \ufffd inside"
        assert record["additional_metadata"]["epfl_metadata"]["k\ufffd"] == "é"

    async def test_numbers_past_2_to_the_53_stay_exact(self, world):
        await store_commit(world.objects, a_record(source_origin=(2**60, 0, 0)).model_copy(update={"files": (str(2**70),)}))
        await world.hear(VolumeComplete(job=JOB, revision=1, generation=1, volume=JOB, digest="d"))
        assert (await world.record())["metadata"]["core"]["source_origin"][0] == 2**60

    # -- removal --

    async def test_a_removed_volume_stays_as_a_row_marked_removed(self, world):
        await world.hear(await world.finished())
        await store_tombstone(world.objects, JOB)
        await world.removals.look(JOB)
        row = await world.row()
        assert (row["status"], row["removed"], row["updated_at"]) == (
            "removed",
            True,
            a_record().model_dump(mode="json")["updated_at"],
        )
        assert (await world.record())["removed"] is True
        assert "blocks" not in (await world.record())["links"]

    async def test_removing_the_newest_revision_shows_the_one_before(self, world):
        await world.hear(await world.finished(), await world.finished(run=(2, 1)))
        await store_tombstone(world.objects, JOB, 2)
        await world.removals.look(JOB)
        assert ((await world.row())["revision"], (await world.row())["status"]) == (1, "complete")
        assert (await world.record(f"{JOB}@r2"))["removed"] is True

    async def test_a_sweep_finds_what_was_removed_without_a_word(self, world):
        names = [f"epfl-v{n}" for n in range(5)]
        await world.hear(*[await world.finished(n, job=n) for n in names])
        await store_tombstone(world.objects, "epfl-v3")
        assert await world.removals.sweep() == 1
        assert [r["volume"] for r in await world.rows(status="removed")] == ["epfl-v3"]

    async def test_a_commit_heard_after_its_removal_is_shown_as_removed(self, world):
        event = await world.finished()
        await world.hear(await world.planned())
        await store_tombstone(world.objects, JOB)
        await world.hear(event)
        assert (await world.row())["status"] == "removed"

    async def test_a_new_run_after_a_removal_is_shown_again(self, world):
        await world.hear(a_status(), await world.finished())
        await store_tombstone(world.objects, JOB)
        await world.removals.look(JOB)
        await world.hear(await world.planned(run=(2, 1)), await world.finished(run=(2, 1)))
        assert ((await world.row())["status"], (await world.row())["revision"]) == ("complete", 2)

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

    # -- from the store alone --

    async def test_a_lost_catalog_is_rebuilt_from_the_store(self, world):
        await self.fill(world.objects)
        found = await rebuild(world.objects, world.database)
        assert (found.jobs, found.revisions, found.removed, found.unreadable) == (3, 3, 1, 0)
        shown = {r["volume"]: (r["status"], r["revision"]) for r in await world.rows()}
        assert shown == {JOB: ("complete", 2), "epfl-failed": ("failed", 1), "epfl-gone": ("removed", 1)}
        job = await world.catalog.job("epfl-failed")
        assert (job.state, job.generation, job.error.code) == ("failed", 2, "corrupt_object")
        assert (await world.record(f"{JOB}@r1"))["status"] == "complete"

    async def test_rebuilding_twice_changes_nothing(self, world):
        await self.fill(world.objects)
        await rebuild(world.objects, world.database)
        before = [await world.rows(sort="id"), await world.history()]
        await rebuild(world.objects, world.database)
        assert [await world.rows(sort="id"), await world.history()] == before

    async def test_rebuilding_a_catalog_in_use_moves_nothing_backwards(self, world):
        await self.fill(world.objects)
        await world.hear(a_status("processing", run=(3, 1), version=8))
        await rebuild(world.objects, world.database)
        row = await world.row()
        assert (row["revision"], row["status"], row["latest_run"]["revision"]) == (2, "complete", 3)

    async def test_one_unreadable_record_does_not_stop_a_rebuild(self, world):
        await self.fill(world.objects)
        await world.objects.put(storage.VOLUMES, storage.record(JOB, 2), b"{")
        assert (await rebuild(world.objects, world.database)).unreadable == 1
        assert (await world.row())["revision"] == 1

    async def test_a_held_revision_is_shown_only_where_there_is_no_other_until_it_is_released(self, world):
        await world.hear(await world.finished())
        held = await world.finished(run=(2, 1))
        await world.objects.put(storage.VOLUMES, storage.hold(JOB, 2), b"{}")
        await world.hear(held)
        assert (await world.row())["revision"] == 1
        assert (await world.record(f"{JOB}@r2"))["held"]
        await release(world.objects, JOB, 2)
        assert await world.removals.look(JOB)
        assert (await world.row())["revision"] == 2
        assert not (await world.record())["held"]

    async def test_a_volume_whose_only_revision_is_held_is_shown_as_held(self, world):
        event = await world.finished()
        await world.objects.put(storage.VOLUMES, storage.hold(JOB, 1), b"{}")
        await world.hear(event)
        assert (await world.record())["held"]

    async def fill(self, objects: Objects) -> None:
        """A volume of two revisions, a job that failed in its second generation, and a volume that was removed."""
        ends = {JOB: (2, 1, "complete"), "epfl-failed": (1, 2, "failed"), "epfl-gone": (1, 1, "complete")}
        for job, (revision, generation, state) in ends.items():
            claim = StoredRequest(request=IngestRequest(source="epfl", source_id=job[5:]), event_id="e", received_at=at(0))
            await objects.put_json(storage.RAW, storage.request(job, revision), claim)
            await store_plan(objects, a_plan(job=job, revision=revision))
            error = Refusal(code="corrupt_object", message="cut off") if state == "failed" else None
            for n in range(1, generation + 1):
                start = RunNote(job=job, revision=revision, generation=n, at=at(n), state="pending")
                await objects.put_json(storage.RAW, storage.generation(job, revision, n), start)
            end = RunNote(job=job, revision=revision, generation=generation, at=at(50), state=state, error=error)
            await objects.put_json(storage.RAW, storage.generation_ended(job, revision, generation), end)
        await store_commit(objects, a_record(JOB, 1))
        await store_commit(objects, a_record(JOB, 2))
        await store_commit(objects, a_record("epfl-gone"), "epfl-gone")
        await store_tombstone(objects, "epfl-gone")


class TestCatalogOnSqlite(CatalogSuite):
    @pytest.fixture
    async def world(self, sqlite):
        return World(sqlite)


class TestCatalogOnPostgres(CatalogSuite):
    @pytest.fixture
    async def world(self, postgres):
        return World(postgres)
