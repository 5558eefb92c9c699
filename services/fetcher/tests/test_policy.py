"""The operator's rules before anything is fetched: a whole fetcher on a real bus, with an archive that counts what is read."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats
import numpy as np
import pytest
import tifffile

from emporter_contracts import ids, storage, subjects
from emporter_contracts.commands import IngestRequest
from emporter_contracts.jobs import JobState, JobStatus
from emporter_contracts.plans import Licence, StoredRequest
from emporter_contracts.policy import PolicyDecided
from emporter_runtime.policy.errors import PolicyFileError
from emporter_runtime.testing_bus import provisioned
from fetcher.app import furnish
from fetcher.handlers import Rooms
from fetcher.settings import FetcherSettings
from fetcher.testing import MemoryArchive, a_request

PURPOSE = "{name: purpose-needed, at: [request], when: 'request.purpose == \"\"', then: deny, message: say what it is for}"
OPEN_ONLY = "{name: open-only, at: [request], when: '!volume.licence.startsWith(\"CC\")', then: deny}"
TOLD = "{name: told, at: [request], when: '!volume.licence_known', then: warn}"
BROKEN = "{name: broken, at: [request], when: 'volume.shape[9] > 1', then: deny}"


def a_tiff() -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((4, 16, 16), np.uint8), photometric="minisblack")
    return file.getvalue()


@dataclass
class House:
    """A running fetcher, its archive, and somebody who asks."""

    rooms: Rooms
    archive: MemoryArchive
    bus: Any

    async def ask(self, request: IngestRequest, purpose: str | None = None) -> dict[str, Any]:
        """The answer to an ingest request."""
        heard = await self.bus.subscribe(subjects.reply("token"), max_msgs=1)
        await self.bus.flush()
        headers = {"Emporter-Reply-To": "token", **({} if purpose is None else {"Emporter-Purpose": purpose})}
        await self.bus.jetstream().publish(subjects.INGEST_REQUEST, request.model_dump_json().encode(), headers=headers)

        found: dict[str, Any] = json.loads((await heard.next_msg(timeout=60)).data)
        return found

    async def dry_run(self, request: IngestRequest, purpose: str) -> dict[str, Any]:

        headers = {"Emporter-Purpose": purpose}
        answer = await self.bus.request(subjects.INGEST_PLAN, request.model_dump_json().encode(), timeout=60, headers=headers)
        found: dict[str, Any] = json.loads(answer.data)
        return found

    async def until(self, job: str, *states: JobState) -> JobStatus:
        async with asyncio.timeout(100):
            while (status := await self.rooms.jobs.read(job)) is None or status.state not in states:
                await asyncio.sleep(0.05)
        return status

    async def decided(self, job: str) -> PolicyDecided:
        """What was told to the catalog."""
        async with asyncio.timeout(60):
            while True:
                try:
                    found = await self.bus.jetstream().get_last_msg("EVENTS", subjects.policy_decided(job))
                    return PolicyDecided.model_validate_json(found.data)
                except nats.js.errors.NotFoundError:
                    await asyncio.sleep(0.05)

    def fetched(self) -> int:
        return sum(self.archive.fetched.values())


@asynccontextmanager
async def a_house(folder: Path, *rules: str, **listing: Any) -> AsyncIterator[House]:
    policy = folder / "policy.yaml"
    policy.write_text("rules:\n" + "".join(f"  - {rule}\n" for rule in rules))
    async with provisioned(folder) as (settings, _):
        rooms = furnish(FetcherSettings.model_validate(settings.model_dump() | {"policy": policy}))
        archive = MemoryArchive({"volume.tif": a_tiff()}, **listing)
        rooms.sources["url"] = archive
        bus = await nats.connect(settings.nats_url)
        try:
            async with rooms.bus.running(), rooms.steward.stewarding():
                yield House(rooms, archive, bus)
        finally:
            await bus.close()
            rooms.workers.close()


async def test_a_request_is_refused_by_name_before_there_is_a_job_or_a_byte(tmp_path: Path) -> None:
    request = a_request()
    async with a_house(tmp_path, PURPOSE) as house:
        answer = await house.ask(request)
        assert answer["code"] == "policy_denied"
        assert "purpose-needed" in answer["message"]
        assert "say what it is for" in answer["message"]
        told = await house.decided(ids.job_id(request))
        assert [(d.rule, d.outcome) for d in told.decisions] == [("purpose-needed", "deny")]
        assert (told.point, told.revision, told.source) == ("request", None, "url")
        assert house.archive.opened == []
        assert await house.rooms.objects.folders(storage.RAW, "jobs/") == []


async def test_who_says_what_it_is_for_is_let_in_and_it_is_kept(tmp_path: Path) -> None:
    request = a_request()
    async with a_house(tmp_path, PURPOSE, licence=Licence(spdx="CC0-1.0", known=True)) as house:
        answer = await house.ask(request, purpose=" training ")
        assert answer["state"] == "pending"
        body = await house.rooms.objects.get(storage.RAW, storage.request(ids.job_id(request), 1))
        assert StoredRequest.model_validate_json(body).purpose == "training"
        await house.until(ids.job_id(request), JobState.PROCESSING)


async def test_a_licence_that_the_plan_shows_refuses_the_job_before_data_is_fetched(tmp_path: Path) -> None:
    request = a_request()
    async with a_house(tmp_path, OPEN_ONLY, licence=Licence(spdx="LicenseRef-lab", known=True)) as house:
        assert (await house.ask(request))["state"] == "pending"
        status = await house.until(ids.job_id(request), JobState.FAILED)
        assert status.error is not None
        assert (status.error.code, "open-only" in status.error.message) == ("policy_denied", True)
        assert (await house.decided(status.job)).revision == 1
        assert house.fetched() == 0
        assert await house.rooms.plans.plan(status.job, 1) is None
        assert [info async for info in house.rooms.objects.listing(storage.RAW, "objects/")] == []


async def test_an_open_licence_passes_the_same_rule(tmp_path: Path) -> None:
    request = a_request()
    async with a_house(tmp_path, OPEN_ONLY, licence=Licence(spdx="CC-BY-4.0", known=True)) as house:
        await house.ask(request)
        status = await house.until(ids.job_id(request), JobState.PROCESSING)
        assert status.error is None


async def test_a_warning_is_told_and_the_job_goes_on(tmp_path: Path) -> None:
    request = a_request()
    async with a_house(tmp_path, TOLD) as house:
        await house.ask(request)
        await house.until(ids.job_id(request), JobState.PROCESSING)
        told = await house.decided(ids.job_id(request))
        assert [(d.rule, d.outcome) for d in told.decisions] == [("told", "warn")]


async def test_a_rule_that_cant_be_evaluated_refuses_by_name(tmp_path: Path) -> None:
    request = a_request()
    async with a_house(tmp_path, BROKEN) as house:
        await house.ask(request)
        status = await house.until(ids.job_id(request), JobState.FAILED)
        assert status.error is not None
        assert "broken" in status.error.message
        assert "could not be evaluated" in status.error.message
        assert house.fetched() == 0


@pytest.mark.parametrize(
    ("licence", "purpose", "refused"), [("CC0-1.0", "x", ""), ("CC0-1.0", "", "purpose-needed"), ("L", "x", "open-only")]
)
async def test_a_dry_run_says_what_the_rules_would_say(tmp_path: Path, licence: str, purpose: str, refused: str) -> None:
    async with a_house(tmp_path, PURPOSE, OPEN_ONLY, licence=Licence(spdx=licence, known=True)) as house:
        answer = await house.dry_run(a_request(), purpose)
    assert answer.get("code", "") == ("policy_denied" if refused else "")
    assert refused in answer.get("message", "")


@pytest.mark.parametrize("parameters", [{"embargo_until": "soon"}, {"embargo_until": 7}])
async def test_an_embargo_that_is_no_date_is_refused(tmp_path: Path, parameters: dict[str, Any]) -> None:
    async with a_house(tmp_path, TOLD) as house:
        answer = await house.ask(a_request(parameters=parameters))
    assert (answer["code"], "embargo_until" in answer["message"]) == ("invalid_request", True)


async def test_a_faulty_policy_stops_the_fetcher_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(PolicyFileError, match=r"policy\.yaml:2: rule a: when"):
        async with a_house(tmp_path, "{name: a, at: [request], when: 'volume.colour == 1', then: deny}"):
            pass
