"""What was removed or is held back: on both databases."""

from cataloger.testing_builders import JOB, a_record, a_status, store_tombstone
from cataloger.testing_databases import OnPostgres, OnSqlite
from emporter_contracts import storage
from emporter_runtime.commits import release


class RemovalsSuite:
    """Claims about what may not be read any more, or not yet, in any catalog."""

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


class TestRemovalsOnSqlite(OnSqlite, RemovalsSuite):
    pass


class TestRemovalsOnPostgres(OnPostgres, RemovalsSuite):
    pass
