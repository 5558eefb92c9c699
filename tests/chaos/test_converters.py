"""Converters are killed again and again over one job, its commands are published again and again: the volume is exact.

`make test` kills 20 over 60 tasks; `make chaos` sets EMPORTER_CHAOS_KILLS=200 and EMPORTER_CHAOS_TASKS=300.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from converter.recomputing import recomputed
from converter.testing_fleet import Fleet, cut_small, fleet, fleet_run
from emporter_contracts import storage, subjects
from emporter_contracts.commands import ConvertTask, Output
from emporter_contracts.jobs import JobState, JobStatus
from emporter_contracts.plans import ConversionPlan
from emporter_runtime.bus import event_id
from emporter_runtime.testing import s3_server
from emporter_runtime.testing_proxy import SlowProxy, slow_proxy

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(2400)]

KILLS = int(os.environ.get("EMPORTER_CHAOS_KILLS", "20"))
TASKS = int(os.environ.get("EMPORTER_CHAOS_TASKS", "60"))
CONVERTERS = 3
JOB = "chaos"
OUTPUT = Output(chunk=(16, 32, 32), shard=(16, 32, 64))
TASK = (32, 64, 128)
"""Eight shards, and one of the level above."""


async def publish_again(fleet: Fleet, status: JobStatus, plan: ConversionPlan, rng: random.Random) -> None:
    """Queue a task of level 0 whether it is queued, being done or done."""
    n = rng.randrange(plan.volumes[0].levels[0].tasks)
    command = ConvertTask.of(status, volume=JOB, level=0, n=n)
    subject = subjects.convert_task(JOB, JOB, 0, n)
    await fleet.bus.publish(subject, command, f"{event_id(command, 'again')}.{rng.random()}", "CONVERT")


async def kill_all_along(fleet: Fleet, status: JobStatus, plan: ConversionPlan, rng: random.Random) -> int:
    """Kill every converter whenever a few more tasks are done, wherever it then is; how many were killed."""
    total, killed = sum(level.tasks for level in plan.volumes[0].levels), 0
    while killed < KILLS:
        for _ in range(CONVERTERS - len(fleet.running)):
            fleet.start()
        due = total * (killed + CONVERTERS) / (KILLS + 2 * CONVERTERS)
        async with asyncio.timeout(120):
            while await fleet.done(JOB) < due:
                await publish_again(fleet, status, plan, rng)
                await asyncio.sleep(0.02)
                assert fleet.last_words() == []
                now = await fleet.jobs.read(JOB)
                assert now is not None
                assert now.state.running, f"{now.state} after {killed} kills: {now.error}"
        await asyncio.sleep(rng.uniform(0, 0.15))
        for process in list(fleet.running)[: KILLS - killed]:
            fleet.kill(process)
            killed += 1
    return killed


async def kill_while_it_is_finished(fleet: Fleet, proxy: SlowProxy, shards: int, rng: random.Random) -> int:
    """Kill whoever finishes the volume, somewhere in its reading of all shards, twice; how many were killed before the commit."""
    killed = 0
    for _ in range(2):
        process = fleet.running[0] if fleet.running else fleet.start()
        async with asyncio.timeout(120):
            while (now := await fleet.jobs.read(JOB)) is None or now.state == JobState.PROCESSING:
                await asyncio.sleep(0.02)
            due = proxy.requests["GET"] + rng.randrange(1, shards)
            while now.state == JobState.SAVING and proxy.requests["GET"] < due:
                await asyncio.sleep(0.005)
                now = await fleet.jobs.read(JOB) or now
        fleet.kill(process)
        after = await fleet.jobs.read(JOB)
        killed += after is not None and after.state == JobState.SAVING
    return killed


async def test_killed_converters_and_doubled_commands_change_no_voxel(tmp_path: Path) -> None:
    rng = random.Random(5)
    layers = -(-TASKS // 10)
    shape = (32 * layers - 2, 5 * 64 - 5, 2 * 128 - 3)
    data = np.random.default_rng(5).integers(0, 256, shape, "uint8")
    tifffile.imwrite(tmp_path / "chaos.tif", data, photometric="minisblack", compression="zlib")
    run = fleet_run(tmp_path / "chaos.tif", OUTPUT, JOB)
    plan = cut_small(run.plan(), TASK)
    assert plan.volumes[0].levels[0].tasks == 10 * layers
    with s3_server(tmp_path / "s3") as store, slow_proxy(int(str(store.s3_endpoint).rsplit(":", 1)[1]), 0.005) as proxy:
        through = store.model_copy(update={"s3_endpoint": f"http://127.0.0.1:{proxy.port}"})
        async with fleet(tmp_path, through) as many:
            status = await many.begin(run, plan)
            killed = await kill_all_along(many, status, plan, rng)
            assert killed == KILLS
            shards = sum(len(entry.shards) for entry in await many.entries(JOB) if entry.level == 0)
            assert await kill_while_it_is_finished(many, proxy, shards, rng) > 0
            last = many.start()
            ended = await many.ended(JOB, 300)
            assert ended.state == JobState.COMPLETE, ended.error
            await check_exact(many, data, plan)
            check_written_once(proxy)
            await check_nothing_left(many, plan)
            assert peak(last.pid) < many.memory
    print(
        f"{killed} kills over {sum(level.tasks for level in plan.volumes[0].levels)} tasks: {sum(proxy.requests.values())} requests"
    )


async def check_exact(fleet: Fleet, data: np.ndarray, plan: ConversionPlan) -> None:
    """Every voxel of every level, by zarr-python; the completion said once."""
    expected = data
    store = zarr.storage.ObjectStore(fleet.objects.store(storage.VOLUMES), read_only=True)
    for k, level in enumerate(plan.volumes[0].levels):
        expected = expected if k == 0 else recomputed(expected, level.factor, "image")
        array = await asyncio.to_thread(zarr.open_array, store, path=f"{storage.zarr_root(JOB, 1)}{k}", mode="r")
        np.testing.assert_array_equal(await asyncio.to_thread(array.__getitem__, ...), expected)
    said = (await fleet.bus.js.stream_info("EVENTS", subjects_filter=subjects.volume_complete(JOB, 1))).state.subjects
    assert said == {subjects.volume_complete(JOB, 1): 1}


def check_written_once(proxy: SlowProxy) -> None:
    """However often a shard was put, it was the same bytes."""
    shards = {path: digests for path, digests in proxy.put.items() if "/c/" in path}
    assert shards
    assert [path for path, digests in shards.items() if len(digests) != 1] == []


async def check_nothing_left(fleet: Fleet, plan: ConversionPlan) -> None:
    """No command, no file of a killed process, no object but the planned shards and the documents."""
    async with asyncio.timeout(60):
        while (await fleet.bus.js.stream_info("CONVERT")).state.messages:
            await asyncio.sleep(0.05)
    assert list(fleet.temporary.iterdir()) == []
    entries = {(e.level, e.n): e.shards for e in await fleet.entries(JOB)}
    assert len(entries) == sum(level.tasks for level in plan.volumes[0].levels)
    root = storage.zarr_root(JOB, 1)
    held = {i.key.removeprefix(root) async for i in fleet.objects.listing(storage.VOLUMES, root)}
    assert {key for key in held if "/c/" in key} == {shard.key for shards in entries.values() for shard in shards}
    assert len([key for key in held if "/c/" not in key]) == len(plan.volumes[0].levels) + 1


def peak(pid: int) -> int:
    """VmHWM of a process, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
