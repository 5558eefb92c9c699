"""The operator's rules at publication: what they hold is committed and not current, what they refuse is not committed at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from converter.finishing import STANDARD, finish_volume
from converter.testing import Run, a_run, entered, never, tissue
from converter.testing_fleet import fleet, fleet_run
from emporter_contracts import storage, subjects
from emporter_contracts.commands import Output
from emporter_contracts.jobs import JobState
from emporter_contracts.plans import Commit, Hold
from emporter_contracts.policy import PolicyDecided
from emporter_contracts.records import MetadataRecord
from emporter_runtime.commits import committed, current, held, release
from emporter_runtime.objects import Objects
from emporter_runtime.policy.errors import PolicyDeniedError
from emporter_runtime.policy.judging import Policy
from emporter_runtime.testing import s3_server
from emporter_runtime.testing_policy import rules

EMBARGO = "{name: embargo, at: [publication], when: 'embargo_until != null && now < embargo_until', then: hold}"
NOT_FOR_SALE = "{name: not-for-sale, at: [publication], when: 'request.purpose == \"sale\"', then: deny}"
TOLD = "{name: told, at: [publication], when: 'volume.quality != \"\" && volume.bytes > 0', then: warn}"
BROKEN = "{name: broken, at: [publication], when: 'volume.citation[7] == \"\"', then: deny}"


def a_written_run(objects: Objects, **parameters: str) -> Run:
    run = a_run(tissue((8, 32, 32)))
    run = replace(run, request=run.request.model_copy(update={"parameters": parameters}))
    run.write(objects, run.plan().volumes[0])
    return run


def finished(objects: Objects, run: Run, policy: Policy, purpose: str = "") -> MetadataRecord:
    about = (run.fetch, run.manifest, run.plan(), run.volume, run.request)
    finish_volume(objects, *about, entered(run.plan(), run.shards), lambda: run.reader, never, STANDARD, policy, purpose)
    return MetadataRecord.model_validate_json(objects.get_sync(storage.VOLUMES, storage.record(run.volume, 1)))


async def test_an_embargo_holds_the_revision_until_it_is_released() -> None:
    objects = Objects.in_memory()
    run = a_written_run(objects, embargo_until="2999-01-01")
    record = finished(objects, run, rules(EMBARGO))
    assert [(d.rule, d.outcome) for d in record.decisions] == [("embargo", "hold")]
    assert record.embargo_until is not None
    hold = Hold.model_validate_json(objects.get_sync(storage.VOLUMES, storage.hold(run.volume, 1)))
    assert (hold.rules, hold.gates) == (("embargo",), ())
    assert (await committed(objects, run.volume), await held(objects, run.volume)) == ({1}, {1})
    assert await current(objects, run.volume) is None
    assert await release(objects, run.volume, 1)
    assert await current(objects, run.volume) == 1


async def test_an_embargo_that_is_over_holds_nothing() -> None:
    objects = Objects.in_memory()
    run = a_written_run(objects, embargo_until="2001-01-01")
    assert finished(objects, run, rules(EMBARGO)).decisions == ()
    assert await current(objects, run.volume) == 1


async def test_a_refusal_commits_nothing_and_another_policy_can_still_let_it_through() -> None:
    objects = Objects.in_memory()
    run = a_written_run(objects)
    with pytest.raises(PolicyDeniedError, match="not-for-sale"):
        finished(objects, run, rules(NOT_FOR_SALE), purpose="sale")
    assert await committed(objects, run.volume) == set()
    assert not await objects.exists(storage.VOLUMES, storage.record(run.volume, 1))
    finished(objects, run, rules(), purpose="sale")
    assert await current(objects, run.volume) == 1


async def test_a_rule_that_cant_be_evaluated_holds_rather_than_publishes() -> None:
    objects = Objects.in_memory()
    record = finished(objects, a_written_run(objects), rules(BROKEN))
    assert [(d.rule, d.outcome, bool(d.error)) for d in record.decisions] == [("broken", "hold", True)]
    assert await current(objects, record.volume) is None


async def test_a_warning_stands_in_the_record_and_holds_nothing() -> None:
    objects = Objects.in_memory()
    record = finished(objects, a_written_run(objects), rules(TOLD))
    assert [(d.rule, d.outcome) for d in record.decisions] == [("told", "warn")]
    assert await current(objects, record.volume) == 1


async def test_a_finisher_that_comes_late_with_another_policy_changes_nothing() -> None:
    objects = Objects.in_memory()
    run = a_written_run(objects, embargo_until="2999-01-01")
    first = finished(objects, run, rules(TOLD))
    await objects.delete(storage.VOLUMES, [storage.commit(run.volume, 1)])  # killed before its commit
    assert finished(objects, run, rules(EMBARGO)) == first
    assert await current(objects, run.volume) == 1


async def test_the_policy_that_ships_changes_nothing_of_what_is_stored() -> None:
    shipped = Policy.read(Path(__file__).parents[3] / "deploy" / "policy.yaml")
    stores = [Objects.in_memory(), Objects.in_memory()]
    runs = [a_written_run(objects) for objects in stores]
    records = [finished(*pair) for pair in zip(stores, runs, (Policy(), shipped), strict=True)]
    assert [r.decisions for r in records] == [(), ()]
    bodies = [objects.get_sync(storage.VOLUMES, storage.commit(runs[0].volume, 1)) for objects in stores]
    assert len({Commit.model_validate_json(body).digest for body in bodies}) == 1


@pytest.mark.timeout(300)
async def test_a_converter_on_s3_holds_by_rule_and_tells_the_catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"rules:\n  - {EMBARGO}\n")
    monkeypatch.setenv("EMPORTER_POLICY", str(policy))
    tifffile.imwrite(tmp_path / "paper.tif", np.zeros((4, 32, 32), np.uint8), photometric="minisblack")
    run = fleet_run(tmp_path / "paper.tif", Output(), "paper")
    run.request = run.request.model_copy(update={"parameters": {"embargo_until": "2999-01-01"}})
    with s3_server(tmp_path / "s3") as store:
        async with fleet(tmp_path, store) as converters:
            converters.start()
            await converters.begin(run, run.plan())
            status = await converters.ended("paper", 200)
            assert status.state == JobState.COMPLETE, status.error
            assert await current(converters.objects, "paper") is None
            assert await held(converters.objects, "paper") == {1}
            said = await converters.bus.js.get_last_msg("EVENTS", subjects.policy_decided("paper"))
            told = PolicyDecided.model_validate(json.loads(said.data or b""))
            assert (told.point, told.volume, told.revision) == ("publication", "paper", 1)
            assert [(d.rule, d.outcome) for d in told.decisions] == [("embargo", "hold")]
