"""A catalog made again from the store alone: on both databases."""

from cataloger.rebuild import rebuild
from cataloger.testing_builders import JOB, a_plan, a_record, a_status, at, store_commit, store_plan, store_tombstone
from cataloger.testing_databases import OnPostgres, OnSqlite
from emporter_contracts import storage
from emporter_contracts.commands import IngestRequest, Refusal
from emporter_contracts.plans import StoredRequest
from emporter_runtime.objects import Objects
from emporter_runtime.runs import RunNote


class RebuildSuite:
    """Claims about rebuilding any catalog."""

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


class TestRebuildOnSqlite(OnSqlite, RebuildSuite):
    pass


class TestRebuildOnPostgres(OnPostgres, RebuildSuite):
    pass
