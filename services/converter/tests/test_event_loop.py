"""A converter answers, and gives signs of life, while it waits for a source or a store: neither is touched on the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.testing import a_run, tissue
from converter.testing_scale import working
from emporter_contracts import storage
from emporter_contracts.geometry import Box, ChunkGrid, VoxelSize
from emporter_readers.array import ArrayReader
from emporter_runtime.objects import Objects

SYNC = [name for name in vars(Objects) if name.endswith("_sync")]


class Waiting(ArrayReader):
    """Gives voxels only after the event loop has done something else."""

    loop: asyncio.AbstractEventLoop
    loop_thread: int
    reads: list[bool]
    """Of each, whether the event loop was free."""

    def read(self, box: Box) -> np.ndarray:
        turned = threading.Event()
        self.loop.call_soon_threadsafe(turned.set)
        self.reads.append(threading.get_ident() != self.loop_thread and turned.wait(20))
        return super().read(box)


@pytest.mark.timeout(120)
async def test_a_volume_is_planned_converted_and_finished_while_the_event_loop_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_the_loop: list[str] = []
    calls: list[str] = []
    loop_thread = threading.get_ident()

    def noted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            (by_the_loop if threading.get_ident() == loop_thread else calls).append(name)
            return real(*args, **kwargs)

        return call

    for name in SYNC:
        monkeypatch.setattr(Objects, name, noted(name, getattr(Objects, name)))
    run = a_run(tissue((8, 200, 200)))
    reader = Waiting(run.reader.array, VoxelSize(), ChunkGrid((1, 200, 200)))
    reader.loop, reader.loop_thread, reader.reads = asyncio.get_running_loop(), loop_thread, []
    run.reader = reader
    async with working(tmp_path, run) as simulation, asyncio.timeout(60):
        commit = storage.commit(run.volume, 1)
        while await simulation.rooms.objects.find(storage.VOLUMES, commit) is None:
            await asyncio.sleep(0.05)
    assert len(reader.reads) > 2
    assert all(reader.reads)
    assert {"put_sync", "create_sync", "get_sync"} <= set(calls)
    assert by_the_loop == []
