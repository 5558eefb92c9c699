"""Two converters against one on a store 20 ms away, round by round: `python tests/bench/convert_scale.py [--rounds 5]`.

A proxy before the S3 server waits before each request, each for itself, as a distant store does. Every round does the same job
with one process and with two, in turn; started processes are ready before the clock runs.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile

from converter.testing_fleet import Fleet, cut_small, fleet, fleet_run
from emporter_contracts.commands import Output
from emporter_runtime.logging import configure_logging
from emporter_runtime.testing import s3_server
from emporter_runtime.testing_proxy import slow_proxy

DELAY = 0.02
SHAPE = (256, 512, 512)
"""In 2,048 shards of level 0: long enough that what no second process can help with does not count (first commands, last level)."""


async def seconds(many: Fleet, path: Path, job: str, processes: int) -> tuple[float, float]:
    """From the first command to the last task's entry, and to the commit."""
    run = fleet_run(path, Output(chunk=(16, 32, 32), shard=(16, 32, 64)), job)
    plan = cut_small(run.plan(), (32, 64, 128))
    tasks = sum(level.tasks for level in plan.volumes[0].levels)
    started = [many.start() for _ in range(processes)]
    while not all([await asyncio.to_thread(many.ready, process) for process in started]):
        await asyncio.sleep(0.05)
    began = time.perf_counter()
    await many.begin(run, plan)
    while await many.done(job) < tasks:
        await asyncio.sleep(0.02)
    written = time.perf_counter() - began
    status = await many.ended(job, 600)
    assert status.state == "complete", status.error
    complete = time.perf_counter() - began
    for process in started:
        many.kill(process)
    return written, complete


async def main(rounds: int) -> None:
    found: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory(prefix="emporter-bench-") as folder:
        root = Path(folder)
        path = root / "volume.tif"
        tifffile.imwrite(path, np.random.default_rng(3).integers(0, 256, SHAPE, "uint8"), photometric="minisblack")
        with s3_server(root / "s3") as store, slow_proxy(int(str(store.s3_endpoint).rsplit(":", 1)[1]), DELAY) as proxy:
            far = store.model_copy(update={"s3_endpoint": f"http://127.0.0.1:{proxy.port}"})
            async with fleet(root, far) as many:
                for n in range(rounds):
                    for processes in (1, 2):
                        found[processes].append(await seconds(many, path, f"job-{n}-{processes}", processes))
    print("| converters | tasks written, s | to the commit, s | one / two: tasks (least to most) | to the commit |")
    print("|---|---|---|---|---|")
    for processes, times in found.items():
        medians = [statistics.median(t[k] for t in times) for k in (0, 1)]
        ratios = [[a[k] / b[k] for a, b in zip(found[1], times, strict=True)] for k in (0, 1)]
        said = [f"{statistics.median(r):.2f} ({min(r):.2f} to {max(r):.2f})" for r in ratios]
        print(f"| {processes} | {medians[0]:.2f} | {medians[1]:.2f} | {said[0]} | {said[1]} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    configure_logging("bench", "error")
    asyncio.run(main(parser.parse_args().rounds))
