from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from emporter_contracts import subjects
from emporter_contracts.events import RawObjectStored
from emporter_contracts.plans import FetchPlan
from emporter_runtime.bus import Bus
from emporter_runtime.ledger import Ledger
from emporter_runtime.testing_bus import provisioned
from fetcher.counting import RunCount
from fetcher.testing import a_plan, an_object


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    async with provisioned(tmp_path) as (settings, _):
        bus = Bus(settings, "fetcher")
        async with bus.running():
            yield Ledger(bus)


def many(count: int = 600) -> FetchPlan:
    return a_plan(*(an_object(f"{n:04}", 3) for n in range(count))).model_copy(update={"raw_bytes": 3 * count})


async def store(ledger: Ledger, plan: FetchPlan, *units: str) -> None:
    for unit in units:
        entry = RawObjectStored(job=plan.job, revision=1, generation=1, unit=unit, bytes=3, sha256="0" * 64)
        await ledger.enter(subjects.raw_object_stored(plan.job, plan.revision, unit), entry)


async def test_only_batches_with_a_missing_unit_are_left(ledger: Ledger) -> None:
    plan = many()
    count = RunCount(plan)
    await store(ledger, plan, *(unit.id for unit in plan.batches[1]))
    await count.catch_up(ledger)
    assert count.incomplete() == [0, 2]
    assert (count.tally.done, count.tally.total, count.tally.bytes_done) == (256, 600, 768)
    assert not count.complete


async def test_a_look_reads_only_what_was_entered_since_the_last(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = many()
    count = RunCount(plan)
    await store(ledger, plan, "0-0", "1-0")
    await count.catch_up(ledger)
    read = []
    since = ledger.since

    async def counted(wildcard: str, after: int) -> AsyncIterator[tuple[int, str]]:
        async for entry in since(wildcard, after):
            read.append(entry)
            yield entry

    monkeypatch.setattr(ledger, "since", counted)
    await store(ledger, plan, "2-0", "1-0")
    await count.catch_up(ledger)
    assert [subject.rsplit(".", 1)[1] for _, subject in read] == ["2-0"]
    assert count.tally.done == 3


async def test_entries_of_other_runs_and_units_nobody_planned_count_for_nothing(ledger: Ledger) -> None:
    plan = many(2)
    count = RunCount(plan)
    await store(ledger, plan.model_copy(update={"job": "another"}), "0-0", "1-0")
    await store(ledger, plan, "7-0", "0-0")
    await count.catch_up(ledger)
    assert count.tally.done == 1
    assert count.incomplete() == [0]


async def test_a_ledger_that_lost_entries_is_counted_anew(ledger: Ledger) -> None:
    plan = many(2)
    count = RunCount(plan)
    await store(ledger, plan, "0-0", "1-0")
    await count.catch_up(ledger)
    assert count.complete
    assert await count.confirmed(ledger)
    await ledger.purge(subjects.raw_object_stored(plan.job, plan.revision, "0-0"))
    assert not await count.confirmed(ledger)
    await count.catch_up(ledger)
    assert count.incomplete() == [0]
    assert count.tally.done == 1
