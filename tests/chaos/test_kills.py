"""Any process may be killed at any moment: the volume is exact, the facts are said once, nothing is left behind."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import nats
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from emporter.testing import RunningStack, kill_supervisor, running_stack
from emporter_archives.server import FileServer
from emporter_contracts import storage, subjects
from emporter_contracts.commands import IngestRequest
from emporter_contracts.jobs import JobState, JobStatus
from emporter_runtime.reconcile import reconcile

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

SHAPE = (250, 1024, 2048)
"""500 MB of 8-bit voxels: eight segments to fetch, dozens of shards to write."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, NDArray[Any]]]:
    """A TIFF of SHAPE and its voxels: one noisy plane, rolled a little from slice to slice, so that no two are alike."""
    folder = tmp_path_factory.mktemp("source")
    plane = np.random.default_rng(7).integers(0, 256, SHAPE[1:], "uint8")
    data = np.stack([np.roll(plane, 13 * z) for z in range(SHAPE[0])])
    path = folder / "large.tif"
    tifffile.imwrite(path, data, photometric="minisblack", contiguous=True)
    yield path, data
    shutil.rmtree(folder)


async def bus_state(stack: RunningStack, wildcard: str) -> tuple[dict[str, int], dict[str, int]]:
    """(messages left in the work queues, events that match) by stream and subject."""
    settings = stack.settings()
    assert settings.nats_password is not None
    connection = await nats.connect(
        settings.nats_url, user=settings.nats_user, password=settings.nats_password.get_secret_value()
    )
    js = connection.jetstream()
    left = {name: (await js.stream_info(name)).state.messages for name in ("INGEST", "FETCH", "CONVERT")}
    events = (await js.stream_info("EVENTS", subjects_filter=wildcard)).state.subjects or {}
    await connection.close()
    return left, events


def until_ended(stack: RunningStack, job: str, seconds: float = 600) -> JobStatus:
    """The end state, asked again and again by clients that may lose their bus."""
    found: list[JobStatus] = []

    def ended() -> bool:
        try:
            status = stack.client().status(job)
        except Exception:
            return False
        finally:
            stack.close_clients()
        found.append(status)
        return not status.state.running

    stack.until(ended, f"{job} ends", seconds)
    return found[-1]


def check_exact(stack: RunningStack, job: str, data: NDArray[Any]) -> None:
    """Every voxel, in slabs, from the committed volume; the completion said once; no command left."""
    (volume,) = stack.client().volumes_of(job)
    for z in range(0, data.shape[0], 25):
        slab = stack.client().block(volume, (z, 0, 0), (min(25, data.shape[0] - z), *data.shape[1:]))
        np.testing.assert_array_equal(slab, data[z : z + 25])
    stack.until(
        lambda: (
            asyncio.run(bus_state(stack, subjects.volume_complete(job, 1)))
            == ({"INGEST": 0, "FETCH": 0, "CONVERT": 0}, {subjects.volume_complete(job, 1): 1})
        ),
        "queues are empty and the volume was said complete once",
    )


def test_every_service_and_the_bus_killed_at_random_points_of_one_ingest(
    tmp_path: Path, archive: FileServer, source: tuple[Path, NDArray[Any]]
) -> None:
    path, data = source
    url = archive.put("/large.tif", path.read_bytes())
    rng = random.Random(11)
    with running_stack(tmp_path / "stack") as stack:
        job = stack.client().ingest(IngestRequest(source="url", source_id=url)).job
        stack.close_clients()
        for name in ("fetcher", "cataloger", "converter", "nats", "converter", "block-server"):
            start = _share(stack, job)
            due = start + rng.uniform(0.1, 0.4) * (1 - start)
            stack.until(partial(_reached, stack, job, due), f"before {name} dies", 300)
            pid = stack.kill(name)
            stack.restarted(name, after=pid)
        status = until_ended(stack, job)
        assert status.state == JobState.COMPLETE, status.error
        check_exact(stack, job, data)
        stack.until(lambda: _catalogued(stack, job) == "complete", "the catalog caught up")


def test_a_wiped_bus_is_reconciled_and_nothing_stored_is_fetched_again(
    tmp_path: Path, archive: FileServer, source: tuple[Path, NDArray[Any]]
) -> None:
    path, data = source
    url = archive.put("/large.tif", path.read_bytes())
    with running_stack(tmp_path / "stack") as stack:
        job = stack.client().ingest(IngestRequest(source="url", source_id=url)).job
        stack.until(lambda: _converting(stack, job), "all is fetched, and the conversion began", 300)
        stack.close_clients()
        fetched = archive.sent["/large.tif"]
        process = stack.freeze("nats")
        shutil.rmtree(stack.dir / "nats", ignore_errors=True)
        process.kill()
        stack.restarted("nats", after=process.pid)
        found = asyncio.run(reconcile(stack.settings()))
        assert job in found.restored
        status = until_ended(stack, job)
        assert status.state == JobState.COMPLETE, status.error
        assert archive.sent["/large.tif"] == fetched
        check_exact(stack, job, data)


