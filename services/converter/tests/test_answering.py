"""`volume.revise` on a real bus: every revision it commits is told, one that a killed setter had begun too, and what rules said."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats.js.errors
import pytest

from converter import revising
from converter.answering import answer_revisions
from converter.quality_policy import QualityPolicy
from converter.testing import a_run, tissue
from emporter_contracts import storage, subjects
from emporter_contracts.plans import StoredRequest
from emporter_contracts.revisions import Changes, ReviseVolume
from emporter_runtime.bus import Bus
from emporter_runtime.jobstore import now
from emporter_runtime.objects import Objects
from emporter_runtime.policy.documents import parse_document
from emporter_runtime.policy.judging import Policy
from emporter_runtime.testing_bus import provisioned

VOLUME = "url-brain"
RULES = """
rules:
  - {name: no-secrets, at: [publication], when: 'volume.description.contains("secret")', then: deny}
  - {name: drafts, at: [publication], when: 'volume.description.contains("draft")', then: hold}
"""


class Desk:
    """A converter that answers, and whoever asks it."""

    def __init__(self, bus: Bus, objects: Objects) -> None:
        self.bus = bus
        self.objects = objects

    async def set(self, description: str) -> Any:
        command = ReviseVolume(volume=VOLUME, changes=Changes(description=description), by="ada")
        body = command.model_dump_json().encode()
        answer = await self.bus.connection.request(
            subjects.VOLUME_REVISE, body, timeout=30, headers={"content-type": "application/json"}
        )
        return json.loads(answer.data)

    async def decided(self) -> tuple[int, str, str]:
        said = json.loads((await self.bus.js.get_last_msg("EVENTS", subjects.policy_decided(VOLUME))).data or b"")
        (decision,) = said["decisions"]
        return said["revision"], decision["rule"], decision["outcome"]

    async def told(self, revision: int) -> bool:
        try:
            await self.bus.js.get_last_msg("EVENTS", subjects.volume_complete(VOLUME, revision))
        except nats.js.errors.NotFoundError:
            return False
        return True


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    objects, run = Objects.in_memory(), a_run(tissue((8, 32, 32)))
    plan = run.plan()
    await asyncio.to_thread(run.write, objects, plan.volumes[0])
    await asyncio.to_thread(run.finish, objects, plan, run.shards, QualityPolicy())
    claim = StoredRequest(request=run.request, event_id="1", received_at=now())
    await objects.put_json(storage.RAW, storage.request(VOLUME, 1), claim)
    async with provisioned(tmp_path) as (settings, _):
        bus = Bus(settings, "converter")
        answer_revisions(bus, objects, QualityPolicy(), Policy(parse_document(RULES)))
        async with bus.running():
            yield Desk(bus, objects)


async def test_what_rules_said_and_what_was_made_is_told_on_the_bus(desk: Desk) -> None:
    refused = await desk.set("a secret")
    assert (refused["code"], "no-secrets" in refused["message"]) == ("policy_denied", True)
    assert (await desk.decided(), await desk.told(2)) == ((2, "no-secrets", "deny"), False)
    made = await desk.set("a draft")
    assert (made["revision"], made["held_by"]) == (2, ["drafts"])
    assert (await desk.decided(), await desk.told(2)) == ((2, "drafts", "hold"), True)


async def test_a_revision_that_a_killed_setter_had_begun_is_told_by_whoever_finishes_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def killed(*_: object) -> None:
        raise ConnectionResetError

    with monkeypatch.context() as patch:
        patch.setattr(revising, "_written", killed)
        assert (await desk.set("a draft of a brain"))["code"] == "internal"
    assert not await desk.told(2)
    answer = await desk.set("a brain")
    assert (answer["code"], "just setting it (r2)" in answer["message"]) == ("conflict", True)
    assert (await desk.told(2), await desk.decided()) == (True, (2, "drafts", "hold"))
