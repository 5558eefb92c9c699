"""Any number of converter processes work on one job."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import tifffile

from converter.testing_fleet import cut_small, fleet, fleet_run
from emporter_contracts import storage
from emporter_contracts.commands import Output
from emporter_contracts.jobs import JobState
from emporter_runtime.testing import s3_server
from emporter_runtime.testing_proxy import slow_proxy


@pytest.mark.timeout(300)
async def test_two_converters_share_the_tasks_of_one_job_on_a_store_that_is_far_away(tmp_path: Path) -> None:
    data = np.random.default_rng(2).integers(0, 256, (128, 256, 256), "uint8")
    tifffile.imwrite(tmp_path / "shared.tif", data, photometric="minisblack")
    run = fleet_run(tmp_path / "shared.tif", Output(chunk=(16, 32, 32), shard=(16, 32, 64)), "shared")
    plan = cut_small(run.plan(), (32, 64, 128))
    tasks = sum(level.tasks for level in plan.volumes[0].levels)
    with s3_server(tmp_path / "s3") as store, slow_proxy(int(str(store.s3_endpoint).rsplit(":", 1)[1]), 0.02) as proxy:
        far = store.model_copy(update={"s3_endpoint": f"http://127.0.0.1:{proxy.port}"})
        async with fleet(tmp_path, far) as many:
            both = [many.start(), many.start()]
            async with asyncio.timeout(120):
                while not all([await asyncio.to_thread(many.ready, process) for process in both]):
                    await asyncio.sleep(0.1)
            await many.begin(run, plan)
            status = await many.ended("shared", 240)
            assert status.state == JobState.COMPLETE, status.error
            wrote = [await asyncio.to_thread(many.shards, process) for process in both]
            entries = await many.entries("shared")
            assert len(entries) == tasks
            shards = sum(len(entry.shards) for entry in entries)
            assert min(wrote) > shards / 10
            # Every shard was put; one that two processes put is the same bytes.
            assert sum(wrote) >= shards
            puts = {path: digests for path, digests in proxy.put.items() if ".ome.zarr/" in path and "/c/" in path}
            root = f"/{storage.VOLUMES}/{storage.zarr_root('shared', 1)}"
            assert set(puts) == {root + shard.key for entry in entries for shard in entry.shards}
            assert all(len(digests) == 1 for digests in puts.values())
