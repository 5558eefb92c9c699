"""What was committed is told from what is there now: every stored object of a revision is in the digest of its commit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from converter.auditing import Audited, Finding, audit
from converter.memory import working_memory
from converter.testing import Run, a_run, tissue
from emporter_contracts import storage
from emporter_contracts.commands import Output
from emporter_contracts.plans import Commit, ConversionPlan
from emporter_runtime.objects import Objects
from emporter_runtime.testing import file_store

VOLUME = "url-brain"
BESIDE = (
    "r1.ome.zarr/zarr.json", "r1.ome.zarr/1/zarr.json", "r1/record.json", "r1/provenance.json", "r1/slices.json",
    "r1/occupancy.zarr/zarr.json", "r1/occupancy.zarr/c/0/0/0", "r1/census/0.npz",
)  # fmt: skip


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects.open(file_store(tmp_path / "store"))


def converted(objects: Objects) -> tuple[Run, ConversionPlan]:
    run = a_run(tissue((70, 130, 140), "uint8"), output=Output(chunk=(16, 32, 32), shard=(32, 64, 64)))
    plan = run.plan()
    run.write(objects, plan.volumes[0])
    run.finish(objects, plan, run.shards)
    return run, plan


def digest_finding(objects: Objects, run: Run, plan: ConversionPlan) -> Finding:
    """What an audit says of the digest."""
    body = objects.get_sync(storage.VOLUMES, storage.digests(VOLUME, 1))
    commit = Commit.model_validate_json(objects.get_sync(storage.VOLUMES, storage.commit(VOLUME, 1)))
    revision = Audited(commit, json.loads(body), plan.volumes[0], run.fetch, run.manifest, working_memory(plan.memory_bytes))
    return next(f for f in audit(objects, revision, {}) if f.what == "digest")


def test_a_revision_that_nobody_touched_has_the_digest_of_its_commit(objects: Objects) -> None:
    run, plan = converted(objects)
    found = digest_finding(objects, run, plan)
    assert found.well
    assert found.found == Commit.model_validate_json(objects.get_sync(storage.VOLUMES, storage.commit(VOLUME, 1))).digest


def test_every_object_of_a_revision_is_named_by_its_digests_or_its_commit(objects: Objects) -> None:
    converted(objects)
    said = json.loads(objects.get_sync(storage.VOLUMES, storage.digests(VOLUME, 1)))
    named = {f"{VOLUME}/r1.ome.zarr/{key}" for part in ("arrays", "shards") for key in said[part]}
    named |= {f"{VOLUME}/r1/{key}" for part in ("occupancy", "census") for key in said[part]} | {
        storage.digests(VOLUME, 1),
        storage.commit(VOLUME, 1),
    }
    named |= set(json.loads(objects.get_sync(storage.VOLUMES, storage.commit(VOLUME, 1)))["documents"])
    assert named == set(objects.sizes_sync(storage.VOLUMES, ""))


@pytest.mark.parametrize("key", BESIDE)
def test_whatever_is_written_over_is_named(objects: Objects, key: str) -> None:
    run, plan = converted(objects)
    body = bytearray(objects.get_sync(storage.VOLUMES, f"{VOLUME}/{key}"))
    body[len(body) // 2] ^= 1
    objects.put_sync(storage.VOLUMES, f"{VOLUME}/{key}", bytes(body))
    found = digest_finding(objects, run, plan)
    assert not found.well
    assert f"{key} is not as it was committed" in found.found


@pytest.mark.parametrize("key", BESIDE)
def test_whatever_is_taken_away_is_named(objects: Objects, key: str) -> None:
    run, plan = converted(objects)
    objects.local_path(storage.VOLUMES, f"{VOLUME}/{key}").unlink()
    found = digest_finding(objects, run, plan)
    assert not found.well
    assert f"{key} is missing" in found.found


@pytest.mark.parametrize("part", ["arrays", "occupancy", "shards"])
def test_digests_that_were_written_over_to_fit_differ_from_the_commit(objects: Objects, part: str) -> None:
    run, plan = converted(objects)
    said = json.loads(objects.get_sync(storage.VOLUMES, storage.digests(VOLUME, 1)))
    said[part].pop(min(said[part]))
    objects.put_sync(storage.VOLUMES, storage.digests(VOLUME, 1), json.dumps(said).encode())
    found = digest_finding(objects, run, plan)
    assert not found.well
    assert "not the committed" in found.found


def test_a_finisher_that_comes_again_gives_the_committed_digest_and_writes_nothing(objects: Objects) -> None:
    run, plan = converted(objects)
    before = {key: objects.get_sync(storage.VOLUMES, key) for key in objects.sizes_sync(storage.VOLUMES, "")}
    digest = run.finish(objects, plan, run.shards)
    assert {key: objects.get_sync(storage.VOLUMES, key) for key in objects.sizes_sync(storage.VOLUMES, "")} == before
    assert digest in before[storage.commit(VOLUME, 1)].decode()


@pytest.mark.parametrize("lost", [storage.commit, storage.digests])
def test_a_finisher_killed_before_the_commit_is_followed_by_one_that_commits_what_is_there(objects: Objects, lost) -> None:
    run, plan = converted(objects)
    record = objects.get_sync(storage.VOLUMES, storage.record(VOLUME, 1))
    for where in {storage.commit, lost}:
        objects.local_path(storage.VOLUMES, where(VOLUME, 1)).unlink()
    run.finish(objects, plan, run.shards)
    assert objects.get_sync(storage.VOLUMES, storage.record(VOLUME, 1)) == record
    assert digest_finding(objects, run, plan).well
