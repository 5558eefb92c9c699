"""`emporter rm` and `emporter gc` are killed, as processes, wherever they then are: what is kept is whole, and a second run leaves
nothing that nobody needs.

`make test` kills each 4 times; `make chaos-catalog` sets EMPORTER_CHAOS_REMOVALS=20.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from emporter_contracts import storage
from emporter_contracts.geometry import VoxelSize
from emporter_contracts.jobs import JobState
from emporter_contracts.plans import Commit, FetchPlan, Manifest, ManifestObject, PlannedObject, PlannedVolume, Segments
from emporter_runtime.jobstore import now
from emporter_runtime.objects import Objects
from emporter_runtime.runs import RunNote
from emporter_runtime.settings import Settings
from emporter_runtime.testing import s3_server
from emporter_runtime.testing_bus import provisioned

KILLS = int(os.environ.get("EMPORTER_CHAOS_REMOVALS", "4"))
SEED = int(os.environ.get("EMPORTER_CHAOS_SEED", "7"))
VOLUMES = 6
SHARDS = 150
"""Of each revision."""
MANY = {"file": 1200, "s3": 200}
"""Of a revision that is removed: a folder takes them away so fast that few would not be killed too late."""
DAY = 86400.0
Held = dict[str, bytes]

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3600)]


class Store:
    """What a store holds, as names and bytes, and an `emporter` that works on it."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.objects = Objects.open(settings)
        self._folder = folder
        given = settings.model_dump(exclude_none=True, include={"nats_url", "store_url", "s3_endpoint", "s3_access_key"})
        secret = {"s3_secret_key": settings.s3_secret_key.get_secret_value()}
        self._environment = os.environ | {f"EMPORTER_{k.upper()}": str(v) for k, v in {**given, **secret}.items()}

    def begin(self, *words: str) -> subprocess.Popen[bytes]:
        # In a folder without a stack of its own: then the environment counts.
        command = [sys.executable, "-m", "emporter.cli.main", *words]
        return subprocess.Popen(
            command, env=self._environment, cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )

    async def do(self, *words: str) -> None:
        process = self.begin(*words)
        _, said = await asyncio.to_thread(process.communicate, None, 120)
        assert process.returncode == 0, said.decode()

    async def killed_doing(self, words: tuple[str, ...], due: Callable[[], Awaitable[bool]], pause: float = 0) -> bool:
        """Kill `emporter words…` a moment after something holds; whether it was not done before."""
        process = self.begin(*words)
        deadline = time.monotonic() + 120
        while process.poll() is None:
            if await due():
                await asyncio.sleep(pause)
                process.kill()
                break
            await asyncio.sleep(0)
            assert time.monotonic() < deadline
        _, said = await asyncio.to_thread(process.communicate)
        assert process.returncode in (0, -9), said.decode()
        return process.returncode == -9

    async def names(self) -> set[str]:
        buckets = (storage.INBOX, storage.RAW, storage.VOLUMES)
        return {f"{bucket}/{info.key}" for bucket in buckets async for info in self.objects.listing(bucket, "")}

    async def held(self) -> Held:
        return {name: await self.objects.get(*name.split("/", 1)) for name in await self.names()}


async def a_run(objects: Objects, job: str, state: JobState | None, days: float, revision: int = 1, shards: int = SHARDS) -> None:
    """A run that ended so many days ago: its documents, a raw object, its shards, and its commit where it is complete."""
    volume = PlannedVolume(
        volume=job, name=job, format="tiff", objects=(0,), shape=(1, 1, 1), dtype="uint8", voxel_size=VoxelSize(),
        role="image", source_shape=(1, 1, 1),
    )  # fmt: skip
    raw = PlannedObject(path="a", url="u", location=Segments(origin=f"origin-{job}"), bytes=5, version="v")
    plan = FetchPlan(job=job, revision=revision, source="url", source_id="x", objects=(raw,), volumes=(volume,), planned_at=now())
    await objects.put_json(storage.RAW, storage.plan(job, revision), plan)
    begun = RunNote(job=job, revision=revision, generation=1, at=now(), state="pending")
    await objects.put_json(storage.RAW, storage.generation(job, revision, 1), begun)
    await objects.put(storage.RAW, storage.segment(f"origin-{job}", 0), b"12345")
    root = storage.zarr_root(job, revision)
    await asyncio.gather(
        *(objects.put(storage.VOLUMES, f"{root}0/c/0/0/{n}", f"{job} {revision} {n}".encode()) for n in range(shards))
    )
    if state is None:
        return
    ended = RunNote(job=job, revision=revision, generation=1, at=now() - timedelta(days=days), state=state)
    await objects.put_json(storage.RAW, storage.generation_ended(job, revision, 1), ended)
    if state == JobState.COMPLETE:
        manifest = Manifest(
            job=job, revision=revision, objects=(ManifestObject(**raw.model_dump(), sha256="0"),), completed_at=now()
        )
        await objects.put_json(storage.RAW, storage.manifest(job, revision), manifest)
        await objects.put(storage.VOLUMES, storage.record(job, revision), b'{"status": "complete"}')
        done = now() - timedelta(days=days)
        await objects.put_json(
            storage.VOLUMES,
            storage.commit(job, revision),
            Commit(volume=job, revision=revision, digest="d", job=job, committed_at=done),
        )


