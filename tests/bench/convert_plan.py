"""A petabyte's tasks without its voxels: `python tests/bench/convert_plan.py [--seconds 20]`.

The real planner, bus, ledger, steward and handlers work on a volume of 100,000³ voxels; only reading and writing are left out, so
this is how fast the machinery around the voxels is, and what it holds.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from converter.counting import RunCount
from converter.testing import a_volume, run_of
from converter.testing_scale import NullReader, simulated
from emporter_runtime.logging import configure_logging

EDGES = (10_000, 100_000)


async def measure(edge: int, seconds: float) -> str:
    shape = (edge, edge, edge)
    began = time.perf_counter()
    plan = run_of(NullReader(shape, np.dtype("uint8")), a_volume(shape)).plan()
    planned = time.perf_counter() - began
    tasks = sum(level.tasks for level in plan.volumes[0].levels)
    with tempfile.TemporaryDirectory(prefix="emporter-bench-") as folder:
        async with simulated(Path(folder), shape) as simulation:
            await simulation.until_done(50)
            first, began = await simulation.done(), time.perf_counter()
            held = psutil.Process().memory_info().rss
            await asyncio.sleep(seconds)
            entries = await simulation.done() - first
            rate = entries / (time.perf_counter() - began)
            grown = psutil.Process().memory_info().rss - held
            counted = RunCount(plan)
            began = time.perf_counter()
            await counted.catch_up(simulation.rooms.ledger)
            scan = time.perf_counter() - began
            known = sum(level.done for volume in counted.progress for level in volume.levels)
    return (
        f"| {edge:,}³ | {tasks:,} | {planned:.2f} s, {len(plan.model_dump_json()):,} B | {rate:.0f} /s | {held / 1e6:.0f} "
        f"| {grown / 1e6:+.1f} | {known:,} in {scan:.2f} s |"
    )


async def main(seconds: float) -> None:
    print("| volume | tasks of all levels | plan | tasks done | RSS, MB | grew meanwhile, MB | counted again after a restart |")
    print("|---|---|---|---|---|---|---|")
    for edge in EDGES:
        print(await measure(edge, seconds))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    configure_logging("bench", "error")
    asyncio.run(main(parser.parse_args().seconds))