def test_a_finisher_frozen_and_woken_late_moves_nothing_backwards(tmp_path: Path, archive: FileServer) -> None:
    data = np.random.default_rng(3).integers(0, 255, (64, 512, 512), "uint8")
    path = tmp_path / "late.tif"
    tifffile.imwrite(path, data, photometric="minisblack")
    url = archive.put("/late.tif", path.read_bytes())
    with running_stack(tmp_path / "stack") as stack:
        client = stack.client()
        job = client.ingest(IngestRequest(source="url", source_id=url)).job
        stack.until(lambda: client.status(job).state in (JobState.SAVING, JobState.COMPLETE), "it is being committed", 120)
        frozen = stack.freeze("converter")
        process = stack.process("converter")
        assert process.pid == frozen.pid
        # The supervisor keeps one converter, so the second one is started by hand, as another machine would.
        with a_second_converter(stack):
            status = until_ended(stack, job, 180)
            assert status.state == JobState.COMPLETE, status.error
            before = asyncio.run(stack.objects().get(storage.VOLUMES, storage.commit(job, 1)))
            frozen.resume()
            again = stack.client().ingest(IngestRequest(source="url", source_id=url, force="convert"))
            assert until_ended(stack, again.job, 180).revision == 2
            assert asyncio.run(stack.objects().get(storage.VOLUMES, storage.commit(job, 1))) == before
            np.testing.assert_array_equal(stack.client().block(f"{job}@r2", (0, 0, 0), data.shape), data)


def test_a_killed_supervisor_leaves_no_child_and_up_again_resumes(tmp_path: Path, archive: FileServer) -> None:
    data = np.random.default_rng(5).integers(0, 255, (200, 512, 512), "uint8")
    path = tmp_path / "resume.tif"
    tifffile.imwrite(path, data, photometric="minisblack")
    url = archive.put("/resume.tif", path.read_bytes())
    with running_stack(tmp_path / "stack") as stack:
        job = stack.client().ingest(IngestRequest(source="url", source_id=url)).job
        stack.close_clients()
        children = [stack.process(name) for name in ("nats", "s3", "fetcher", "converter", "cataloger", "block-server")]
        kill_supervisor(stack)
        stack.until(lambda: not any(p.is_running() and p.status() != "zombie" for p in children), "no child is left")
    with running_stack(tmp_path / "stack") as stack:
        status = until_ended(stack, job)
        assert status.state == JobState.COMPLETE, status.error
        (volume,) = stack.client().volumes_of(job)
        np.testing.assert_array_equal(stack.client().block(volume, (0, 0, 0), data.shape), data)


def a_second_converter(stack: RunningStack) -> Any:
    """Another converter on the same bus and store."""
    import json
    import os
    import subprocess
    import sys
    from contextlib import contextmanager

    @contextmanager
    def running() -> Iterator[None]:
        operator = json.loads(stack.files.operator.read_text())
        waits = {"EMPORTER_ACK_WAIT_SECONDS": "3", "EMPORTER_SWEEP_SECONDS": "0.5"}
        env = {**os.environ, **waits, **{f"EMPORTER_{k.upper()}": str(v) for k, v in operator.items()}}
        process = subprocess.Popen([sys.executable, "-m", "converter"], env=env, stderr=subprocess.DEVNULL)
        try:
            yield
        finally:
            process.kill()
            process.wait()

    return running()


def _reached(stack: RunningStack, job: str, share: float) -> bool:
    return _share(stack, job) >= share


def _converting(stack: RunningStack, job: str) -> bool:
    status = stack.client().status(job)
    return status.fetch.done == status.fetch.total > 0 and status.convert.done > 0


def _share(stack: RunningStack, job: str) -> float:
    """How much of fetch and conversion is done, 0 to 1; 1 when it is over."""
    try:
        status = stack.client().status(job)
    except Exception:
        return 0.0
    finally:
        stack.close_clients()
    if not status.state.running or status.state == JobState.SAVING:
        return 1.0
    fetch = status.fetch.done / status.fetch.total if status.fetch.total else 0.0
    convert = status.convert.done / status.convert.total if status.convert.total else 0.0
    return (fetch + convert) / 2


def _catalogued(stack: RunningStack, volume: str) -> str:
    try:
        return str(stack.client().record(volume)["status"])
    except Exception:
        return "unknown"
    finally:
        stack.close_clients()
