"""Cancel in the middle of a conversion, then retry: nothing is visible meanwhile, nothing that was written is written again."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import tifffile

from emporter.testing import RunningStack, running_stack
from emporter_contracts import storage
from emporter_contracts.commands import IngestRequest
from emporter_contracts.jobs import JobState

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]


def shards(stack: RunningStack, job: str) -> dict[str, tuple[int, datetime]]:
    """Every shard in the store: bytes, and when it was written."""

    async def listed() -> dict[str, tuple[int, datetime]]:
        root = storage.zarr_root(job, 1)
        return {i.key: (i.size, i.modified) async for i in stack.objects().listing(storage.VOLUMES, root) if "/c/" in i.key}

    return asyncio.run(listed())


def test_a_cancelled_conversion_stops_shows_nothing_and_goes_on_where_it_was(tmp_path: Path) -> None:
    plane = np.random.default_rng(9).integers(0, 256, (1024, 1024), "uint8")
    data = np.stack([np.roll(plane, 13 * z) for z in range(400)])
    tifffile.imwrite(tmp_path / "cancelled.tif", data, photometric="minisblack")
    # Little memory, so that there are many tasks to be cancelled between.
    env = {"EMPORTER_CONVERTER_MEMORY_BYTES": str(384 * 2**20)}
    with running_stack(tmp_path / "stack", store="file", env=env, file_roots={"here": tmp_path}) as stack:
        client = stack.client()
        request = IngestRequest.model_validate(
            {"source": "file-root", "source_id": "here/cancelled.tif", "output": {"chunk": [64, 64, 64], "shard": [64, 128, 128]}}
        )
        job = client.ingest(request).job
        stack.until(lambda: client.status(job).convert.done >= 1, "a task is done")
        # Held still while it is cancelled, so that it is cancelled in the middle however fast the machine is.
        worker = stack.freeze("converter")
        assert client.cancel(job).state == "cancelled"
        worker.resume()
        tasks = client.status(job).convert
        assert tasks.done < tasks.total
        stack.until(lambda: "stopping" in stack.log("converter") or _quiet(stack, job), "the worker stopped", 30)
        stack.until(lambda: _quiet(stack, job), "nothing more is written", 30)
        written = shards(stack, job)
        assert written
        assert not asyncio.run(stack.objects().names(storage.VOLUMES, storage.commits_prefix(job)))
        assert [v for v in client.volumes() if v["status"] == "complete"] == []
        assert client.retry(job).generation == 2
        status = client.wait(job)
        assert status.state == JobState.COMPLETE, status.error
        after = shards(stack, job)
        rewritten = [key for key, made in written.items() if after[key] != made]
        # A task that was under way when it was cancelled is done again: whole, to the same bytes.
        assert len(rewritten) < len(written)
        assert all(after[key][0] == written[key][0] for key in rewritten)
        np.testing.assert_array_equal(client.block(f"{job}@r1", (0, 0, 0), data.shape), data)


def _quiet(stack: RunningStack, job: str) -> bool:
    """Whether no command of the job is left with a worker."""

    async def left() -> int:
        import nats

        settings = stack.settings()
        assert settings.nats_password is not None
        connection = await nats.connect(
            settings.nats_url, user=settings.nats_user, password=settings.nats_password.get_secret_value()
        )
        info = await connection.jetstream().stream_info("CONVERT")
        await connection.close()
        return int(info.state.messages)

    return asyncio.run(left()) == 0
