"""The Python client: finds its stack, hears answers, watches in order, works where a loop runs already."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nats
import numpy as np
import pytest
import tifffile
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from emporter import aio, client
from emporter.bus import BusClient
from emporter.connection import Connection, find_connection
from emporter.errors import MistakeError, NoStackError, RefusedByServiceError, UnreachableError
from emporter.stack.files import StackFiles, StackInfo, write_model
from emporter.stack.identity import ProcessIdentity
from emporter.testing import RunningStack, running_stack
from emporter_contracts.commands import Accepted, IngestRequest, Refusal
from emporter_contracts.events import Progress
from emporter_contracts.jobs import JobState, JobStatus
from emporter_runtime.testing_bus import provisioned

REQUEST = IngestRequest(source="epfl", source_id="training")


def an_info(**changes: Any) -> StackInfo:
    told = {
        "nats": "nats://here:1",
        "catalog": "http://here:2",
        "blocks": "http://here:3",
        "store": "s3://",
        "s3": "http://here:4",
    }
    return StackInfo.model_validate({**told, "nats_user": "client", "nats_password": "word", **changes})


def a_stack_in(folder: Path, **changes: Any) -> None:
    files = StackFiles.at(folder)
    files.make()
    write_model(files.stack, an_info(supervisor=ProcessIdentity.mine(), **changes))


@pytest.fixture(autouse=True)
def _no_stack_of_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("EMPORTER_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_a_named_stack_wins_over_the_environment_and_that_over_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_stack_in(tmp_path / "named", nats="nats://named:1")
    a_stack_in(tmp_path / ".emporter", nats="nats://default:1")
    assert find_connection().nats == "nats://default:1"
    monkeypatch.setenv("EMPORTER_NATS_URL", "nats://environment:1")
    assert find_connection().nats == "nats://environment:1"
    assert find_connection(Path("named")).nats == "nats://named:1"


def test_a_stack_whose_supervisor_is_gone_is_down(tmp_path: Path) -> None:
    a_stack_in(tmp_path / "old")
    gone = ProcessIdentity(pid=ProcessIdentity.mine().pid, started=0)
    write_model(StackFiles.at(tmp_path / "old").stack, an_info(supervisor=gone))
    with pytest.raises(NoStackError, match="is down"):
        client.connect("old")


def test_the_inbox_key_is_the_stacks_not_the_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMPORTER_S3_SECRET_KEY", "of the operator")
    a_stack_in(tmp_path / "named", inbox_access_key="mine", inbox_secret_key="my word")
    settings = find_connection(tmp_path / "named").inbox()
    assert (settings.s3_access_key, settings.s3_secret_key.get_secret_value()) == ("mine", "my word")


@asynccontextmanager
async def a_bus(folder: Path) -> AsyncIterator[tuple[BusClient, Nats]]:
    """A client and, at the other end, whoever plays the services."""
    async with provisioned(folder) as (settings, _):
        services = await nats.connect(settings.nats_url)
        bus = BusClient(Connection("a test", settings.nats_url, None, None, "", ""))
        try:
            yield bus, services
        finally:
            await bus.close()
            await services.close()


def a_status(version: int, state: JobState = JobState.PROCESSING, job: str = "j", generation: int = 1) -> JobStatus:
    now = datetime.now(UTC)
    run = {"revision": 1, "generation": generation, "version": version}
    return JobStatus(job=job, source="s", source_id="i", state=state, created_at=now, updated_at=now, **run)


async def say(services: Nats, status: JobStatus, subject: str = "status.j") -> None:
    await services.jetstream().publish(subject, status.model_dump_json().encode())


async def test_an_ingest_returns_what_the_fetcher_answers(tmp_path: Path) -> None:
    async with a_bus(tmp_path) as (bus, services):
        answer = Accepted(job="epfl-training", revision=3, state="pending")
        asking = asyncio.create_task(bus.ingest(REQUEST))
        await reply(services, answer.model_dump_json())
        assert await asking == answer


async def test_a_refusal_is_raised_with_its_code_and_hint(tmp_path: Path) -> None:
    async with a_bus(tmp_path) as (bus, services):
        asking = asyncio.create_task(bus.ingest(REQUEST))
        await reply(services, Refusal(code="running", message="it runs", hint="wait").model_dump_json())
        with pytest.raises(RefusedByServiceError) as raised:
            await asking
        assert (raised.value.code, raised.value.message, raised.value.hint) == ("running", "it runs", "wait")


async def test_a_request_is_one_event_with_an_id_and_a_token_to_answer_to(tmp_path: Path) -> None:
    async with a_bus(tmp_path) as (bus, services):
        asking = asyncio.create_task(bus.ingest(REQUEST))
        message = await reply(services, Accepted(job="j", revision=1, state="pending").model_dump_json())
        await asking
        assert IngestRequest.model_validate_json(message.data) == REQUEST
        assert message.headers is not None
        assert message.headers["ce-id"] == message.headers["Nats-Msg-Id"]
        assert message.headers["ce-type"] == "io.emporter.ingest_request.v1"


async def reply(services: Nats, body: str) -> Msg:
    """Take the request from its stream as a fetcher does, and answer it."""
    taken = await services.jetstream().pull_subscribe("ingest.request", durable="fetcher-intake", stream="INGEST")
    (message,) = await taken.fetch(1, timeout=10)
    assert message.headers is not None
    await services.publish(f"reply.{message.headers['Emporter-Reply-To']}", body.encode())
    await message.ack_sync()
    return message


async def test_where_nobody_plans_it_says_so_at_once(tmp_path: Path) -> None:
    async with a_bus(tmp_path) as (bus, _):
        with pytest.raises(UnreachableError, match=r"nobody answers ingest\.plan"):
            await bus.plan(REQUEST)


async def test_a_job_nobody_knows_is_a_mistake(tmp_path: Path) -> None:
    async with a_bus(tmp_path) as (bus, _):
        for name in ("nojob", "no.job", "*", ">", "", "x" * 200, "a b"):
            with pytest.raises(MistakeError):
                await bus.status(name)


async def test_a_watcher_sees_the_present_state_then_each_newer_one_and_nothing_else(tmp_path: Path) -> None:
    async with a_bus(tmp_path) as (bus, services):
        await say(services, a_status(2))
        seen: list[Any] = []
        async for state in bus.watch("j"):
            seen.append(state if isinstance(state, Progress) else state.version)
            if seen == [2]:
                # Late, foreign, unreadable, and a request's answer that was sent there: none of it is news.
                await say(services, a_status(1))
                await services.publish("status.j", a_status(9, JobState.FAILED, job="other").model_dump_json().encode())
                await services.publish("status.j", b'{"stream": "INGEST", "seq": 1}')
                progress = Progress(job="j", stage="fetch", unit="0-0", bytes_done=1, bytes_total=2)
                await services.publish("progress.j", progress.model_dump_json().encode())
            if isinstance(state, Progress):
                await say(services, a_status(3))
                await say(services, a_status(4, JobState.COMPLETE))
        assert seen == [2, progress, 3, 4]


async def test_a_state_that_was_not_heard_is_asked_for(tmp_path: Path) -> None:
    """What is said while the bus restarts reaches the stream only."""
    async with a_bus(tmp_path) as (bus, services):
        await say(services, a_status(1))
        watching = bus.watch("j")
        assert await anext(watching) == await bus.status("j")
        for subscription in list((await bus._connected())._subs.values()):
            if subscription.subject == "status.j":
                await subscription.unsubscribe()
        await say(services, a_status(2, JobState.CANCELLED))
        last = await anext(watching)
        assert isinstance(last, JobStatus)
        assert last.state == JobState.CANCELLED


async def test_a_later_generation_is_newer_whatever_its_version(tmp_path: Path) -> None:
    async with a_bus(tmp_path) as (bus, services):
        await say(services, a_status(7))
        watching = bus.watch("j")
        await anext(watching)
        await say(services, a_status(1, generation=2))
        newer = await anext(watching)
        assert isinstance(newer, JobStatus)
        assert newer.order == (1, 2, 1)
        await watching.aclose()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    with running_stack(tmp_path_factory.mktemp("stack"), store="file") as made:
        yield made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    voxels = np.random.default_rng(5).integers(0, 255, (9, 70, 80), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "Python stack.tif", voxels, photometric="minisblack")
    return tmp_path / "Python stack.tif"


def test_the_whole_way_in_python(stack: RunningStack, file: Path) -> None:
    with client.connect(stack.dir) as emporter:
        request = emporter.upload([file]).request()
        plan = emporter.plan(request)
        assert plan.volumes[0].shape == (9, 70, 80)
        accepted = emporter.ingest(request)
        assert accepted.job == plan.job
        states = [state.state for state in emporter.watch(accepted.job) if isinstance(state, JobStatus)]
        assert states[-1] == "complete"
        (name,) = emporter.volumes_of(accepted.job)
        volume = emporter.volume(accepted.job)
        assert (str(volume.ref), volume.shape, volume.dtype) == (name, (9, 70, 80), np.dtype("uint8"))
        block = volume.block((1, 2, 3), (8, 60, 70))
        assert np.array_equal(block, tifffile.imread(file)[1:9, 2:62, 3:73])
        assert np.array_equal(emporter.block(name, (1, 2, 3), (8, 60, 70)), block)
        block[:] = 0  # an array of one's own, to be written to
        with pytest.raises(RefusedByServiceError):
            volume.block((0, 0, 0), (10, 70, 80))
        padded = volume.block((-1, 0, 0), (2, 4, 4), outside="constant")
        assert (padded[0] == 0).all()
        # The catalog hears of a commit a moment after its blocks are there, and has no record until then.
        stack.until(lambda: any(row["status"] == "complete" for row in emporter.volumes("python")), "the catalog knows")
        assert emporter.record(name)["status"] == "complete"
        assert accepted.job in {job.job for job in emporter.jobs()}
        assert accepted.job in {row["volume"] for row in emporter.volumes("python")}


async def test_a_notebook_has_a_running_loop_and_may_use_the_plain_client(stack: RunningStack, file: Path) -> None:
    with client.connect(stack.dir) as emporter:
        accepted = emporter.ingest(emporter.upload([file]).request())
        assert emporter.wait(accepted.job).state == "complete"


async def test_a_reader_that_opened_a_revision_sees_only_that(stack: RunningStack, file: Path) -> None:
    async with aio.connect(stack.dir) as emporter:
        request = (await emporter.upload([file])).request()
        job = (await emporter.ingest(request)).job
        await emporter.wait(job)
        opened = await emporter.volume(job)
        again = await emporter.ingest(request.model_copy(update={"force": "convert"}))
        assert again.revision == opened.ref.revision + 1
        assert (await emporter.wait(job)).state == "complete"
        assert str(opened.ref) == f"{job}@r{again.revision - 1}"
        assert np.array_equal(await opened.block((0, 0, 0), (9, 70, 80)), tifffile.imread(file))
        async with asyncio.timeout(30):
            while (await emporter.volume(job)).ref.revision != again.revision:
                await asyncio.sleep(0.1)


def test_a_refused_plan_has_a_code(stack: RunningStack) -> None:
    with client.connect(stack.dir) as emporter, pytest.raises(RefusedByServiceError) as raised:
        emporter.plan(IngestRequest(source="url", source_id="http://169.254.169.254/x.tif"))
    assert raised.value.code
    assert json.dumps(raised.value.hint)


def test_a_watch_survives_a_bus_that_is_killed(stack: RunningStack, file: Path) -> None:
    with client.connect(stack.dir) as emporter:
        request = emporter.upload([file]).request().model_copy(update={"force": "convert"})
        frozen = stack.freeze("converter")
        job = emporter.ingest(request).job
        watching = emporter.watch(job)
        next(watching)
        stack.restarted("nats", stack.kill("nats"))
        frozen.resume()
        states = [state.state for state in watching if isinstance(state, JobStatus)]
    assert states[-1] == "complete"


@pytest.mark.parametrize("turns", range(6))
async def test_a_watch_that_is_cancelled_as_news_arrive_ends(tmp_path: Path, turns: int) -> None:
    """Whatever the event loop did of the news when the cancellation came."""
    news: asyncio.Queue[JobStatus | Progress] = asyncio.Queue()
    seen: list[Any] = []

    class Known(BusClient):
        async def status(self, job: str) -> JobStatus:
            return a_status(1, job=job)

    bus = Known(Connection("a test", "nats://nowhere:1", None, None, "", ""))

    async def watch() -> None:
        async for state in bus._newer("j", news):
            seen.append(state)  # noqa: PERF401  # each as it comes: the test waits for the first

    watching = asyncio.create_task(watch())
    while not seen:
        await asyncio.sleep(0)
    for _ in range(3):
        await asyncio.sleep(0)
    news.put_nowait(a_status(2))
    for _ in range(turns):
        await asyncio.sleep(0)
    watching.cancel()
    done, _ = await asyncio.wait({watching}, timeout=1)
    watching.cancel()
    assert done
    assert watching.cancelled()
