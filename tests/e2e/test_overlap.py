"""Conversion begins while the archive is still sending: what that speeds up, and what it may never change."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from emporter.testing import RunningStack
from emporter_archives.server import FileServer
from emporter_contracts import storage
from emporter_contracts.commands import IngestRequest, Output
from emporter_contracts.jobs import JobState, JobStatus

pytestmark = pytest.mark.timeout(600)

SHAPE = (320, 1024, 1024)
"""335 MB of 8-bit voxels: two tasks of level 0, the first of which needs the first 16 of 20 chunks."""
DEPTH = 16
LAST = SHAPE[0] // DEPTH - 1


@pytest.fixture(scope="module")
def voxels() -> NDArray[np.uint8]:
    """A coarse plane that compresses, rolled from slice to slice, so that no two are alike."""
    plane = np.random.default_rng(7).integers(0, 256, (64, 64), "uint8").repeat(16, 0).repeat(16, 1)
    return np.stack([np.roll(plane, (z, 3 * z), (0, 1)) for z in range(SHAPE[0])])


@pytest.fixture(scope="module")
def stored(voxels: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The voxels as Zarr v2."""
    folder = tmp_path_factory.mktemp("zarr") / "array.zarr"
    array = zarr.create_array(
        str(folder), shape=SHAPE, chunks=(DEPTH, *SHAPE[1:]), dtype="uint8", zarr_format=2,
        chunk_key_encoding={"name": "v2", "separator": "/"},
    )  # fmt: skip
    array[:] = voxels
    return folder


class Slow:
    """An archive that holds back the last chunk until it is told to send it."""

    def __init__(self, archive: FileServer, folder: Path, name: str) -> None:
        self.archive = archive
        self.last = f"/{name}/{LAST}/0/0"
        for path in folder.rglob("*"):
            if path.is_file():
                archive.put(f"/{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        archive.held.add(self.last)
        self.request = IngestRequest(source="url", source_id=archive.url(f"/{name}/"))

        self.size = len(archive.files[self.last].content)

    def release(self) -> None:
        self.archive.held.discard(self.last)

    def change(self) -> None:
        """Break off, and have another object under that name from now on."""
        self.archive.put(self.last, b"something else" * 100)
        self.archive.torn.add(self.last)
        self.release()

    @property
    def holds_back(self) -> bool:
        return self.archive.sent[self.last] < self.size


def done(stack: RunningStack, job: str, level: int = 0) -> int:
    """Tasks of a level that are in the ledger, as the job's state says."""
    status = stack.client().status(job)
    stack.close_clients()
    levels = status.volumes[0].levels if status.volumes else ()
    return levels[level].done if levels else 0


def ended(stack: RunningStack, job: str) -> JobStatus:
    status: list[JobStatus] = []

    def over() -> bool:
        try:
            status.append(stack.client().status(job))
        finally:
            stack.close_clients()
        return not status[-1].state.running

    stack.until(over, f"{job} ends", 300)
    return status[-1]


def exact(stack: RunningStack, job: str, expected: NDArray[Any]) -> None:
    (volume,) = stack.client().volumes_of(job)
    for z in range(0, SHAPE[0], 40):
        slab = stack.client().block(volume, (z, 0, 0), (40, *SHAPE[1:]))
        np.testing.assert_array_equal(slab, expected[z : z + 40])


def exists(stack: RunningStack, bucket: str, key: str) -> bool:
    return asyncio.run(stack.objects().exists(bucket, key))


def test_tasks_are_done_before_the_last_object_is_fetched_and_a_second_request_fetches_nothing(
    stack: RunningStack, archive: FileServer, stored: Path, voxels: NDArray[np.uint8]
) -> None:
    slow = Slow(archive, stored, "slow.zarr")
    job = stack.client().ingest(slow.request).job
    stack.until(lambda: done(stack, job) == 1, "a task is done while the archive holds back the last object", 240)
    assert slow.holds_back
    assert not exists(stack, storage.RAW, storage.manifest(job, 1))
    assert stack.client().status(job).state == JobState.PROCESSING
    slow.release()
    status = ended(stack, job)
    assert status.state == JobState.COMPLETE, status.error
    exact(stack, job, voxels)
    sent = dict(archive.sent)
    other = stack.client().ingest(slow.request.model_copy(update={"output": Output(chunk=(32, 128, 128))}))
    assert ended(stack, other.job).state == JobState.COMPLETE
    again = stack.client().ingest(slow.request.model_copy(update={"force": "convert"}))
    assert ended(stack, again.job).revision == 2
    # Planning looks at the first byte of each, to learn sizes and versions.
    fetched = {path for path in sent if archive.sent[path] - sent[path] > 1}
    assert not {path for path in fetched if path.endswith("/0/0")}


def test_fetcher_and_converter_killed_while_they_overlap_leave_exact_voxels(
    stack: RunningStack, archive: FileServer, stored: Path, voxels: NDArray[np.uint8]
) -> None:
    slow = Slow(archive, stored, "killed.zarr")
    job = stack.client().ingest(slow.request).job
    key = storage.conversion(job, 1)
    stack.until(lambda: exists(stack, storage.RAW, key), "the conversion is planned from what is there", 240)
    planned = asyncio.run(stack.objects().get(storage.RAW, key))
    for name in ("converter", "fetcher", "converter"):
        pid = stack.kill(name)
        stack.restarted(name, after=pid)
    stack.until(lambda: done(stack, job) == 1, "a task is done", 240)
    assert slow.holds_back
    pid = stack.kill("converter")
    slow.release()
    stack.restarted("converter", after=pid)
    status = ended(stack, job)
    assert status.state == JobState.COMPLETE, status.error
    assert asyncio.run(stack.objects().get(storage.RAW, key)) == planned
    exact(stack, job, voxels)


def test_a_late_object_that_changed_commits_nothing_and_says_so(stack: RunningStack, archive: FileServer, stored: Path) -> None:
    slow = Slow(archive, stored, "changed.zarr")
    job = stack.client().ingest(slow.request).job
    stack.until(lambda: done(stack, job) == 1, "a task is done", 240)
    slow.change()
    status = ended(stack, job)
    assert status.state == JobState.FAILED
    assert status.error is not None
    assert status.error.code == "source_changed"
    assert str(LAST) in status.error.message
    assert status.error.hint
    assert not exists(stack, storage.VOLUMES, storage.commit(job, 1))
    assert not exists(stack, storage.RAW, storage.manifest(job, 1))


def test_a_cancelled_overlap_stops_both_stages(stack: RunningStack, archive: FileServer, stored: Path) -> None:
    slow = Slow(archive, stored, "cancelled.zarr")
    job = stack.client().ingest(slow.request).job
    stack.until(lambda: done(stack, job) == 1, "a task is done", 240)
    stack.client().cancel(job)
    slow.release()
    assert ended(stack, job).state == JobState.CANCELLED
    assert not exists(stack, storage.VOLUMES, storage.commit(job, 1))
