"""The whole service path as a contender of the conversion bench: a request on the bus until its job is complete."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import psutil

from emporter.testing import RunningStack, running_stack
from emporter_contracts import storage
from emporter_contracts.commands import IngestRequest

WORKING = ("fetcher", "converter", "s3")
"""Whose CPU time counts; the bus and the catalog take next to none."""


class Service:
    """One stack with a store of its own; every conversion is a job of its own over a hard link of the input."""

    def __init__(self, stack: RunningStack, root: Path) -> None:
        self._stack = stack
        self._root = root

    @classmethod
    @contextmanager
    def running(cls, root: Path, store: str) -> Iterator[Service]:
        links = root / f"links-{store}"
        links.mkdir()
        kind = cast("Literal['file', 's3']", store)
        with running_stack(root / f"stack-{store}", store=kind, file_roots={"bench": links}) as stack:
            stack.until_ready()
            yield cls(stack, links)

    def convert(self, source: Path, name: str, voxels: Any) -> dict[str, Any]:
        """From request to complete; compared with `voxels` where they are given."""
        linked = self._root / f"{name}{source.suffix}"
        if source.is_dir():
            shutil.copytree(source, linked, copy_function=os.link)
        else:
            os.link(source, linked)
        processes = [self._stack.process(n) for n in WORKING if n in self._stack.urls.processes]
        converter = self._stack.process("converter")
        # Ask the kernel to forget earlier peaks.
        Path(f"/proc/{converter.pid}/clear_refs").write_text("5")
        readers = [self._stack.process("fetcher"), converter]
        worked, read = self._cpu(processes), self._read(readers)
        client, began = self._stack.client(), time.perf_counter()
        status = client.wait(client.ingest(IngestRequest(source="file-root", source_id=f"bench/{linked.name}")).job)
        seconds = time.perf_counter() - began
        if status.state != "complete":
            return {"error": f"{status.state}: {status.error and status.error.message}"}
        result = {"seconds": seconds, "cpu": self._cpu(processes) - worked, "read": self._read(readers) - read}
        text = Path(f"/proc/{converter.pid}/status").read_text()
        volume = status.volumes[0].volume
        sizes = asyncio.run(self._sizes(volume))
        result |= {"rss": int(text.split("VmHWM:")[1].split()[0]) * 1024, "objects": len(sizes), "stored": sum(sizes)}
        if voxels is not None and not np.array_equal(client.block(f"{volume}@r1", (0, 0, 0), voxels.shape), voxels):
            result["error"] = "level 0 is not the input"
        self._stack.close_clients()
        return result

    async def _sizes(self, volume: str) -> list[int]:
        return [i.size async for i in self._stack.objects().listing(storage.VOLUMES, storage.zarr_root(volume, 1))]

    def _cpu(self, processes: list[psutil.Process]) -> float:
        return sum(sum(p.cpu_times()[:2]) for p in processes)

    def _read(self, processes: list[psutil.Process]) -> int:
        """What fetcher and converter asked the system for: files, and what came over sockets."""
        return sum(int(p.io_counters().read_chars) for p in processes)
