"""What nobody needs goes, what anybody may need stays: on a real bus and a store whose clock can be turned."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from emporter_contracts import storage, subjects
from emporter_contracts.events import RawObjectStored
from emporter_contracts.geometry import VoxelSize
from emporter_contracts.ids import VolumeRef, record_uuid
from emporter_contracts.jobs import JobState
from emporter_contracts.plans import (
    Commit,
    FetchPlan,
    InboxKey,
    Licence,
    Manifest,
    ManifestObject,
    PlannedObject,
    PlannedVolume,
    Segments,
)
from emporter_contracts.records import MetadataRecord
from emporter_runtime.bus import Bus
from emporter_runtime.commits import committed, current, removed
from emporter_runtime.garbage import Collected, Collector, GarbageSettings
from emporter_runtime.jobstore import now
from emporter_runtime.ledger import Ledger
from emporter_runtime.objects import Objects
from emporter_runtime.policy.documents import parse_document
from emporter_runtime.policy.judging import Policy
from emporter_runtime.policy.retention import Retention
from emporter_runtime.removal import remove
from emporter_runtime.runs import RunNote
from emporter_runtime.testing_bus import provisioned

DAYS = 86400.0


class Yard:
    """A store of runs, whose objects are as old as a test says."""

    def __init__(self, folder: Path, bus: Bus, objects: Objects) -> None:
        self._folder = folder
        self._bus = bus
        self.objects = objects
        self.ledger = Ledger(bus)

    async def collect(
        self, keep: int | None = None, *, dry: bool = False, policy: str = "", later: float = 0, **settings: float
    ) -> Collected:
        """By the rules of `policy`, so many days from now."""
        retention = Retention(Policy(parse_document(policy)))
        then = now() + timedelta(days=later)
        kept = GarbageSettings.model_validate({"keep_revisions": keep, **settings})
        return await Collector(self.objects, self.ledger, kept, dry=dry, retention=retention, clock=lambda: then).run()

    async def describe(self, volume: str, licence: str) -> None:
        record = MetadataRecord(
            id=record_uuid(volume),
            volume=volume,
            revision=1,
            source="url",
            source_id="x",
            status=JobState.COMPLETE,
            created_at=now(),
            updated_at=now(),
            licence=Licence(spdx=licence, known=True),
        )
        await self.objects.put_json(storage.VOLUMES, storage.record(volume, 1), record)

    async def put(self, bucket: str, key: str, days: float) -> None:
        await self.objects.put(bucket, key, b"12345")
        then = time.time() - days * DAYS
        os.utime(self._folder / "store" / bucket / key, (then, then))

    async def run(self, job: str, state: JobState | None, days: float, *, revision: int = 1, manifest: bool = False) -> None:
        volume = PlannedVolume(
            volume=job,
            name=job,
            format="tiff",
            objects=(0,),
            shape=(1, 1, 1),
            dtype="uint8",
            voxel_size=VoxelSize(),
            role="image",
            source_shape=(1, 1, 1),
        )
        objects = (
            PlannedObject(path="a", url="u", location=Segments(origin=f"origin-{job}"), bytes=5, version="v"),
            PlannedObject(path="b", url="u", location=InboxKey(key=f"upload-{job}/b"), bytes=5, version="v"),
        )
        plan = FetchPlan(
            job=job, revision=revision, source="url", source_id="x", objects=objects, volumes=(volume,), planned_at=now()
        )
        await self.objects.put_json(storage.RAW, storage.plan(job, revision), plan)
        started = RunNote(job=job, revision=revision, generation=1, at=now(), state="pending")
        await self.objects.put_json(storage.RAW, storage.generation(job, revision, 1), started)
        if state is not None:
            note = RunNote(job=job, revision=revision, generation=1, at=now() - timedelta(days=days), state=state)
            await self.objects.put_json(storage.RAW, storage.generation_ended(job, revision, 1), note)
        if manifest:
            held = tuple(ManifestObject(**o.model_dump(), sha256="0") for o in objects)
            value = Manifest(job=job, revision=revision, objects=held, completed_at=now())
            await self.objects.put_json(storage.RAW, storage.manifest(job, revision), value)
        entry = RawObjectStored(job=job, revision=revision, generation=1, unit="0-0", bytes=5, sha256="0")
        await self.ledger.enter(subjects.raw_object_stored(job, revision, "0-0"), entry)
        await self.put(storage.RAW, storage.segment(f"origin-{job}", 0), days)
        await self.put(storage.INBOX, f"upload-{job}/b", days)
        await self.put(storage.VOLUMES, storage.zarr_root(job, revision) + "0/c/0/0/0", days)

    async def commit(self, volume: str, revision: int, days: float) -> None:
        value = Commit(volume=volume, revision=revision, digest="d", job=volume, committed_at=now() - timedelta(days=days))
        await self.objects.put_json(storage.VOLUMES, storage.commit(volume, revision), value)

    async def has(self, job: str) -> tuple[bool, bool, bool]:
        """Whether (its raw object, its upload, its shard) are still there."""
        return (
            await self.objects.exists(storage.RAW, storage.segment(f"origin-{job}", 0)),
            await self.objects.exists(storage.INBOX, f"upload-{job}/b"),
            await self.objects.exists(storage.VOLUMES, storage.zarr_root(job, 1) + "0/c/0/0/0"),
        )


@asynccontextmanager
async def a_yard(folder: Path) -> AsyncIterator[Yard]:
    async with provisioned(folder) as (settings, _):
        bus = Bus(settings, "gc")
        await bus.broker.connect()
        yield Yard(folder, bus, Objects.open(settings))
        await bus.broker.stop()


async def test_a_run_that_failed_long_ago_goes_and_can_no_longer_be_resumed(tmp_path: Path) -> None:
    async with a_yard(tmp_path) as yard:
        await yard.run("old", JobState.FAILED, days=8)
        found = await yard.collect()
        assert found.runs == ["old@r1"]
        assert await yard.has("old") == (False, False, False)
        assert await yard.objects.exists(storage.RAW, storage.expired("old", 1))
        assert await yard.ledger.count(subjects.raw_objects_stored("old", 1)) == 0
        assert await yard.objects.exists(storage.RAW, storage.plan("old", 1))


async def test_a_run_that_failed_yesterday_can_be_resumed_with_all_it_had(tmp_path: Path) -> None:
    async with a_yard(tmp_path) as yard:
        await yard.run("recent", JobState.FAILED, days=2)
        assert (await yard.collect()).objects == 0
        assert await yard.has("recent") == (True, True, True)


async def test_what_runs_is_never_touched_however_old_its_objects(tmp_path: Path) -> None:
    async with a_yard(tmp_path) as yard:
        await yard.run("running", None, days=30)
        assert (await yard.collect(keep=1)).objects == 0
        assert await yard.has("running") == (True, True, True)


async def test_a_complete_run_keeps_raw_and_volume_and_loses_its_ledger(tmp_path: Path) -> None:
    async with a_yard(tmp_path) as yard:
        await yard.run("done", JobState.COMPLETE, days=30, manifest=True)
        await yard.commit("done", 1, days=30)
        assert (await yard.collect()).objects == 0
        assert await yard.has("done") == (True, True, True)
        assert await yard.ledger.count(subjects.raw_objects_stored("done", 1)) == 0


async def test_a_failed_run_with_a_committed_volume_stays(tmp_path: Path) -> None:
    async with a_yard(tmp_path) as yard:
        await yard.run("partly", JobState.FAILED, days=30, manifest=True)
        await yard.commit("partly", 1, days=30)
        assert (await yard.collect()).runs == []
        assert await yard.has("partly") == (True, True, True)


async def test_uploads_nobody_asked_for_go_after_a_day_and_not_before(tmp_path: Path) -> None:
    async with a_yard(tmp_path) as yard:
        await yard.put(storage.INBOX, "old/a.tif", days=2)
        await yard.put(storage.INBOX, "growing/a.tif", days=2)
        await yard.put(storage.INBOX, "growing/b.tif", days=0)
        await yard.put(storage.RAW, storage.segment("nobody", 0), days=2)
        found = await yard.collect()
        assert found.objects == 2
        assert not await yard.objects.exists(storage.INBOX, "old/a.tif")
        assert await yard.objects.exists(storage.INBOX, "growing/a.tif")


async def test_an_operator_says_how_long_failed_runs_and_unnamed_objects_stay(tmp_path: Path) -> None:
    async with a_yard(tmp_path) as yard:
        await yard.run("failed", JobState.FAILED, days=3)
        await yard.put(storage.INBOX, "upload/a.tif", days=3)
        assert (await yard.collect(keep_failed_days=4, keep_unnamed_hours=80)).objects == 0
        found = await yard.collect(keep_failed_days=2, keep_unnamed_hours=80)
        assert (found.runs, found.objects) == (["failed@r1"], 1)
        assert await yard.has("failed") == (True, True, False)
        await yard.collect(keep_failed_days=2, keep_unnamed_hours=70)
        assert await yard.has("failed") == (False, False, False)
        assert not await yard.objects.exists(storage.INBOX, "upload/a.tif")


async def test_superseded_revisions_go_only_where_told_and_never_young_ones(tmp_path: Path) -> None:
    async with a_yard(tmp_path) as yard:
        for revision, days in ((1, 9.0), (2, 0.5), (3, 0.1)):
            await yard.run("v", JobState.COMPLETE, days=days, revision=revision, manifest=True)
            await yard.commit("v", revision, days=days)
        assert (await yard.collect()).revisions == []
        assert (await yard.collect(keep=1)).revisions == ["v@r1"]
        assert await removed(yard.objects, "v") == {1}
        assert await committed(yard.objects, "v") == {1, 2, 3}


RAW_AFTER_90 = "retention: [{name: raw-90, what: raw, days: 90}]"


async def test_raw_objects_go_when_a_rule_says_so_and_neither_before_nor_more_than_they(tmp_path: Path) -> None:
    async with a_yard(tmp_path) as yard:
        await yard.run("done", JobState.COMPLETE, days=30, manifest=True)
        await yard.commit("done", 1, days=30)
        assert (await yard.collect(policy=RAW_AFTER_90, later=59)).objects == 0
        seen = await yard.collect(policy=RAW_AFTER_90, later=61, dry=True)
        assert (seen.retention, seen.objects) == (["raw of done@r1 (raw-90)"], 1)
        assert await yard.has("done") == (True, True, True)
        await yard.collect(policy=RAW_AFTER_90, later=61)
        assert await yard.has("done") == (False, True, True)
        assert await current(yard.objects, "done") == 1


async def test_raw_objects_of_a_run_that_is_not_complete_outlive_every_rule(tmp_path: Path) -> None:
    async with a_yard(tmp_path) as yard:
        await yard.run("running", None, days=30, manifest=True)
        await yard.collect(policy=RAW_AFTER_90, later=500)
        assert await yard.has("running") == (True, True, True)


async def test_raw_objects_that_a_younger_run_is_made_of_stay(tmp_path: Path) -> None:
    async with a_yard(tmp_path) as yard:
        await yard.run("twice", JobState.COMPLETE, days=200, manifest=True)
        await yard.run("twice", JobState.COMPLETE, days=2, revision=2, manifest=True)
        for revision in (1, 2):
            await yard.commit("twice", revision, days=2)
        await yard.collect(policy=RAW_AFTER_90, later=1)
        assert await yard.has("twice") == (True, True, True)


async def test_volumes_go_by_rule_with_a_tombstone_and_a_held_one_stays(tmp_path: Path) -> None:
    rule = "retention: [{name: free-only, what: volumes, days: 10, when: '!volume.licence.startsWith(\"CC\")'}]"
    async with a_yard(tmp_path) as yard:
        for volume, licence in (("closed", "LicenseRef-lab"), ("free", "CC0-1.0"), ("held", "LicenseRef-lab")):
            await yard.run(volume, JobState.COMPLETE, days=30, manifest=True)
            await yard.describe(volume, licence)
            await yard.commit(volume, 1, days=9)
        await yard.put(storage.VOLUMES, storage.hold("held", 1), days=0)
        assert (await yard.collect(policy=rule)).revisions == []
        found = await yard.collect(policy=rule, later=2)
        assert found.retention == ["closed@r1 (free-only)"]
        assert [await removed(yard.objects, v) for v in ("closed", "free", "held")] == [{1}, set(), set()]
        assert (await yard.collect(policy=rule, later=2)).revisions == []


async def test_a_rule_that_cant_be_evaluated_keeps(tmp_path: Path) -> None:
    rule = "retention: [{name: broken, what: raw, days: 1, when: 'volume.citation[3] == \"x\"'}]"
    async with a_yard(tmp_path) as yard:
        await yard.run("done", JobState.COMPLETE, days=30, manifest=True)
        await yard.commit("done", 1, days=30)
        assert (await yard.collect(policy=rule, later=500)).retention == []
        assert await yard.has("done") == (True, True, True)


class KilledError(BaseException):
    """Stands for SIGKILL: nothing catches it."""


class Killer:
    """Ends whoever deletes for the n-th time, with half of the objects gone."""

    def __init__(self, objects: Objects, n: int) -> None:
        self._delete = objects.delete
        self._left = n

    async def delete(self, bucket: str, keys: list[str]) -> None:
        if not keys:
            return
        self._left -= 1
        if self._left < 0:
            await self._delete(bucket, keys[: len(keys) // 2])
            raise KilledError
        await self._delete(bucket, keys)


async def filled(yard: Yard, name: str) -> None:
    """A run that failed long ago, a volume of three revisions, and an upload nobody wants."""
    await yard.run(f"old{name}", JobState.FAILED, days=8)
    for revision, days in ((1, 9.0), (2, 8.0), (3, 7.0)):
        await yard.run(f"v{name}", JobState.COMPLETE, days=days, revision=revision, manifest=True)
        await yard.put(storage.VOLUMES, storage.zarr_root(f"v{name}", revision) + "0/c/0/0/1", days)
        await yard.put(storage.VOLUMES, storage.record(f"v{name}", revision), days)
        await yard.commit(f"v{name}", revision, days=days)
    await yard.put(storage.INBOX, f"nobody{name}/a.tif", days=2)


async def below(yard: Yard, prefix: str) -> list[str]:
    return sorted([info.key.removeprefix(prefix) async for info in yard.objects.listing(storage.VOLUMES, prefix)])


async def test_a_collector_killed_at_any_point_harms_no_kept_revision_and_a_second_one_leaves_nothing(tmp_path: Path) -> None:
    async with a_yard(tmp_path) as yard:
        kept = ["0/c/0/0/0", "0/c/0/0/1"]
        killed, n = True, 0
        while killed and n < 40:
            name = f"-{n}"
            await filled(yard, name)
            killer = Killer(yard.objects, n)
            yard.objects.delete = killer.delete  # type: ignore[method-assign]
            try:
                await yard.collect(keep=1)
                killed = False
            except KilledError:
                pass
            del yard.objects.delete
            assert await below(yard, storage.zarr_root(f"v{name}", 3)) == kept
            await yard.collect(keep=1)
            assert await below(yard, storage.zarr_root(f"v{name}", 3)) == kept
            for volume, revision in ((f"v{name}", 1), (f"v{name}", 2), (f"old{name}", 1)):
                assert await below(yard, storage.zarr_root(volume, revision)) == []
                assert await below(yard, f"{volume}/r{revision}/") == []
            assert not await yard.objects.exists(storage.INBOX, f"nobody{name}/a.tif")
            n += 1
        assert not killed
        assert n > 6


async def test_what_a_killed_rm_left_is_taken_by_rm_again_or_by_the_collector(tmp_path: Path) -> None:
    async with a_yard(tmp_path) as yard:
        for n, again in ((0, "rm"), (1, "rm"), (0, "gc"), (1, "gc")):
            name = f"-{n}{again}"
            await filled(yard, name)
            yard.objects.delete = Killer(yard.objects, n).delete  # type: ignore[method-assign]
            with pytest.raises(KilledError):
                await remove(yard.objects, VolumeRef(f"v{name}", 2))
            del yard.objects.delete
            assert await current(yard.objects, f"v{name}") == 3
            await (remove(yard.objects, VolumeRef(f"v{name}", 2)) if again == "rm" else yard.collect())
            assert await below(yard, storage.zarr_root(f"v{name}", 2)) == await below(yard, f"v{name}/r2/") == []
            for revision in (1, 3):
                assert await below(yard, storage.zarr_root(f"v{name}", revision)) == ["0/c/0/0/0", "0/c/0/0/1"]


async def test_a_held_revision_neither_counts_nor_goes(tmp_path: Path) -> None:
    async with a_yard(tmp_path) as yard:
        await filled(yard, "")
        await yard.put(storage.VOLUMES, storage.hold("v", 3), days=7)
        assert (await yard.collect(keep=1)).revisions == ["v@r1"]
        assert await current(yard.objects, "v") == 2


async def test_a_dry_run_finds_the_same_and_takes_nothing(tmp_path: Path) -> None:
    async with a_yard(tmp_path) as yard:
        await yard.run("old", JobState.CANCELLED, days=8)
        dry = await yard.collect(dry=True)
        assert await yard.has("old") == (True, True, True)
        wet = await yard.collect()
        assert dry == wet
