"""A process holds the memory of as many tasks as it was given, whatever is to be done: a finish takes the room of one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tifffile

from converter import handlers
from converter.app import furnish
from converter.settings import ConverterSettings
from converter.testing import tissue
from converter.testing_fleet import ROOT, Fleet, fleet, fleet_run
from emporter_contracts.commands import Output
from emporter_contracts.jobs import JobState
from emporter_runtime.heartbeat import Work


class Inside:
    """What holds memory now; a finish stays until it may go."""

    def __init__(self) -> None:
        self.now: list[str] = []
        self.most = 0
        self.go = threading.Event()
        self._lock = threading.Lock()

    def watch(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*given: Any) -> Any:
            with self._lock:
                self.now.append(name)
                self.most = max(self.most, len(self.now))
            try:
                if name == "finish":
                    assert self.go.wait(60)
                return function(*given)
            finally:
                with self._lock:
                    self.now.remove(name)

        return watched


async def begin(many: Fleet, job: str) -> None:
    tifffile.imwrite(many.folder / f"{job}.tif", tissue((8, 64, 64)), photometric="minisblack")
    run = fleet_run(many.folder / f"{job}.tif", Output(), job)
    await many.begin(run, run.plan())


@pytest.mark.timeout(120)
async def test_a_task_waits_while_a_finish_holds_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = Inside()
    monkeypatch.setattr(handlers, "write_task", inside.watch("task", handlers.write_task))
    monkeypatch.setattr(handlers, "finish_volume", inside.watch("finish", handlers.finish_volume))
    asked, large = asyncio.Event(), Work.large

    async def asking(work: Work, *given: Any) -> Any:
        asked.set()
        return await large(work, *given)

    monkeypatch.setattr(Work, "large", asking)
    async with fleet(tmp_path) as many:
        given = many.settings.model_dump(exclude_unset=True)
        rooms = furnish(ConverterSettings(**given, file_roots={ROOT: tmp_path}))
        async with rooms.bus.running(), rooms.steward.stewarding():
            await begin(many, "first")
            while inside.now != ["finish"]:
                await asyncio.sleep(0.01)
            asked.clear()
            await begin(many, "second")
            await asked.wait()
            inside.go.set()
            states = [(await many.ended(job, 60)).state for job in ("first", "second")]
        rooms.workers.close()
    assert states == [JobState.COMPLETE] * 2
    assert inside.most == 1
