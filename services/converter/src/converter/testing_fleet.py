"""Several converter processes on one job, with a bus and a store of their own, no other service. For tests and measurements."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from converter.testing import Run, run_of
from emporter_contracts import storage, subjects
from emporter_contracts.commands import Output
from emporter_contracts.events import ConvertDone
from emporter_contracts.geometry import Shape3, VoxelSize
from emporter_contracts.jobs import JobState, JobStatus
from emporter_contracts.plans import ConversionPlan, FileRootPath, ManifestObject, PlannedVolume, StoredRequest
from emporter_readers.array import FileSource
from emporter_readers.discover import discover, open_volume
from emporter_readers.protocol import Hints
from emporter_runtime.bus import Bus
from emporter_runtime.file_roots import version_of
from emporter_runtime.jobstore import JobStore
from emporter_runtime.ledger import Ledger
from emporter_runtime.objects import Objects
from emporter_runtime.settings import Settings, StoreSettings
from emporter_runtime.testing_bus import free_port, provisioned

ROOT = "here"


@dataclass(slots=True)
class Fleet:
    """Converters, and what they work with."""

    folder: Path
    settings: Settings
    bus: Bus
    objects: Objects
    memory: int
    ports: dict[int, int] = field(default_factory=dict)
    logs: dict[int, Path] = field(default_factory=dict)
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def jobs(self) -> JobStore:
        return JobStore(self.bus, self.objects)

    @property
    def temporary(self) -> Path:
        """Where converters would put temporary files."""
        return self.folder / "tmp"

    def start(self) -> subprocess.Popen[bytes]:
        """One more converter."""
        port = free_port()
        values: dict[str, object] = {
            **self.settings.model_dump(mode="json", exclude_none=True, exclude={"s3_secret_key", "nats_password"}),
            "s3_secret_key": self.settings.s3_secret_key.get_secret_value(),
            "http_port": port,
            "converter_memory_bytes": self.memory,
            "file_roots": json.dumps({ROOT: str(self.folder)}),
        }
        env = {f"EMPORTER_{name.upper()}": str(value) for name, value in values.items()}
        path = self.folder / f"converter-{time.monotonic_ns()}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "converter"],
                env={**os.environ, **env, "TMPDIR": str(self.temporary)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.ports[process.pid], self.logs[process.pid] = port, path
        self.running.append(process)
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """kill -9."""
        process.kill()
        process.wait()
        self.running.remove(process)

    def last_words(self) -> list[str]:
        """The end of what each converter wrote that ended by itself."""
        dead = [process.pid for process in self.running if process.poll() is not None]
        return [self.logs[pid].read_text(errors="replace")[-2000:] for pid in dead]

    def shards(self, process: subprocess.Popen[bytes]) -> int:
        """Shards that a converter wrote so far, by its metrics; 0 while it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[process.pid]}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return 0
        return next((int(float(line.split()[1])) for line in lines if line.startswith("emporter_shards_written_total ")), 0)

    def ready(self, process: subprocess.Popen[bytes]) -> bool:
        """Whether a converter takes commands."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[process.pid]}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    async def begin(self, run: Run, plan: ConversionPlan) -> JobStatus:
        """A job whose fetch is complete and whose conversion is planned, not yet begun."""
        job = run.fetch.job
        claim = StoredRequest(request=run.request, event_id="1", received_at=run.fetch.planned_at)
        await self.objects.put_json(storage.RAW, storage.request(job, 1), claim)
        await self.objects.put_json(storage.RAW, storage.plan(job, 1), run.fetch)
        await self.objects.put_json(storage.RAW, storage.manifest(job, 1), run.manifest)
        await self.objects.put_json(storage.RAW, storage.conversion(job, 1), plan)
        return await self.jobs.move(await self.jobs.begin(job, run.request, 1, 1), JobState.PROCESSING)

    async def entries(self, job: str) -> list[ConvertDone]:
        """Everything in the ledger."""
        return [e async for e in Ledger(self.bus).entries(subjects.convert_dones(job, 1), ConvertDone)]

    async def done(self, job: str) -> int:
        return await Ledger(self.bus).count(subjects.convert_dones(job, 1))

    async def ended(self, job: str, seconds: float) -> JobStatus:
        """The state in which the job ended."""
        async with asyncio.timeout(seconds):
            while (status := await self.jobs.read(job)) is None or status.state.running:
                await asyncio.sleep(0.05)
        return status


def fleet_run(path: Path, output: Output, job: str) -> Run:
    """A run of a job of one volume over a file, read in place."""
    found = discover([FileSource(path.name, path)], Hints())[0]
    volume = PlannedVolume(
        volume=job, name=path.stem, format=found.format, objects=(0,), select=found.select, axes=found.axes, shape=found.shape,
        dtype=found.dtype, voxel_size=VoxelSize(), role="image", source_shape=found.shape,
    )  # fmt: skip
    run = run_of(open_volume([FileSource(path.name, path)], found), volume, output)
    held = ManifestObject(
        path=path.name, url="", location=FileRootPath(root=ROOT, path=path.name), bytes=path.stat().st_size,
        sha256="0" * 64, version=version_of(path.stat()),
    )  # fmt: skip
    run.fetch = run.fetch.model_copy(update={"archive": {}})
    run.manifest = run.manifest.model_copy(update={"objects": (held,), "archive": {}})
    return run


def cut_small(plan: ConversionPlan, task: Shape3) -> ConversionPlan:
    """The plan with a task for every `task` voxels of level 0, level 1 fused with it, and the levels above on their own."""
    volume = plan.volumes[0]
    first, second, *others = volume.levels
    z, y, x = (n // f for n, f in zip(task, second.factor, strict=True))
    cut = (
        first.model_copy(update={"task": task, "band": task}),
        second.model_copy(update={"task": (z, y, x), "band": second.shard, "fused": True}),
        *(level.model_copy(update={"fused": False, "task": level.shard, "band": level.shard}) for level in others),
    )
    return plan.model_copy(update={"volumes": (volume.model_copy(update={"levels": cut}),)})


@asynccontextmanager
async def fleet(folder: Path, store: StoreSettings | None = None, memory: int = 384 * 2**20) -> AsyncIterator[Fleet]:
    """A bus, and a store in `folder` unless one is given; all converters are killed on leaving."""
    values = store.model_dump(exclude_unset=True) if store is not None else {}
    async with provisioned(folder, **{**values, "ack_wait_seconds": 3.0}) as (settings, _):
        bus = Bus(settings, "fleet")
        await bus.broker.connect()
        made = Fleet(folder, settings, bus, Objects.open(settings), memory)
        made.temporary.mkdir()
        try:
            yield made
        finally:
            for process in list(made.running):
                made.kill(process)
            await bus.broker.stop()
