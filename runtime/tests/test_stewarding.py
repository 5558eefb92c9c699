"""What would stop a steward for good, and does not."""

from __future__ import annotations

import asyncio
from pathlib import Path

from emporter_contracts.commands import IngestRequest
from emporter_contracts.jobs import JobStatus
from emporter_runtime.bus import Bus
from emporter_runtime.jobstore import JobStore
from emporter_runtime.objects import Objects
from emporter_runtime.stewarding import Steward
from emporter_runtime.testing_bus import provisioned

REQUEST = IngestRequest(source="url", source_id="http://archive/volume.tif")


async def test_a_job_that_ends_while_another_is_looked_at_does_not_stop_the_steward(tmp_path: Path) -> None:
    async with provisioned(tmp_path, sweep_seconds=0.2) as (settings, _):
        bus = Bus(settings, "fetcher")
        await bus.broker.connect()
        jobs = JobStore(bus, Objects.open(settings))
        looks: list[str] = []

        async def look(status: JobStatus) -> None:
            looks.append(status.job)
            # Both are due in every sweep, the first to begin first: the other ends in the middle of its turn.
            if status.job == "a" and looks.count("b") == 1:
                await jobs.cancel("b")
                while "b" in steward._running:
                    await asyncio.sleep(0.01)

        steward = Steward(bus, jobs, "fetch", look)
        await jobs.begin("a", REQUEST, 1, 1)
        await jobs.begin("b", REQUEST, 1, 1)
        async with steward.stewarding(), asyncio.timeout(30):
            while "b" not in looks or "b" in steward._running:
                await asyncio.sleep(0.01)
            before = looks.count("a")
            while looks.count("a") < before + 3:
                await asyncio.sleep(0.01)
        await bus.broker.stop()
