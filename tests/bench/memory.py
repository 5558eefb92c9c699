"""Peak resident memory of every service while one large file goes all the way: `python tests/bench/memory.py [GB …]`.

`--rss`: 1, 4 and 16 GB at one budget, which is what "flat" means; a size the disk has no room for is said and left out.

The kernel's own high-water mark (VmHWM) of each process is read, so no peak is missed between two looks.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile

from emporter.testing import RunningStack, running_stack
from emporter_contracts.commands import IngestRequest

PLANE = (4096, 4096)
RSS_SIZES = [1.0, 4.0, 16.0]
SERVICES = ("fetcher", "converter", "cataloger", "block-server")


def peak_mb(stack: RunningStack, name: str) -> float:
    """VmHWM of a process, in MB."""
    status = Path(f"/proc/{stack.process(name).pid}/status").read_text()
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert match is not None
    return int(match[1]) * 1024 / 1e6


def write_volume(path: Path, gigabytes: float) -> tuple[int, int, int]:
    """A BigTIFF of noise in four of eight bits, plane by plane, never whole in memory: half of it is stored, so the disk holds 16 GB."""
    planes = max(1, round(gigabytes * 1e9 / (PLANE[0] * PLANE[1])))
    plane = np.random.default_rng(1).integers(0, 16, PLANE, "uint8")
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for z in range(planes):
            writer.write(np.roll(plane, 17 * z), photometric="minisblack", contiguous=True)
    return (planes, *PLANE)


def measure(gigabytes: float, store: str, memory: int) -> None:
    with tempfile.TemporaryDirectory(prefix="emporter-bench-") as folder:
        root = Path(folder)
        shape = write_volume(root / "large.tif", gigabytes)
        env = {"EMPORTER_CONVERTER_MEMORY_BYTES": str(memory)}
        with running_stack(root / "stack", store=store, env=env, file_roots={"bench": root}) as stack:  # type: ignore[arg-type]
            client = stack.client()
            began = time.monotonic()
            status = client.wait(client.ingest(IngestRequest(source="file-root", source_id="bench/large.tif")).job)
            seconds = time.monotonic() - began
            assert status.state == "complete", status.error
            peaks = ", ".join(f"{name} {peak_mb(stack, name):.0f}" for name in SERVICES)
            size = np.prod(shape, dtype=np.int64) / 1e6
            print(f"| {gigabytes:g} GB | {store} | {memory / 1e6:.0f} | {peaks} | {seconds:.0f} s, {size / seconds:.0f} MB/s |")


def room(gigabytes: float) -> bool:
    """Whether the disk has room for the input, what is stored of it, and some more."""
    return shutil.disk_usage(tempfile.gettempdir()).free > (1.8 * gigabytes + 3) * 1e9


def main(arguments: list[str]) -> None:
    print("| input | store | converter budget, MB | peak RSS, MB | request to commit |")
    print("|---|---|---|---|---|")
    sizes = RSS_SIZES if "--rss" in arguments else [float(a) for a in arguments] or [1.0, 4.0]
    for wanted in sizes:
        if room(wanted):
            measure(wanted, "file", 2**30)
        else:
            print(f"| {wanted:g} GB | | | left out: the disk has no room for it | |")


if __name__ == "__main__":
    main(sys.argv[1:])
