"""What a volume is after what was said of its runs, in any order and doubled: on both databases."""

import asyncio
import json
import random

import pytest

from cataloger.testing_builders import JOB, a_record, a_status, fact_of, store_commit
from cataloger.testing_databases import OnPostgres, OnSqlite
from emporter_contracts import storage
from emporter_contracts.commands import Refusal
from emporter_contracts.events import LevelComplete, RawManifestComplete, RawPlanReady, VolumeComplete


class RunsSuite:
    """Claims about runs in any catalog."""

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


class TestRunsOnSqlite(OnSqlite, RunsSuite):
    pass


class TestRunsOnPostgres(OnPostgres, RunsSuite):
    pass