async def filled(objects: Objects) -> None:
    """Volumes of three revisions; runs that failed long ago, failed yesterday and go on; uploads nobody asked for."""
    for n in range(VOLUMES):
        for revision in (1, 2, 3):
            await a_run(objects, f"url-v{n}", JobState.COMPLETE, 30 - revision, revision)
    for n in range(3):
        await a_run(objects, f"url-old{n}", JobState.FAILED, 8)
    await a_run(objects, "url-recent", JobState.FAILED, 1)
    await a_run(objects, "url-running", None, 0)
    for n in range(SHARDS):
        await objects.put(storage.INBOX, f"nobody{n % 3}/{n}.tif", b"12345")


def aged(folder: Path) -> None:
    """As if all of it were written a month ago."""
    then = time.time() - 30 * DAY
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))


def without(held: Held, *doomed: str) -> Held:
    """What is left when everything below these is gone."""
    return {name: body for name, body in held.items() if not name.startswith(doomed)}


def of_revision(volume: str, revision: int) -> tuple[str, str]:
    return f"{storage.VOLUMES}/{storage.zarr_root(volume, revision)}", f"{storage.VOLUMES}/{volume}/r{revision}/"


def new(name: str) -> bool:
    """What a removal itself writes: tombstones, and that a run can't be resumed."""
    return "/removed/" in name or name.endswith("/expired.json")


def check_kept(kept: Held, found: Held) -> None:
    lost = [name for name, body in kept.items() if found.get(name) != body]
    assert lost == []


def check_exact(kept: Held, found: Held) -> None:
    check_kept(kept, found)
    assert [name for name in found if name not in kept and not new(name)] == []


def copied(template: Path, folder: Path) -> str:
    """The URL of a fresh copy of a store, ages and all."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder)
    return f"file://{folder}"


async def test_a_killed_gc_harms_nothing_that_is_kept_and_the_next_leaves_nothing_that_is_not(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    template = tmp_path / "template"
    await filled(Objects.open(Settings(store_url=f"file://{template}")))
    aged(template)
    doomed = [prefix for v in range(VOLUMES) for r in (1, 2) for prefix in of_revision(f"url-v{v}", r)]
    doomed += [prefix for v in range(3) for prefix in of_revision(f"url-old{v}", 1)]
    doomed += [f"{storage.RAW}/objects/origin-url-old{v}/" for v in range(3)]
    killed = 0
    async with provisioned(tmp_path / "bus") as (bus, _):
        for n in range(KILLS):
            store = Store(Settings(store_url=copied(template, tmp_path / "store"), nats_url=bus.nats_url), tmp_path)
            before = await store.held()
            kept = without(before, *doomed, f"{storage.INBOX}/")
            doomed_now = (len(before) - len(kept)) * n / KILLS * rng.uniform(0.5, 1)

            async def due(store: Store = store, names: set[str] = set(before), least: float = doomed_now) -> bool:  # noqa: B006
                return len(names - await store.names()) > least

            killed += await store.killed_doing(("gc", "--keep", "1", "--yes"), due)
            check_kept(kept, await store.held())
            await store.do("gc", "--keep", "1", "--yes")
            check_exact(kept, await store.held())
    assert killed >= KILLS / 2, "most were killed before they were done"


@pytest.mark.parametrize("kind", ["file", "s3"])
async def test_a_killed_rm_harms_no_other_revision_and_rm_or_gc_take_the_rest(tmp_path: Path, kind: str) -> None:
    rng = random.Random(SEED)
    killed = 0
    async with provisioned(tmp_path / "bus") as (bus, _), on(kind, tmp_path) as base:
        settings = Settings(**base, nats_url=bus.nats_url)
        store = Store(settings, tmp_path)
        for n in range(KILLS):
            name, again = f"url-v{n}", ("rm", "gc")[n % 2]
            for revision in (1, 2, 3):
                await a_run(store.objects, name, JobState.COMPLETE, 3, revision, MANY[kind] if revision == 2 else 10)
            kept = without(await store.held(), *of_revision(name, 2))

            async def due(stone: str = storage.tombstone(name, 2)) -> bool:
                return await store.objects.exists(storage.VOLUMES, stone)

            killed += await store.killed_doing(("rm", f"{name}@r2", "--yes"), due, n / KILLS * rng.uniform(0, 0.1))
            check_kept(kept, await store.held())
            await store.do(*(("rm", f"{name}@r2", "--yes") if again == "rm" else ("gc", "--yes")))
            check_exact(kept, await store.held())
    assert killed > 0, "some were killed before they were done"


@asynccontextmanager
async def on(kind: str, folder: Path) -> AsyncIterator[dict[str, object]]:
    if kind == "file":
        yield {"store_url": f"file://{folder}/store"}
        return
    with s3_server(folder / "s3") as store:
        yield store.model_dump(exclude_none=True)
