"""Rules of publication, asked of a volume that is read where it lies as of an ingest."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from emporter_contracts import storage, subjects
from emporter_contracts.commands import IngestRequest, Select
from emporter_contracts.geometry import VoxelSize
from emporter_contracts.ids import record_uuid
from emporter_contracts.jobs import JobState
from emporter_contracts.plans import Hold
from emporter_contracts.policy import PolicyDecided
from emporter_contracts.records import Core, Metadata, MetadataRecord
from emporter_contracts.registrations import RegisteredLevel, Registration, SourceDocument
from emporter_runtime.bus import Bus
from emporter_runtime.commits import committed, current, release
from emporter_runtime.objects import Objects
from emporter_runtime.policy.documents import parse_document
from emporter_runtime.policy.errors import PolicyDeniedError
from emporter_runtime.policy.judging import Policy
from emporter_runtime.registering import Registered, Registering, register
from emporter_runtime.testing_bus import provisioned

AT = datetime(2026, 11, 1, tzinfo=UTC)
RULES = """
rules:
  - {name: no-brains, at: [publication], when: 'volume.description == "brain"', then: deny, message: ask Ada}
  - {name: known-licence, at: [publication], when: '!volume.licence_known && request.purpose != "private"', then: hold}
"""


def wanted(name: str = "cells") -> Registering:
    size, volume = VoxelSize.said("file", (4.0, 4.0, 4.0)), f"registered-{name}"
    level = RegisteredLevel(number=0, shape=(8, 8, 8), chunk=(8, 8, 8), scale=(4, 4, 4), translation=(0, 0, 0), factor=(1, 1, 1))
    registration = Registration(
        volume=volume, revision=1, root="file-root:scope/cells", format="zarr", select=Select(), shape=(8, 8, 8), dtype="uint8",
        role="image", voxel_size=size, levels=(level,), documents=(SourceDocument(name=".zarray", sha256="0" * 64),), as_of=AT,
        registered_at=AT,
    )  # fmt: skip
    request = IngestRequest(source="file-root", source_id="scope/cells")
    record = MetadataRecord(
        id=record_uuid(volume), volume=volume, revision=1, source="file-root", source_id="scope/cells", managed=False,
        status=JobState.COMPLETE, created_at=AT, updated_at=AT, metadata=Metadata(core=Core(description=name)),
    )  # fmt: skip
    return Registering(registration, record, request)


class Desk:
    """Where volumes are registered under rules."""

    def __init__(self, bus: Bus, objects: Objects) -> None:
        self.bus = bus
        self.objects = objects

    async def register(self, *names: str, rules: str = RULES, **how: Any) -> list[Registered]:
        policy = Policy(parse_document(rules))
        return await register(self.objects, self.bus, [wanted(n) for n in names], **{"anew": False, "rules": policy, **how})

    async def told(self, volume: str) -> PolicyDecided:
        said = await self.bus.js.get_last_msg("EVENTS", subjects.policy_decided(volume))
        return PolicyDecided.model_validate(json.loads(said.data or b""))


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with provisioned(tmp_path) as (settings, _):
        bus = Bus(settings, "register")
        await bus.broker.connect()
        yield Desk(bus, Objects.in_memory())
        await bus.broker.stop()


async def test_what_a_rule_refuses_is_not_registered_and_nothing_that_came_with_it(desk: Desk) -> None:
    with pytest.raises(PolicyDeniedError, match="no-brains.*registered-brain@r1.*ask Ada"):
        await desk.register("cells", "brain")
    assert await desk.objects.folders(storage.VOLUMES) == []
    told = await desk.told("registered-brain")
    assert (told.point, told.volume, told.revision, told.source) == ("publication", "registered-brain", 1, "file-root")
    assert [(d.rule, d.outcome) for d in told.decisions] == [("no-brains", "deny")]


async def test_what_a_rule_holds_is_registered_and_not_current_until_it_is_released(desk: Desk) -> None:
    (made,) = await desk.register("cells")
    assert (str(made.ref), made.existing, made.held_by) == ("registered-cells@r1", False, ("known-licence",))
    assert (await committed(desk.objects, "registered-cells"), await current(desk.objects, "registered-cells")) == ({1}, None)
    record = MetadataRecord.model_validate_json(await desk.objects.get(storage.VOLUMES, storage.record("registered-cells", 1)))
    assert [(d.rule, d.outcome) for d in record.decisions] == [("known-licence", "hold")]
    assert [d.rule for d in (await desk.told("registered-cells")).decisions] == ["known-licence"]
    (again,) = await desk.register("cells")
    assert (again.existing, again.held_by) == (True, ("known-licence",))
    assert await release(desk.objects, "registered-cells", 1)
    assert await current(desk.objects, "registered-cells") == 1


async def test_rules_hear_what_it_is_for_and_the_hold_remembers_it(desk: Desk) -> None:
    (free,) = await desk.register("cells", purpose="private")
    assert (free.held_by, await current(desk.objects, "registered-cells")) == ((), 1)
    (other,) = await desk.register("cells", purpose="training", anew=True)
    assert (str(other.ref), other.held_by) == ("registered-cells@r2", ("known-licence",))
    hold = Hold.model_validate_json(await desk.objects.get(storage.VOLUMES, storage.hold("registered-cells", 2)))
    assert hold.purpose == "training"
    assert await current(desk.objects, "registered-cells") == 1


async def test_a_hold_that_a_killed_registration_left_holds_nothing(desk: Desk) -> None:
    await desk.register("cells")
    await desk.objects.delete(storage.VOLUMES, [storage.commit("registered-cells", 1)])  # killed before its commit
    (made,) = await desk.register("cells", purpose="private")
    assert (str(made.ref), made.held_by, await current(desk.objects, "registered-cells")) == ("registered-cells@r1", (), 1)
