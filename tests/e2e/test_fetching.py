"""What an archive and several fetchers do to each other: patience, sharing, and never asking twice for what is stored."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from emporter.testing import RunningStack, running_stack
from emporter_archives import arrays, epfl, openorganelle
from emporter_archives.faults import Status
from emporter_archives.s3 import S3Server
from emporter_archives.server import FileServer
from emporter_contracts.commands import IngestRequest, Output
from emporter_contracts.jobs import JobState

CHUNKS = "recon-2/em/fibsem-int16"
HEADERS = 300_000
"""Bytes that looking at headers again may cost."""


@pytest.fixture(scope="module")
def bucket() -> Iterator[S3Server]:
    with S3Server() as server:
        folder = f"{openorganelle.DATASET}/{openorganelle.DATASET}.zarr"
        chunks = arrays.zarr2(voxels(), (8, 8, 16), path="s0", compressor=openorganelle.ZSTD)
        tree = {".zgroup": b'{"zarr_format": 2}', ".zattrs": arrays.ome_zattrs(openorganelle.LEVELS[:1]), **chunks}
        server.put_all(folder, {".zgroup": b'{"zarr_format": 2}', "recon-2/.zgroup": b'{"zarr_format": 2}'})
        server.put_all(f"{folder}/{CHUNKS}", tree)
        yield server


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, bucket: S3Server) -> Iterator[RunningStack]:
    """A stack whose fetchers have one connection each to the bucket."""
    env = {"EMPORTER_OPENORGANELLE_ENDPOINT": bucket.url(""), "EMPORTER_OPENORGANELLE_CONNECTIONS": "1"}
    with running_stack(tmp_path_factory.mktemp("stack"), env={**env, "EMPORTER_SEGMENTS_IN_FLIGHT": "1"}) as running:
        yield running


def voxels() -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    return openorganelle.em((60, 70, 80))


def test_an_archive_that_is_down_for_longer_than_a_retry_is_waited_for_and_the_job_goes_on_by_itself(
    shared: RunningStack, archive: FileServer
) -> None:
    data = epfl.volume((12, 200, 300))
    url = archive.put("/later.tif", epfl.multipage(data))
    archive.always("/later.tif", Status(503))
    client = shared.client()
    job = client.ingest(IngestRequest(source="url", source_id=url)).job
    shared.until(lambda: client.status(job).waiting is not None, "the job waits")
    status = client.status(job)
    assert (status.waiting and status.waiting.reason, status.state.running) == ("host_down", True)
    archive.always("/later.tif", None)
    status = client.wait(job)
    assert (status.state, status.generation, status.waiting) == (JobState.COMPLETE, 1, None), status.error
    np.testing.assert_array_equal(client.block(job, (0, 0, 0), data.shape), data)


def test_another_chunk_size_downloads_nothing(shared: RunningStack, archive: FileServer) -> None:
    data = epfl.volume((6, 800, 800))
    url = archive.put("/once.tif", epfl.multipage(data))
    client = shared.client()
    first = client.wait(client.ingest(IngestRequest(source="url", source_id=url)).job)
    sent = archive.sent["/once.tif"]
    assert sent >= data.nbytes
    again = IngestRequest(source="url", source_id=url, output=Output(chunk=(3, 32, 32)))
    second = client.wait(client.ingest(again).job)
    assert (first.state, second.state) == (JobState.COMPLETE, JobState.COMPLETE)
    assert first.job != second.job
    assert archive.sent["/once.tif"] - sent < HEADERS < data.nbytes
    np.testing.assert_array_equal(client.block(second.job, (0, 0, 0), data.shape), data)
    assert shared.record(second.job)["metadata"]["technical"]["chunk"] == [3, 32, 32]


def test_two_fetchers_share_one_job_and_fetch_every_object_once(shared: RunningStack, bucket: S3Server) -> None:
    client = shared.client()
    bucket.requests.clear()
    bucket.open_most = 0
    bucket.pace = lambda path: 0.01 * ("/s0/" in path)
    with another_fetcher(shared, {"EMPORTER_OPENORGANELLE_ENDPOINT": bucket.url(""), "EMPORTER_OPENORGANELLE_CONNECTIONS": "1"}):
        job = client.ingest(IngestRequest(source="openorganelle", source_id=openorganelle.DATASET)).job
        status = client.wait(job)
    assert status.state == JobState.COMPLETE, status.error
    asked = Counter(request.path for request in bucket.requests if "/s0/" in request.path and request.path[-1].isdigit())
    assert len(asked) == 8 * 9 * 5
    assert set(asked.values()) == {1}
    # With one connection a process, two answers at once are of two processes.
    assert bucket.open_most >= 2
    np.testing.assert_array_equal(client.block(job, (0, 0, 0), (60, 70, 80)), voxels())


@contextmanager
def another_fetcher(stack: RunningStack, more: dict[str, str]) -> Iterator[None]:
    """On the same bus and store, as another machine would have it."""
    operator = json.loads(stack.files.operator.read_text())
    known = {f"EMPORTER_{name.upper()}": str(value) for name, value in operator.items()}
    waits = {"EMPORTER_ACK_WAIT_SECONDS": "3", "EMPORTER_SWEEP_SECONDS": "0.5", "EMPORTER_SEGMENTS_IN_FLIGHT": "1"}
    known["EMPORTER_URL_ALLOW_PRIVATE"] = "true"
    known["EMPORTER_HTTP_PORT"] = "0"
    with (stack.dir / "another-fetcher.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "fetcher"], env={**os.environ, **known, **waits, **more}, stderr=log, stdout=log
        )
        try:
            stack.until(lambda: (stack.dir / "another-fetcher.log").stat().st_size > 0, "another fetcher runs")
            yield
        finally:
            process.kill()
            process.wait()
