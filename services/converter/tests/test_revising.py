"""A volume's metadata said anew: another revision of the same shards, once on files and once on a real S3 server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from converter import revising
from converter.auditing import audit, audited
from converter.quality_policy import QualityPolicy
from converter.revising import finish, revise
from converter.testing import Run, a_run, tissue
from emporter_contracts import storage
from emporter_contracts.commands import Output
from emporter_contracts.errors import RefusedError
from emporter_contracts.geometry import VoxelSize
from emporter_contracts.ids import VolumeRef
from emporter_contracts.jobs import JobState
from emporter_contracts.plans import Commit, StoredRequest
from emporter_contracts.records import MetadataRecord
from emporter_contracts.revisions import Changes, ReviseVolume
from emporter_runtime.commits import current, held
from emporter_runtime.jobstore import now
from emporter_runtime.objects import Objects
from emporter_runtime.removal import remove
from emporter_runtime.runs import RunNote
from emporter_runtime.sharing import claims_of
from emporter_runtime.testing import file_store, s3_server

VOLUME = "url-brain"
POLICY = QualityPolicy()
SAID = VoxelSize.said("file", (50.0, 8.0, None))


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with s3_server(tmp_path_factory.mktemp("s3")) as settings:
        yield settings


@pytest.fixture(params=["file", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    if request.param == "file":
        return Objects.open(file_store(tmp_path / "store"))
    store = Objects.open(request.getfixturevalue("s3"))
    for bucket in (storage.VOLUMES, storage.RAW):
        for key in store.sizes_sync(bucket, ""):
            store.store(bucket).delete(key)
    return store


def converted(objects: Objects, voxel_size: VoxelSize = SAID, policy: QualityPolicy = POLICY) -> Run:
    """Committed as r1, with what its job leaves in the store."""
    run = a_run(tissue((40, 70, 80)), voxel_size=voxel_size, output=Output(chunk=(16, 32, 32), shard=(32, 64, 64)))
    plan = run.plan()
    run.write(objects, plan.volumes[0])
    run.finish(objects, plan, run.shards, policy)
    claim = StoredRequest(request=run.request, event_id="1", received_at=run.fetch.planned_at)
    asyncio.run(objects.put_json(storage.RAW, storage.request(VOLUME, 1), claim))
    asyncio.run(objects.put_json(storage.RAW, storage.plan(VOLUME, 1), run.fetch.model_copy(update={"archive": {}})))
    asyncio.run(objects.put_json(storage.RAW, storage.manifest(VOLUME, 1), run.manifest.model_copy(update={"archive": {}})))
    asyncio.run(objects.put_json(storage.RAW, storage.conversion(VOLUME, 1), plan))
    end(objects, 1)
    return run


def end(objects: Objects, revision: int) -> None:
    note = RunNote(job=VOLUME, revision=revision, generation=1, at=now(), state=JobState.COMPLETE)
    asyncio.run(objects.put_json(storage.RAW, storage.generation(VOLUME, revision, 1), note))
    asyncio.run(objects.put_json(storage.RAW, storage.generation_ended(VOLUME, revision, 1), note))


def set_(objects: Objects, volume: str = VOLUME, policy: QualityPolicy = POLICY, **changes: Any) -> Any:
    command = ReviseVolume(volume=volume, changes=Changes(**changes), by="ada", reason="the stage was calibrated")
    return asyncio.run(revise(objects, command, policy))


def killed_at(monkeypatch: pytest.MonkeyPatch, step: str, objects: Objects, **changes: Any) -> None:
    """As `set_`, but whoever does it is gone when `step` is to be done."""

    async def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(revising, step, killed)
        with pytest.raises(KeyboardInterrupt):
            set_(objects, **changes)


def record_of(objects: Objects, revision: int) -> MetadataRecord:
    return MetadataRecord.model_validate_json(objects.get_sync(storage.VOLUMES, storage.record(VOLUME, revision)))


def group_of(objects: Objects, revision: int) -> Any:
    return json.loads(objects.get_sync(storage.VOLUMES, storage.zarr_root(VOLUME, revision) + "zarr.json"))["attributes"]["ome"]


def commit_of(objects: Objects, revision: int) -> Commit:
    return Commit.model_validate_json(objects.get_sync(storage.VOLUMES, storage.commit(VOLUME, revision)))


def everything(objects: Objects) -> dict[str, bytes]:
    return {key: objects.get_sync(storage.VOLUMES, key) for key in objects.sizes_sync(storage.VOLUMES, "")}


def test_a_new_voxel_size_is_a_new_revision_and_not_a_byte_of_the_old_one_changes(objects: Objects) -> None:
    converted(objects)
    before = everything(objects)
    made = set_(objects, voxel_size_nm=(40.0, 4.0, 5.0))
    after = everything(objects)
    assert (made.revision, made.revises, made.existing) == (2, 1, False)
    assert {key: after[key] for key in before} == before
    assert {key.removeprefix(f"{VOLUME}/") for key in after.keys() - before.keys()} == {
        "commits/00000002.json", "r2/record.json", "r2/provenance.json", "r2.ome.zarr/zarr.json",
    }  # fmt: skip
    assert asyncio.run(current(objects, VOLUME)) == 2
    assert (commit_of(objects, 2).arrays, commit_of(objects, 2).digest) == (1, commit_of(objects, 1).digest)


def test_scales_are_those_a_conversion_with_that_voxel_size_writes(tmp_path: Path) -> None:
    ours, theirs = Objects.open(file_store(tmp_path / "ours")), Objects.open(file_store(tmp_path / "theirs"))
    # Level shapes follow the voxel size a conversion knew: these two are halved alike.
    wrong, right = (25.0, 8.0, 8.0), (26.0, 8.3, 8.7)
    converted(ours, VoxelSize.said("file", wrong))
    set_(ours, voxel_size_nm=right)
    converted(theirs, VoxelSize.said("user", right))
    mine, other = (group_of(o, r)["multiscales"][0] for o, r in ((ours, 2), (theirs, 1)))
    assert len(mine["datasets"]) > 2
    assert (mine["axes"], mine["datasets"]) == (other["axes"], other["datasets"])


def test_what_was_said_before_and_by_whom_stays_known(objects: Objects) -> None:
    converted(objects)
    set_(objects, voxel_size_nm=(40.0, 4.0, 5.0), licence="CC-BY-4.0", name="left half", citation=("Ada 2026",))
    record = record_of(objects, 2)
    (correction,) = record.metadata.provenance.corrections
    assert (correction.by, correction.reason, correction.revises) == ("ada", "the stage was calibrated", 1)
    assert correction.before["voxel_size_nm"] == {"nm": [50.0, 8.0, None], "said_by": ["file", "file", None]}
    assert correction.after["voxel_size_nm"] == {"nm": [40.0, 4.0, 5.0], "said_by": ["user", "user", "user"]}
    assert correction.before["name"] == "brain"
    assert record.metadata.core.voxel_size_nm == (40.0, 4.0, 5.0)
    assert (record.licence.spdx, record.citation) == ("CC-BY-4.0", ("Ada 2026",))
    assert "voxel_size_unknown" not in {c.code for c in record.caveats}
    assert record_of(objects, 1).metadata.core.voxel_size_nm == (50.0, 8.0, None)
    group = group_of(objects, 2)
    assert group["multiscales"][0]["name"] == group["omero"]["channels"][0]["label"] == "left half"
    assert [axis.get("unit") for axis in group["multiscales"][0]["axes"]] == ["nanometer"] * 3
    said = json.loads(objects.get_sync(storage.VOLUMES, storage.provenance(VOLUME, 2)))
    assert said["corrections"][0]["before"]["voxel_size_nm"]["nm"] == [50.0, 8.0, None]
    assert said["request"] == json.loads(objects.get_sync(storage.VOLUMES, storage.provenance(VOLUME, 1)))["request"]


def test_levels_lie_where_their_voxels_are(objects: Objects) -> None:
    converted(objects)
    set_(objects, voxel_size_nm=(40.0, 4.0, 5.0), offset_nm=(100.0, -20.0, 0.0))
    finest = record_of(objects, 2).metadata.technical.levels[0]
    for level in record_of(objects, 2).metadata.technical.levels:
        factor = [round(n / m) for n, m in zip(finest.shape, level.shape, strict=True)]
        assert level.scale == pytest.approx([s * f for s, f in zip((40.0, 4.0, 5.0), factor, strict=True)])
        wanted = [o + s * (f - 1) / 2 for o, s, f in zip((100.0, -20.0, 0.0), (40.0, 4.0, 5.0), factor, strict=True)]
        assert level.translation == pytest.approx(wanted)
    # An offset that was said stays when only the size is corrected afterwards.
    set_(objects, voxel_size_nm=(41.0, 4.0, 5.0))
    assert record_of(objects, 3).metadata.technical.levels[0].translation == (100.0, -20.0, 0.0)


def test_a_correction_of_a_correction_shows_the_arrays_of_the_first_and_keeps_both_in_mind(objects: Objects) -> None:
    converted(objects)
    set_(objects, voxel_size_nm=(40.0, 4.0, 5.0))
    set_(objects, description="a brain")
    assert (commit_of(objects, 3).arrays, record_of(objects, 3).metadata.core.voxel_size_nm) == (1, (40.0, 4.0, 5.0))
    assert [c.revises for c in record_of(objects, 3).metadata.provenance.corrections] == [1, 2]


def test_saying_what_is_said_already_makes_nothing(objects: Objects) -> None:
    converted(objects)
    made = set_(objects, voxel_size_nm=(40.0, 4.0, 5.0))
    before = everything(objects)
    again = set_(objects, voxel_size_nm=(40.0, 4.0, 5.0))
    assert (again.revision, again.existing) == (made.revision, True)
    assert everything(objects) == before


async def test_of_several_at_once_one_wins_and_the_others_are_told_and_can_try_again(objects: Objects) -> None:
    await asyncio.to_thread(converted, objects)
    commands = [ReviseVolume(volume=VOLUME, changes=Changes(description=f"said by {n}"), by=f"user {n}") for n in range(6)]
    results = await asyncio.gather(*(revise(objects, c, POLICY) for c in commands), return_exceptions=True)
    made = [r for r in results if not isinstance(r, BaseException)]
    refused = [r for r in results if isinstance(r, RefusedError)]
    assert len(made) + len(refused) == 6
    assert made
    assert {r.code for r in refused} <= {"conflict"}
    assert all("emporter show" in r.hint for r in refused)
    # Nothing is lost below another: each revision changes the one before it.
    revisions = sorted(r.revision for r in made)
    assert [r.revises for r in sorted(made, key=lambda r: r.revision)] == [1, *revisions[:-1]]
    loser = next((n for n, r in enumerate(results) if isinstance(r, RefusedError)), None)
    if loser is not None:
        again = await revise(objects, commands[loser], POLICY)
        assert await current(objects, VOLUME) == again.revision


async def test_a_pinned_name_is_refused_once_another_revision_is_current(objects: Objects) -> None:
    await asyncio.to_thread(converted, objects)
    await asyncio.to_thread(set_, objects, f"{VOLUME}@r1", description="first")
    with pytest.raises(RefusedError, match="not current any more") as refused:
        await asyncio.to_thread(set_, objects, f"{VOLUME}@r1", description="second")
    assert refused.value.code == "conflict"


def test_a_setter_that_was_killed_after_its_claim_is_finished_by_the_next(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted(objects)
    for number, step in enumerate(("_written", "_hold"), 2):
        killed_at(monkeypatch, step, objects, description=f"killed at {step}")
        with pytest.raises(RefusedError, match="just setting it") as refused:
            set_(objects, description="mine")
        assert refused.value.code == "conflict"
        assert asyncio.run(current(objects, VOLUME)) == number
        assert record_of(objects, number).metadata.core.description == f"killed at {step}"
    assert set_(objects, description="mine").revision == 4


def test_an_old_claim_is_never_committed(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    converted(objects)
    killed_at(monkeypatch, "_written", objects, description="killed")
    claim = asyncio.run(claims_of(objects, VOLUME))[2]
    monkeypatch.setattr(revising, "FRESH", timedelta(0))
    with pytest.raises(RefusedError, match="took too long"):
        asyncio.run(finish(objects, 2, claim, POLICY))
    assert asyncio.run(current(objects, VOLUME)) == 1


@pytest.mark.parametrize("volume", ["url-nothing", "url-nothing@r3"])
def test_a_volume_that_is_not_there_is_said_not_to_be(objects: Objects, volume: str) -> None:
    with pytest.raises(RefusedError, match="there is no volume url-nothing") as refused:
        set_(objects, volume, description="x")
    assert (refused.value.code, bool(refused.value.hint)) == ("unknown_volume", True)


def test_while_a_job_makes_another_revision_nothing_is_set(objects: Objects) -> None:
    run = converted(objects)
    claim = StoredRequest(request=run.request, event_id="2", received_at=now())
    asyncio.run(objects.put_json(storage.RAW, storage.request(VOLUME, 2), claim))
    with pytest.raises(RefusedError) as refused:
        set_(objects, description="x")
    assert refused.value.code == "running"
    end(objects, 2)
    assert set_(objects, description="x").revision == 3


def test_a_corrected_revision_is_verified_down_to_the_voxels(objects: Objects) -> None:
    converted(objects)
    set_(objects, voxel_size_nm=(40.0, 4.0, 5.0))
    assert [f for f in audit(objects, audited(objects, VolumeRef(VOLUME, 2)), {}) if not f.well] == []
    key = storage.record(VOLUME, 2)
    objects.put_sync(storage.VOLUMES, key, objects.get_sync(storage.VOLUMES, key).replace(b"40.0", b"41.0"))
    (bad,) = [f for f in audit(objects, audited(objects, VolumeRef(VOLUME, 2)), {}) if not f.well]
    assert "r2/record.json is not as it was committed" in bad.found
    assert [f for f in audit(objects, audited(objects, VolumeRef(VOLUME, 1)), {}) if not f.well] == []


def test_a_removed_revision_leaves_its_arrays_to_those_that_show_them(objects: Objects) -> None:
    converted(objects)
    shards = {key for key in everything(objects) if "/c/" in key}
    set_(objects, voxel_size_nm=(40.0, 4.0, 5.0))
    set_(objects, description="third")
    asyncio.run(remove(objects, VolumeRef(VOLUME, 1)))
    assert {key for key in everything(objects) if "/c/" in key} == shards
    assert objects.find_sync(storage.VOLUMES, storage.record(VOLUME, 1)) is None
    assert [f for f in audit(objects, audited(objects, VolumeRef(VOLUME, 3)), {}) if not f.well] == []
    asyncio.run(remove(objects, VolumeRef(VOLUME, 3)))
    assert {key for key in everything(objects) if "/c/" in key} == shards
    asyncio.run(remove(objects, VolumeRef(VOLUME, 2)))
    assert {key.split("/")[1] for key in everything(objects)} == {"commits", "removed"}


def test_a_whole_volume_is_removed_with_its_corrections(objects: Objects) -> None:
    converted(objects)
    set_(objects, voxel_size_nm=(40.0, 4.0, 5.0))
    asyncio.run(remove(objects, VolumeRef(VOLUME, None)))
    assert {key.split("/")[1] for key in everything(objects)} == {"commits", "removed"}
    with pytest.raises(RefusedError) as refused:
        set_(objects, description="x")
    assert refused.value.code == "removed"


def test_a_voxel_size_that_a_gate_held_is_corrected_and_current(objects: Objects) -> None:
    policy = POLICY.model_copy(update={"hold": ("voxel_size",), "possible_nm": (1.0, 1000.0)})
    converted(objects, VoxelSize.said("file", (50_000.0, 8.0, 8.0)), policy)
    assert asyncio.run(current(objects, VOLUME)) is None
    with pytest.raises(RefusedError) as refused:
        set_(objects, policy=policy, voxel_size_nm=(50.0, 8.0, 8.0))
    assert refused.value.code == "held"
    set_(objects, f"{VOLUME}@r1", policy, voxel_size_nm=(50.0, 8.0, 8.0))
    assert asyncio.run(current(objects, VOLUME)) == 2
    assert {g.gate: g.verdict for g in record_of(objects, 2).metadata.quality.gates}["voxel_size"] == "pass"
    set_(objects, policy=policy, voxel_size_nm=(50_000.0, 8.0, 8.0))
    assert asyncio.run(held(objects, VOLUME)) == {1, 3}
    assert asyncio.run(current(objects, VOLUME)) == 2


@pytest.mark.parametrize("size", [(-1, 8, 8), (0, 8, 8), (float("nan"), 8, 8), (float("inf"), 8, 8), (1e9, 8, 8), (1e-9, 8, 8)])
def test_a_voxel_size_that_means_nothing_is_refused(size: Any) -> None:
    with pytest.raises(ValueError, match="voxel_size_nm"):
        ReviseVolume(volume=VOLUME, changes=Changes(voxel_size_nm=size))


def test_nothing_to_set_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing is to be changed"):
        ReviseVolume(volume=VOLUME, changes=Changes())


def test_the_voxels_of_both_revisions_are_the_same(objects: Objects) -> None:
    converted(objects)
    set_(objects, voxel_size_nm=(40.0, 4.0, 5.0))
    revision = audited(objects, VolumeRef(VOLUME, 2))
    found = {f.what: f for f in audit(objects, revision, {})}
    assert found["voxels"].found.endswith(str(record_of(objects, 1).metadata.technical.sha256))
