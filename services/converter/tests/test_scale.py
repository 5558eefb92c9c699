"""A volume of a petabyte is planned, queued and counted in the memory of a small one."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from converter.counting import LevelCount, RunCount
from converter.testing import MEMORY, a_run, a_volume, run_of, tissue
from converter.testing_scale import NullReader, simulated
from emporter_contracts import subjects
from emporter_contracts.events import ConvertDone
from emporter_runtime.bus import Bus
from emporter_runtime.ledger import Ledger
from emporter_runtime.stewarding import MAX_OUTSTANDING
from emporter_runtime.testing_bus import provisioned

ENTRIES = int(os.environ.get("EMPORTER_SCALE_ENTRIES", "1200"))
"""How far the simulation goes: it need not finish."""
MIB = 2**20


@asynccontextmanager
async def a_ledger(folder: Path) -> AsyncIterator[tuple[Bus, Ledger]]:
    async with provisioned(folder) as (settings, _):
        bus = Bus(settings, "converter")
        await bus.broker.connect()
        try:
            yield bus, Ledger(bus)
        finally:
            await bus.broker.stop()


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


@pytest.mark.timeout(600)
async def test_a_volume_of_a_petabyte_is_worked_on_in_bounded_memory(tmp_path: Path) -> None:
    async with simulated(tmp_path, (100_000, 100_000, 100_000)) as simulation:
        await simulation.until_done(ENTRIES // 4)
        held = resident()
        plan = await simulation.rooms.plans.conversion(simulation.job, 1)
        assert plan is not None
        tasks = sum(level.tasks for level in plan.volumes[0].levels)
        assert tasks > 100_000
        queued = (await simulation.rooms.bus.js.stream_info("CONVERT")).state.messages
        assert queued <= MAX_OUTSTANDING
        await simulation.until_done(ENTRIES)
        assert resident() - held < 48 * MIB
        status = await simulation.status()
        assert status.convert.total == tasks
        assert 0 < status.convert.done < tasks
        # Another process counts the same from the ledger alone.
        count = RunCount(plan)
        await count.catch_up(simulation.rooms.ledger)
        assert sum(t.done for v in count.progress for t in v.levels) >= ENTRIES


async def test_what_the_ledger_lost_is_not_counted_as_done(tmp_path: Path) -> None:
    run = a_run(tissue((64, 64, 64)))
    wildcard = subjects.convert_dones(run.fetch.job, 1)
    async with a_ledger(tmp_path) as (_, ledger):
        count = RunCount(run.plan())
        entry = ConvertDone(job=run.fetch.job, revision=1, generation=1, volume=run.volume, level=0, n=0, shards=())
        await ledger.enter(subjects.convert_done(run.fetch.job, 1, run.volume, 0, 0), entry)
        await count.catch_up(ledger)
        assert count.complete
        assert await count.confirmed(ledger)
        await ledger.purge(wildcard)
        assert not await count.confirmed(ledger)
        await count.catch_up(ledger)
        assert not count.complete


async def test_a_ledger_that_was_made_anew_is_counted_from_its_first_entry(tmp_path: Path) -> None:
    shape = (3000, 3000, 3000)
    plan = run_of(NullReader(shape, tissue((1, 1, 1)).dtype), a_volume(shape), memory=MEMORY).plan()
    async with a_ledger(tmp_path) as (bus, ledger):
        count = RunCount(plan)
        volume = plan.volumes[0].volume

        async def enter(*numbers: int) -> None:
            for n in numbers:
                entry = ConvertDone(job=plan.job, revision=1, generation=1, volume=volume, level=0, n=n, shards=())
                await ledger.enter(subjects.convert_done(plan.job, 1, volume, 0, n), entry)

        await enter(0, 1, 2)
        await count.catch_up(ledger)
        await enter(3)
        await count.catch_up(ledger)
        assert count.progress[0].levels[0].done == 4
        kept = (await bus.js.stream_info("LEDGER")).config
        await bus.js.delete_stream("LEDGER")
        await bus.js.add_stream(kept)
        await enter(5, 6)
        await count.catch_up(ledger)
        assert list(count.levels[volume][0].undone())[:6] == [0, 1, 2, 3, 4, 7]


def test_a_task_said_done_twice_counts_once() -> None:
    plan = run_of(NullReader((3000, 3000, 3000), tissue((1, 1, 1)).dtype), a_volume((3000, 3000, 3000))).plan().volumes[0]
    level = LevelCount(plan.levels[0], 1)
    for n in (3, 3, 10**9):
        level.mark(n)
    assert level.tally.done == 1
    assert level.tally.bytes_done == plan.levels[0].box(3).size
    for n in range(plan.levels[0].tasks):
        level.mark(n)
    assert level.complete
    assert level.tally.bytes_done == level.tally.bytes_total == 3000**3
