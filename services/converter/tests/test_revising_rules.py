"""The operator's rules at publication, asked of a correction as of an ingest: refused, held, and told by name."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from converter import revising
from converter.finishing import STANDARD, finish_volume
from converter.quality_policy import QualityPolicy
from converter.revising import revise
from converter.testing import Run, a_run, entered, never, tissue
from emporter_contracts import storage
from emporter_contracts.errors import RefusedError
from emporter_contracts.plans import Hold, StoredRequest
from emporter_contracts.records import MetadataRecord
from emporter_contracts.revisions import Changes, Revised, ReviseVolume
from emporter_runtime.commits import current, held, release
from emporter_runtime.objects import Objects, json_bytes
from emporter_runtime.policy.errors import PolicyDeniedError
from emporter_runtime.policy.judging import Policy
from emporter_runtime.testing_policy import rules

VOLUME = "url-brain"
NO_SECRETS = (
    "{name: no-secrets, at: [publication], when: 'volume.description.contains(\"secret\")', then: deny, message: ask Ada}"
)
COARSE = (
    "{name: coarse, at: [publication], when: 'volume.voxel_size_nm[0] != null && volume.voxel_size_nm[0] > 100.0', then: hold}"
)
UNLICENSED = "{name: unlicensed, at: [publication], when: '!volume.licence_known', then: hold}"
FOR_SALE = "{name: for-sale, at: [publication], when: 'request.purpose == \"sale\"', then: hold}"


class House:
    """A converted volume, and what was told of decisions about it."""

    def __init__(self, policy: Policy, purpose: str = "", **request: Any) -> None:
        self.objects = Objects.in_memory()
        self.told: list[tuple[int, str, str]] = []
        run = a_run(tissue((8, 32, 32)))
        plan = run.plan()
        run.write(self.objects, plan.volumes[0])
        self._finish(run, plan, policy, purpose)
        claim = StoredRequest(request=run.request, event_id="1", received_at=run.fetch.planned_at, purpose=purpose)
        self.objects.put_sync(storage.RAW, storage.request(VOLUME, 1), json_bytes(claim))

    def _finish(self, run: Run, plan: Any, policy: Policy, purpose: str) -> None:
        about = (run.fetch, run.manifest, plan, run.volume, run.request)
        finish_volume(self.objects, *about, entered(plan, run.shards), lambda: run.reader, never, STANDARD, policy, purpose)

    def set(self, policy: Policy, volume: str = VOLUME, **changes: Any) -> Revised:
        command = ReviseVolume(volume=volume, changes=Changes(**changes), by="ada")
        return asyncio.run(revise(self.objects, command, QualityPolicy(), policy, self._tell))

    async def _tell(self, record: MetadataRecord, claim: StoredRequest) -> None:
        del claim
        self.told += [(record.revision, d.rule, d.outcome) for d in record.decisions]

    def record(self, revision: int) -> MetadataRecord:
        return MetadataRecord.model_validate_json(self.objects.get_sync(storage.VOLUMES, storage.record(VOLUME, revision)))

    def hold(self, revision: int) -> Hold | None:
        body = self.objects.find_sync(storage.VOLUMES, storage.hold(VOLUME, revision))
        return None if body is None else Hold.model_validate_json(body)

    def release(self, revision: int) -> None:
        assert asyncio.run(release(self.objects, VOLUME, revision))

    @property
    def current(self) -> int | None:
        return asyncio.run(current(self.objects, VOLUME))

    @property
    def names(self) -> set[str]:
        return {f"{b}/{key}" for b in (storage.RAW, storage.VOLUMES) for key in self.objects.sizes_sync(b, "")}


def test_a_correction_that_a_rule_refuses_writes_nothing_and_names_the_rule() -> None:
    house = House(rules(NO_SECRETS))
    before = house.names
    with pytest.raises(PolicyDeniedError, match="no-secrets.*@r2.*ask Ada") as denied:
        house.set(rules(NO_SECRETS), description="a secret brain")
    assert denied.value.code == "policy_denied"
    assert house.names == before
    assert house.told == [(2, "no-secrets", "deny")]
    assert house.set(rules(NO_SECRETS), description="a brain").revision == 2


def test_a_correction_that_a_rule_holds_is_there_and_not_current_until_it_is_released() -> None:
    house = House(rules(COARSE))
    made = house.set(rules(COARSE), voxel_size_nm=(500.0, 8.0, 8.0))
    assert (made.revision, made.held_by, house.current) == (2, ("coarse",), 1)
    assert [(d.rule, d.outcome) for d in house.record(2).decisions] == [("coarse", "hold")]
    assert house.told == [(2, "coarse", "hold")]
    house.release(2)
    assert house.current == 2


def test_what_was_released_stays_released_unless_the_rule_looks_at_what_is_changed() -> None:
    house, policy = House(rules()), rules(COARSE)
    assert house.set(policy, voxel_size_nm=(500.0, 8.0, 8.0)).held_by == ("coarse",)
    house.release(2)
    assert house.set(policy, description="a coarse brain").held_by == ()
    assert house.set(policy, description="a very coarse brain").held_by == ()
    assert house.current == 4
    assert house.set(policy, voxel_size_nm=(600.0, 8.0, 8.0)).held_by == ("coarse",)
    assert house.current == 4


def test_a_correction_of_what_is_held_is_held_too_until_the_rule_has_nothing_against_it() -> None:
    policy = rules(UNLICENSED)
    house = House(policy)
    assert house.current is None
    assert house.set(policy, f"{VOLUME}@r1", description="a brain").held_by == ("unlicensed",)
    assert house.set(policy, f"{VOLUME}@r2", licence="CC-BY-4.0").held_by == ()
    assert house.current == 3


def test_a_rule_that_is_no_more_in_the_policy_goes_on_holding_what_it_held() -> None:
    house = House(rules(UNLICENSED))
    assert house.set(rules(), f"{VOLUME}@r1", licence="CC-BY-4.0").held_by == ("unlicensed",)
    assert house.current is None


def test_a_correction_is_for_the_purpose_that_the_voxels_were_ingested_for() -> None:
    house = House(rules(), purpose="sale")
    assert house.set(rules(FOR_SALE), description="x").held_by == ("for-sale",)
    hold = house.hold(2)
    assert hold is not None
    assert hold.purpose == "sale"
    assert house.set(rules(FOR_SALE), f"{VOLUME}@r2", description="y").held_by == ("for-sale",)


def test_a_killed_correction_that_rules_refuse_by_now_is_left_and_keeps_nobody_from_correcting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    house = House(rules())

    async def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(revising, "_written", killed)
        with pytest.raises(KeyboardInterrupt):
            house.set(rules(), description="a secret brain")
    assert house.set(rules(NO_SECRETS), description="a brain").revision == 3
    assert asyncio.run(held(house.objects, VOLUME)) == set()
    with pytest.raises(RefusedError, match="not current"):
        house.set(rules(NO_SECRETS), f"{VOLUME}@r1", description="x")
