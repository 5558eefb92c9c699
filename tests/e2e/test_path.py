"""From request to block on a real stack: what a user does, what goes wrong, and what they then see."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import nats
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from emporter.testing import RunningStack
from emporter_archives.faults import Status
from emporter_archives.server import FileServer
from emporter_contracts import storage, subjects
from emporter_contracts.commands import IngestRequest, Region
from emporter_contracts.jobs import JobState, JobStatus
from emporter_runtime.errors import PermanentError


def voxels(shape: tuple[int, int, int], dtype: str = "uint8", seed: int = 0) -> NDArray[Any]:
    """Noise no codec and no wrong offset hides."""
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(info.min, info.max, shape, dtype, endpoint=True)


def a_tiff(folder: Path, data: NDArray[Any], name: str = "volume.tif", **options: Any) -> Path:
    path = folder / name
    tifffile.imwrite(path, data, photometric="minisblack", **options)
    return path


def served(archive: FileServer, path: Path) -> str:
    return archive.put(f"/{path.name}", path.read_bytes())


def ingest(stack: RunningStack, request: IngestRequest) -> JobStatus:
    client = stack.client()
    return client.wait(client.ingest(request).job)


def queued(stack: RunningStack) -> dict[str, int]:
    """Messages in every work queue."""

    async def count() -> dict[str, int]:
        settings = stack.settings()
        assert settings.nats_password is not None
        connection = await nats.connect(
            settings.nats_url, user=settings.nats_user, password=settings.nats_password.get_secret_value()
        )
        js = connection.jetstream()
        found = {name: (await js.stream_info(name)).state.messages for name in ("INGEST", "FETCH", "CONVERT")}
        await connection.close()
        return found

    return asyncio.run(count())


def events(stack: RunningStack, wildcard: str) -> dict[str, int]:
    async def listed() -> dict[str, int]:
        settings = stack.settings()
        assert settings.nats_password is not None
        connection = await nats.connect(
            settings.nats_url, user=settings.nats_user, password=settings.nats_password.get_secret_value()
        )
        info = await connection.jetstream().stream_info("EVENTS", subjects_filter=wildcard)
        await connection.close()
        return info.state.subjects or {}

    return asyncio.run(listed())


def test_a_url_becomes_a_volume_whose_every_block_is_the_archives(
    stack: RunningStack, archive: FileServer, tmp_path: Path
) -> None:
    data = voxels((70, 200, 333), "uint16")
    url = served(archive, a_tiff(tmp_path, data, compression="zlib"))
    status = ingest(stack, IngestRequest(source="url", source_id=url, voxel_size_nm=(50, 8, 8)))
    assert status.state == JobState.COMPLETE, status.error
    client = stack.client()
    (volume,) = client.volumes_of(status.job)
    rng = np.random.default_rng(1)
    for _ in range(10):
        start = [int(rng.integers(0, n)) for n in data.shape]
        stop = [int(rng.integers(a + 1, n + 1)) for a, n in zip(start, data.shape, strict=True)]
        shape = tuple(b - a for a, b in zip(start, stop, strict=True))
        block = client.block(volume, tuple(start), shape)  # type: ignore[arg-type]
        np.testing.assert_array_equal(block, data[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))])
    assert events(stack, f"convert.volume.complete.{status.job}.*") == {subjects.volume_complete(status.job, 1): 1}
    assert queued(stack) == {"INGEST": 0, "FETCH": 0, "CONVERT": 0}
    record = stack.record(volume)["metadata"]
    assert record["provenance"]["voxel_size"] == {"nm": [50.0, 8.0, 8.0], "said_by": ["user", "user", "user"]}


def test_a_region_is_cut_from_the_archives_own_index_and_says_where(stack: RunningStack, tmp_path: Path) -> None:
    data = voxels((20, 90, 100))
    a_tiff(Path(stack.root), data, "region.tif")  # type: ignore[attr-defined]
    region = Region(origin=(3, 10, 20), shape=(11, 64, 70))
    status = ingest(stack, IngestRequest(source="file-root", source_id="scope1/region.tif", region=region))
    assert status.state == JobState.COMPLETE, status.error
    client = stack.client()
    (volume,) = client.volumes_of(status.job)
    np.testing.assert_array_equal(client.block(volume, (0, 0, 0), (11, 64, 70)), data[3:14, 10:74, 20:90])
    assert stack.record(volume)["metadata"]["core"]["source_origin"] == [3, 10, 20]


def test_the_same_request_five_times_is_one_run(stack: RunningStack, archive: FileServer, tmp_path: Path) -> None:
    request = IngestRequest(source="url", source_id=served(archive, a_tiff(tmp_path, voxels((4, 64, 64)), "five.tif")))
    client = stack.client()
    answers = [client.ingest(request) for _ in range(5)]
    assert {a.job for a in answers} == {answers[0].job}
    assert [a.existing for a in answers] == [False, True, True, True, True]
    status = client.wait(answers[0].job)
    assert (status.revision, status.generation, status.state) == (1, 1, JobState.COMPLETE)


def test_other_content_under_the_same_name_is_another_volume(stack: RunningStack, tmp_path: Path) -> None:
    client = stack.client()
    jobs = []
    for seed in (1, 2):
        upload = client.upload([a_tiff(tmp_path, voxels((4, 32, 32), seed=seed), "same.tif")], name="same")
        jobs.append(client.wait(client.ingest(upload.request()).job))
    first, second = jobs
    assert first.job != second.job
    for seed, status in zip((1, 2), jobs, strict=True):
        (volume,) = client.volumes_of(status.job)
        np.testing.assert_array_equal(client.block(volume, (0, 0, 0), (4, 32, 32)), voxels((4, 32, 32), seed=seed))


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"no json at all", "invalid_request"),
        (b'{"source": "nowhere", "source_id": "1"}', "unknown_source"),
        (b'{"source": "url", "source_id": "http://x/y", "region": {"origin": [0,0,0], "shape": [0,1,1]}}', "invalid_request"),
        (b'{"source": "url", "source_id": "http://x/y", "region": {"origin": [-1,0,0], "shape": [1,1,1]}}', "invalid_request"),
        (json.dumps({"source": "url", "source_id": "http://x", "parameters": {"a": "b" * 400_000}}).encode(), "too_large"),
    ],
    ids=["not-json", "unknown-source", "empty-region", "negative-region", "too-large"],
)
def test_a_request_nobody_can_carry_out_is_answered_with_a_reason(stack: RunningStack, body: bytes, code: str) -> None:
    async def ask() -> dict[str, Any]:
        info = stack.urls
        from emporter.connection import find_connection

        known = find_connection(stack.dir)
        connection = await nats.connect(known.nats, user=known.nats_user, password=known.nats_password)
        heard = await connection.subscribe("reply.tok1")
        await connection.request("ingest.request", body, timeout=10, headers={"Emporter-Reply-To": "tok1"})
        answer = await heard.next_msg(timeout=20)
        await connection.close()
        assert info.nats
        said: dict[str, Any] = json.loads(answer.data)
        return said

    said = asyncio.run(ask())
    assert said["code"] == code
    assert said["message"]


def test_a_region_outside_the_volume_fails_with_its_shape(stack: RunningStack, tmp_path: Path) -> None:
    a_tiff(Path(stack.root), voxels((5, 6, 7)), "small.tif")  # type: ignore[attr-defined]
    region = Region(origin=(0, 0, 0), shape=(100_000, 6, 7))
    status = ingest(stack, IngestRequest(source="file-root", source_id="scope1/small.tif", region=region))
    assert status.state == JobState.FAILED
    assert status.error is not None
    assert "5" in status.error.message + status.error.hint


def test_a_truncated_tiff_fails_with_its_name_and_no_volume_appears(stack: RunningStack, tmp_path: Path) -> None:
    path = a_tiff(tmp_path, voxels((8, 256, 256)), "broken.tif", compression="zlib")
    path.write_bytes(path.read_bytes()[:-100_000])
    client = stack.client()
    status = client.wait(client.ingest(client.upload([path]).request()).job)
    assert status.state == JobState.FAILED
    assert status.error is not None
    assert "broken.tif" in status.error.message
    assert status.error.hint
    assert [v for v in client.volumes() if v["volume"].startswith(status.job) and v["status"] == "complete"] == []
    assert not asyncio.run(stack.objects().folders(storage.VOLUMES, storage.commits_prefix(status.job)))


def test_a_lost_shard_is_an_error_never_zeros(stack: RunningStack, tmp_path: Path) -> None:
    client = stack.client()
    status = client.wait(client.ingest(client.upload([a_tiff(tmp_path, voxels((6, 80, 80)), "lost.tif")]).request()).job)
    (volume,) = client.volumes_of(status.job)
    root = storage.zarr_root(status.job, 1)
    asyncio.run(stack.objects().delete(storage.VOLUMES, [root + storage.shard_key(0, (0, 0, 0))]))
    url = f"{stack.urls.blocks}/v1/volumes/{volume}/block"
    answer = httpx.get(url, params={"origin": "0,0,0", "shape": "6,80,80"}, timeout=30)
    assert answer.status_code in {502, 503}
    assert answer.headers["content-type"] == "application/problem+json"
    through = httpx.get(f"{stack.urls.blocks}/zarr/{volume}.ome.zarr/0/c/0/0/0", timeout=30)
    assert through.status_code == 502


def test_cancel_stops_and_shows_nothing_and_retry_writes_nothing_twice(
    stack: RunningStack, archive: FileServer, tmp_path: Path
) -> None:
    data = voxels((40, 300, 300), "uint16")
    path = a_tiff(tmp_path, data, "again.tif")
    url = served(archive, path)
    client = stack.client()
    archive.always("/again.tif", Status(503))
    job = client.ingest(IngestRequest(source="url", source_id=url)).job
    stack.until(lambda: client.status(job).waiting is not None, "the job waits for its archive")
    waiting = client.status(job).waiting
    assert waiting is not None
    assert waiting.next_try is not None
    assert client.cancel(job).state == "cancelled"
    assert client.wait(job).state == JobState.CANCELLED
    archive.always("/again.tif", None)
    assert client.retry(job).generation == 2
    status = client.wait(job)
    assert status.state == JobState.COMPLETE, status.error
    sent = archive.sent["/again.tif"]
    (volume,) = client.volumes_of(job)
    np.testing.assert_array_equal(client.block(volume, (0, 0, 0), data.shape), data)
    again = ingest(stack, IngestRequest(source="url", source_id=url, force="convert"))
    assert (again.revision, again.state) == (2, JobState.COMPLETE)
    assert archive.sent["/again.tif"] == sent


def test_a_reader_of_revision_one_sees_only_it_while_revision_two_is_made(stack: RunningStack, tmp_path: Path) -> None:
    root = Path(stack.root)  # type: ignore[attr-defined]
    old, new = voxels((30, 128, 128), seed=1), voxels((30, 128, 128), seed=2)
    a_tiff(root, old, "changing.tif")
    request = IngestRequest(source="file-root", source_id="scope1/changing.tif")
    first = ingest(stack, request)
    client = stack.client()
    opened = client.volume(client.volumes_of(first.job)[0])
    a_tiff(root, new, "changing.tif")
    job = client.ingest(request.model_copy(update={"refresh": True})).job
    while client.status(job).state.running:
        np.testing.assert_array_equal(opened.block((0, 0, 0), old.shape), old)
    status = client.status(job)
    assert (status.revision, status.state) == (2, JobState.COMPLETE), status.error
    np.testing.assert_array_equal(opened.block((0, 0, 0), old.shape), old)
    np.testing.assert_array_equal(client.block(f"{job}@r2", (0, 0, 0), new.shape), new)
    unchanged = client.ingest(request.model_copy(update={"refresh": True}))
    assert (unchanged.existing, unchanged.revision) == (True, 2)


def test_force_while_running_is_refused(stack: RunningStack, archive: FileServer, tmp_path: Path) -> None:
    url = served(archive, a_tiff(tmp_path, voxels((4, 32, 32)), "busy.tif"))
    archive.always("/busy.tif", Status(503))
    client = stack.client()
    job = client.ingest(IngestRequest(source="url", source_id=url)).job
    with pytest.raises(Exception, match="running as r1"):
        client.ingest(IngestRequest(source="url", source_id=url, force="fetch"))
    client.cancel(job)


def test_a_plan_tells_everything_and_changes_nothing(stack: RunningStack, archive: FileServer, tmp_path: Path) -> None:
    path = a_tiff(tmp_path, voxels((300, 256, 256)), "planned.tif")
    url = served(archive, path)
    client = stack.client()
    plan = client.plan(IngestRequest(source="url", source_id=url))
    [preview] = plan.conversion
    assert preview.refused is None
    assert (preview.levels, preview.tasks) == (3, 1)
    assert preview.over_read >= 1
    assert 0 < preview.memory_bytes <= preview.budget_bytes
    (volume,) = plan.volumes
    assert (volume.shape, volume.dtype, volume.voxel_size.nm) == ((300, 256, 256), "uint8", (None, None, None))
    assert (plan.objects, plan.raw_bytes, plan.fits) == (1, path.stat().st_size, True)
    assert archive.sent["/planned.tif"] < path.stat().st_size / 4
    with pytest.raises(Exception, match="no job"):
        client.status(plan.job)


def test_blocks_are_served_while_bus_and_catalog_are_down(stack: RunningStack, tmp_path: Path) -> None:
    client = stack.client()
    data = voxels((5, 70, 70), seed=5)
    status = client.wait(client.ingest(client.upload([a_tiff(tmp_path, data, "steady.tif")]).request()).job)
    frozen = [stack.freeze(name) for name in ("nats", "cataloger")]
    try:
        answer = httpx.get(
            f"{stack.urls.blocks}/v1/volumes/{status.job}/block", params={"origin": "0,0,0", "shape": "5,70,70"}, timeout=30
        )
        assert answer.status_code == 200
        assert answer.content == data.tobytes()
        assert httpx.get(f"{stack.urls.blocks}/readyz", timeout=10).status_code == 200
    finally:
        for process in frozen:
            process.resume()


def test_a_store_is_asked_with_the_right_keys_only(stack: RunningStack) -> None:
    from emporter.connection import find_connection
    from emporter_runtime.objects import Objects

    inbox = Objects.open(find_connection(stack.dir).inbox())
    with pytest.raises(PermanentError):
        asyncio.run(inbox.put(storage.VOLUMES, "intruder", b"1"))
    with pytest.raises(PermanentError):
        asyncio.run(inbox.folders(storage.RAW))
