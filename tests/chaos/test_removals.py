"""`emporter rm` and `emporter gc` are killed, as processes, wherever they then are: what is kept is whole, and a second run leaves
nothing that nobody needs. Revisions that only correct another show its arrays: those stay while one of them does.

`make test` kills each 4 times (gc on an S3 server once); `make chaos-catalog` sets EMPORTER_CHAOS_REMOVALS=20.
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
from emporter_contracts.commands import IngestRequest
from emporter_contracts.geometry import VoxelSize
from emporter_contracts.ids import VolumeRef
from emporter_contracts.jobs import JobState
from emporter_contracts.plans import (
    Commit,
    FetchPlan,
    Manifest,
    ManifestObject,
    PlannedObject,
    PlannedVolume,
    Segments,
    StoredRequest,
)
from emporter_contracts.revisions import Changes, Revising
from emporter_runtime.jobstore import now
from emporter_runtime.objects import Objects
from emporter_runtime.removal import remove
from emporter_runtime.runs import RunNote
from emporter_runtime.settings import Settings
from emporter_runtime.testing import s3_server
from emporter_runtime.testing_bus import provisioned

KILLS = int(os.environ.get("EMPORTER_CHAOS_REMOVALS", "4"))
SEED = int(os.environ.get("EMPORTER_CHAOS_SEED", "7"))
SIZES = {"file": (6, 60), "s3": (3, 30)}
"""Volumes, and shards of each of their revisions."""
UPLOADS = 150
MANY = {"file": 1200, "s3": 200}
"""Of a revision that is removed: a folder takes them away so fast that few would not be killed too late."""
DAY = 86400.0
Held = dict[str, bytes]

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3600)]


def batched(names: list[str], n: int) -> list[list[str]]:
    return [names[k : k + n] for k in range(0, len(names), n)]


class Store:
    """What a store holds, as names and bytes, and an `emporter` that works on it."""

    def __init__(self, settings: Settings, folder: Path, **environment: str) -> None:
        self.objects = Objects.open(settings)
        self._folder = folder
        given = settings.model_dump(exclude_none=True, include={"nats_url", "store_url", "s3_endpoint", "s3_access_key"})
        secret = {"s3_secret_key": settings.s3_secret_key.get_secret_value()}
        self._environment = os.environ | {f"EMPORTER_{k.upper()}": str(v) for k, v in {**given, **secret, **environment}.items()}

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
        names = sorted(await self.names())
        bodies: list[bytes] = []
        for some in batched(names, 32):
            bodies += await asyncio.gather(*(self.objects.get(*name.split("/", 1)) for name in some))
        return dict(zip(names, bodies, strict=True))


async def a_run(objects: Objects, job: str, state: JobState | None, days: float, revision: int = 1, shards: int = 10) -> None:
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
        await objects.put(storage.VOLUMES, storage.digests(job, revision), b"{}")
        await committed(objects, job, revision, days)


async def committed(objects: Objects, volume: str, revision: int, days: float, arrays: int | None = None) -> None:
    """What a revision has of its own, beside shards, and its commit."""
    for key in documents(volume, revision):
        await objects.put(storage.VOLUMES, key, b'{"status": "complete"}')
    done = now() - timedelta(days=days)
    commit = Commit(volume=volume, revision=revision, digest="d", job=volume, committed_at=done, arrays=arrays)
    await objects.put_json(storage.VOLUMES, storage.commit(volume, revision), commit)


def documents(volume: str, revision: int) -> tuple[str, ...]:
    group = storage.zarr_root(volume, revision) + "zarr.json"
    return group, storage.record(volume, revision), storage.provenance(volume, revision)


async def a_correction(objects: Objects, volume: str, revision: int, arrays: int, days: float) -> None:
    """A revision that shows the arrays of another."""
    at = now() - timedelta(days=days)
    change = Revising(volume=volume, revises=revision - 1, arrays=arrays, changes=Changes(name="x"), by="ada", at=at)
    request = IngestRequest(source="url", source_id="x")
    claim = StoredRequest(request=request, event_id=f"{volume}{revision}", received_at=at, revising=change)
    await objects.put_json(storage.RAW, storage.request(volume, revision), claim)
    await committed(objects, volume, revision, days, arrays)


async def filled(objects: Objects, kind: str, name: str = "url") -> list[str]:
    """Volumes of several revisions; runs that failed long ago, failed yesterday and go on. What of it `gc --keep 1` takes."""
    volumes, shards = SIZES[kind]
    doomed: list[str] = []
    for n in range(volumes):
        volume = f"{name}-v{n}"
        doomed += await (plain, corrected, outlived)[n % 3](objects, volume, shards)
    for n in range(volumes // 2):
        await a_run(objects, f"{name}-old{n}", JobState.FAILED, 8, shards=shards)
        doomed += of_revision(f"{name}-old{n}", 1)
    await a_run(objects, f"{name}-recent", JobState.FAILED, 1, shards=shards)
    await a_run(objects, f"{name}-running", None, 0, shards=shards)
    return doomed


async def plain(objects: Objects, volume: str, shards: int) -> list[str]:
    """Three revisions with arrays of their own: two of them go."""
    for revision in (1, 2, 3):
        await a_run(objects, volume, JobState.COMPLETE, 30 - revision, revision, shards)
    return [*of_revision(volume, 1), *of_revision(volume, 2)]


async def corrected(objects: Objects, volume: str, shards: int) -> list[str]:
    """The newest shows the arrays of the one before, of which only what it said goes."""
    doomed = await plain(objects, volume, shards)
    await a_correction(objects, volume, 4, 3, 20)
    return [*doomed, *(f"{storage.VOLUMES}/{key}" for key in documents(volume, 3))]


async def outlived(objects: Objects, volume: str, shards: int) -> list[str]:
    """A correction that outlived the revision whose arrays it shows, and is superseded: those arrays go with it."""
    for revision in (1, 2):
        await a_run(objects, volume, JobState.COMPLETE, 30 - revision, revision, shards)
    await a_correction(objects, volume, 3, 2, 25)
    await remove(objects, VolumeRef(volume, 2))
    await a_run(objects, volume, JobState.COMPLETE, 20, 4, shards)
    return [prefix for revision in (1, 2, 3) for prefix in of_revision(volume, revision)]


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
    objects = Objects.open(Settings(store_url=f"file://{template}"))
    doomed = [*await filled(objects, "file"), f"{storage.INBOX}/"]
    doomed += [f"{storage.RAW}/objects/origin-url-old{n}/" for n in range(SIZES["file"][0] // 2)]
    for n in range(UPLOADS):
        await objects.put(storage.INBOX, f"nobody{n % 3}/{n}.tif", b"12345")
    aged(template)
    killed = 0
    async with provisioned(tmp_path / "bus") as (bus, _):
        for n in range(KILLS):
            store = Store(Settings(store_url=copied(template, tmp_path / "store"), nats_url=bus.nats_url), tmp_path)
            killed += await collected_and_killed(store, doomed, n / KILLS * rng.uniform(0.5, 1))
    assert killed >= KILLS / 2, "most were killed before they were done"


async def test_a_killed_gc_on_an_s3_server_harms_nothing_that_is_kept_either(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    killed, rounds = 0, max(1, KILLS // 4)
    async with provisioned(tmp_path / "bus") as (bus, _), on("s3", tmp_path) as base:
        # A server says itself when an object came.
        store = Store(Settings(**base, nats_url=bus.nats_url), tmp_path, keep_unnamed_hours="0")
        for n in range(rounds):
            doomed = [*await filled(store.objects, "s3", f"url-{n}"), f"{storage.INBOX}/"]
            doomed += [f"{storage.RAW}/objects/origin-url-{n}-old{k}/" for k in range(SIZES["s3"][0] // 2)]
            for k in range(UPLOADS // 10):
                await store.objects.put(storage.INBOX, f"nobody{k % 3}/{k}.tif", b"12345")
            killed += await collected_and_killed(store, doomed, rng.uniform(0.1, 0.6))
    assert killed > 0, "some were killed before they were done"


async def collected_and_killed(store: Store, doomed: list[str], share: float) -> bool:
    """Kill `gc --keep 1` when it took away this share of what is `doomed`, then let another end it; whether it was killed."""
    before = await store.held()
    kept = without(before, *doomed)

    async def due() -> bool:
        return len(before.keys() - await store.names()) > (len(before) - len(kept)) * share

    killed = await store.killed_doing(("gc", "--keep", "1", "--yes"), due)
    check_kept(kept, await store.held())
    await store.do("gc", "--keep", "1", "--yes")
    check_exact(kept, await store.held())
    return killed


@pytest.mark.parametrize("kind", ["file", "s3"])
async def test_a_killed_rm_harms_no_other_revision_and_rm_or_gc_take_the_rest(tmp_path: Path, kind: str) -> None:
    rng = random.Random(SEED)
    killed = 0
    async with provisioned(tmp_path / "bus") as (bus, _), on(kind, tmp_path) as base:
        settings = Settings(**base, nats_url=bus.nats_url)
        store = Store(settings, tmp_path)
        for n in range(KILLS):
            name, again, shown = f"url-v{n}", ("rm", "gc")[n % 2], n % 4 > 1
            for revision in (1, 2, 3):
                await a_run(store.objects, name, JobState.COMPLETE, 3, revision, MANY[kind] if revision == 2 else 10)
            if shown:
                await a_correction(store.objects, name, 4, 2, 2)
            goes = [f"{storage.VOLUMES}/{key}" for key in documents(name, 2)] if shown else of_revision(name, 2)
            kept = without(await store.held(), *goes)

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
