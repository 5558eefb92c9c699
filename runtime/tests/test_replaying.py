"""What streams hold is heard again, all of it, by somebody who takes nothing from their consumers; and what a tombstone keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emporter_contracts import storage
from emporter_contracts.ids import VolumeRef
from emporter_contracts.jobs import JobStatus
from emporter_contracts.plans import Commit, Tombstone
from emporter_runtime import replaying
from emporter_runtime.bus import Bus
from emporter_runtime.jobstore import now
from emporter_runtime.objects import Objects
from emporter_runtime.removal import remove
from emporter_runtime.replaying import replay
from emporter_runtime.testing_bus import provisioned


async def test_every_message_is_heard_again_in_order_and_no_consumer_hears_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replaying, "PAGE", 7)
    async with provisioned(tmp_path) as (settings, _):
        bus = Bus(settings, "test")
        await bus.broker.connect()
        for n in range(30):
            status = JobStatus(
                job=f"job-{n}", source="url", source_id="x", revision=1, generation=1, version=1, state="pending",
                created_at=now(), updated_at=now(),
            )  # fmt: skip
            await bus.publish(f"status.job-{n}", status, f"id-{n}", "STATUS")
        heard = [delivery async for delivery in replay(bus, "STATUS", "status.*")]
        assert [d.event_id for d in heard] == [f"id-{n}" for n in range(30)]
        assert [json.loads(d.body)["job"] for d in heard] == [f"job-{n}" for n in range(30)]
        assert (await bus.js.consumer_info("STATUS", "cataloger-status")).num_pending == 30
        assert [d async for d in replay(bus, "EVENTS", "raw.plan.ready.*")] == []
        await bus.broker.stop()


@pytest.mark.parametrize(("body", "kept"), [(b'{"volume": "v", "n": 1}', {"volume": "v", "n": 1}), (b"{", None), (None, None)])
async def test_a_tombstone_keeps_the_record_of_what_was_there(body: bytes | None, kept: dict | None) -> None:
    objects = Objects.in_memory()
    await objects.put_json(
        storage.VOLUMES, storage.commit("v", 1), Commit(volume="v", revision=1, digest="d", job="v", committed_at=now())
    )
    if body is not None:
        await objects.put(storage.VOLUMES, storage.record("v", 1), body)
    await remove(objects, VolumeRef("v"))
    await remove(objects, VolumeRef("v"))
    stone = Tombstone.model_validate_json(await objects.get(storage.VOLUMES, storage.tombstone("v", 1)))
    assert stone.record == kept
    assert not await objects.exists(storage.VOLUMES, storage.record("v", 1))
