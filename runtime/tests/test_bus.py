"""The failure classes, on a real server: what each failure does to its message and its job."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from emporter_contracts import subjects, topology
from emporter_contracts.commands import Accepted, Control, IngestRequest, JobCommand, PlanFetch
from emporter_contracts.errors import EmporterError, RefusedError
from emporter_contracts.jobs import JobState, JobStatus
from emporter_runtime import failures
from emporter_runtime.bus import Bus, Delivery
from emporter_runtime.deadletters import handle_dead_letters
from emporter_runtime.errors import NotProvisionedError, PermanentError, TransientError
from emporter_runtime.heartbeat import Work, Workers
from emporter_runtime.jobstore import JobStore
from emporter_runtime.ledger import outstanding
from emporter_runtime.objects import Objects
from emporter_runtime.provision import check_schedules, consumer_config, drift, provision, stream_config
from emporter_runtime.settings import Settings
from emporter_runtime.telemetry import kind_of
from emporter_runtime.testing_bus import NatsServer, provisioned, speaking

REQUEST = IngestRequest(source="url", source_id="http://archive/volume.tif")


@dataclass
class Service:
    """A service that plans: what its handler does is set by each test."""

    bus: Bus
    jobs: JobStore
    server: NatsServer
    workers: Workers
    does: Callable[[PlanFetch, Work], Awaitable[None]]
    calls: list[PlanFetch] = field(default_factory=list)

    async def order(self, job: str) -> JobStatus:
        status = await self.jobs.begin(job, REQUEST, 1, 1)
        await self.bus.command(subjects.fetch_plan(job), PlanFetch.of(status), "FETCH", "fetch.plan")
        return status

    async def until(self, job: str, holds: Callable[[JobStatus], bool]) -> JobStatus:
        async with asyncio.timeout(30):
            while True:
                status = await self.jobs.read(job)
                if status is not None and holds(status):
                    return status
                await asyncio.sleep(0.02)

    async def until_queue_is_empty(self) -> None:
        async with asyncio.timeout(30):
            while await outstanding(self.bus, "FETCH", "fetch.>"):
                await asyncio.sleep(0.02)


@asynccontextmanager
async def a_service(folder: Path, **settings: Any) -> AsyncIterator[Service]:
    async with provisioned(folder, **settings) as (made, server):
        objects = Objects.open(made)
        bus = Bus(made, "fetcher")
        jobs = JobStore(bus, objects)
        failures.install(bus, jobs)

        async def nothing(_: PlanFetch, __: Work) -> None:
            return

        service = Service(bus, jobs, server, Workers(jobs, made.ack_wait_seconds, 2), nothing)

        @bus.consume("fetcher-plan")
        async def on_plan(command: PlanFetch, delivery: Delivery) -> None:
            async with service.workers.on(command, delivery) as work:
                service.calls.append(command)
                await service.does(command, work)

        @bus.consume("fetcher-intake")
        async def on_request(request: IngestRequest, delivery: Delivery) -> None:
            raise RefusedError(f"no {request.source}", code="unknown_source", hint="another")

        @bus.answer(subjects.INGEST_CONTROL, queue="fetcher")
        async def on_control(control: Control, delivery: Delivery) -> Accepted:
            if control.action == "pause":
                raise RefusedError("not now", code="unsupported", hint="later")
            if control.action == "resume":
                raise ValueError("a bug")
            return Accepted(job=delivery.subject.rsplit(".", 1)[-1], revision=1, state="cancelled")

        handle_dead_letters(bus, jobs, "fetcher-dead-letters")
        async with bus.running():
            yield service
        service.workers.close()


async def test_a_handler_that_returns_acknowledges_its_command(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        await service.order("a")
        await service.until_queue_is_empty()
        assert [c.job for c in service.calls] == ["a"]


async def test_a_transient_failure_makes_the_job_wait_and_costs_no_delivery(tmp_path: Path) -> None:
    async def does(_: PlanFetch, __: Work) -> None:
        raise TransientError("archive answers 503", retry_after=60)

    async with a_service(tmp_path) as service:
        service.does = does
        await service.order("a")
        status = await service.until("a", lambda s: s.waiting is not None)
        await service.until_queue_is_empty()
        assert status.state == JobState.PENDING
        assert status.waiting is not None
        assert status.waiting.reason == "host_down"
        assert status.waiting.next_try is not None
        assert 50 < (status.waiting.next_try - status.waiting.since).total_seconds() < 70


async def test_a_permanent_failure_fails_the_job_with_code_and_hint(tmp_path: Path) -> None:
    class Gone(PermanentError):
        code = "not_found"

    async def does(_: PlanFetch, __: Work) -> None:
        raise Gone("volume.tif is not there", hint="check the name")

    async with a_service(tmp_path) as service:
        service.does = does
        await service.order("a")
        status = await service.until("a", lambda s: s.state == JobState.FAILED)
        assert status.error is not None
        assert (status.error.code, status.error.hint) == ("not_found", "check the name")
        await service.until_queue_is_empty()
        assert len(service.calls) == 1


async def test_a_bug_is_tried_three_times_then_dead_lettered_and_the_job_fails_as_internal(tmp_path: Path) -> None:
    async def does(_: PlanFetch, __: Work) -> None:
        raise ValueError("ours")

    async with a_service(tmp_path) as service:
        service.does = does
        await service.order("a")
        status = await service.until("a", lambda s: s.state == JobState.FAILED)
        assert status.error is not None
        assert status.error.code == "internal"
        assert len(service.calls) == 3
        assert set(await outstanding(service.bus, "DLQ", "dlq.>")) == {"dlq.fetch.plan.a"}
        await service.until_queue_is_empty()


async def test_an_unreadable_command_is_dead_lettered_at_once_and_the_service_goes_on(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        await service.bus.publish_raw("fetch.plan.x", b"no json", {}, "FETCH")
        await service.bus.publish_raw("fetch.plan.y", b'{"job": 1}', {}, "FETCH")
        await service.order("a")
        await service.until_queue_is_empty()
        assert set(await outstanding(service.bus, "DLQ", "dlq.>")) == {"dlq.fetch.plan.x", "dlq.fetch.plan.y"}
        assert [c.job for c in service.calls] == ["a"]


async def test_a_refused_request_is_answered_on_its_token_and_nowhere_else(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        heard = await service.bus.connection.subscribe("reply.>")
        elsewhere = await service.bus.connection.subscribe("status.x")
        body = json.dumps({"source": "nowhere", "source_id": "1"}).encode()
        await service.bus.publish_raw("ingest.request", body, {"Emporter-Reply-To": "status.x"}, "INGEST")
        await service.bus.publish_raw("ingest.request", body, {"Emporter-Reply-To": "abc1"}, "INGEST")
        answer = await heard.next_msg(timeout=10)
        assert answer.subject == "reply.abc1"
        assert json.loads(answer.data)["code"] == "unknown_source"
        with pytest.raises(TimeoutError):
            await elsewhere.next_msg(timeout=0.2)


async def test_a_request_that_spells_out_a_run_can_not_fail_that_run(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        await service.jobs.begin("victim", REQUEST, 1, 1)
        body = json.dumps({"source": "nowhere", "source_id": "1", "job": "victim", "revision": 1, "generation": 1}).encode()
        await service.bus.publish_raw("ingest.request", body, {"Emporter-Reply-To": "t"}, "INGEST")
        async with asyncio.timeout(10):
            while await outstanding(service.bus, "INGEST", "ingest.request"):
                await asyncio.sleep(0.02)
        status = await service.jobs.read("victim")
        assert status is not None
        assert status.state == JobState.PENDING


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"action": "pause"}', "unsupported"),
        (b'{"action": "resume"}', "internal"),
        (b'{"action": "fly"}', "invalid_request"),
        (b"\xff\x00", "invalid_request"),
    ],
)
async def test_a_request_is_always_answered(tmp_path: Path, body: bytes, code: str) -> None:
    async with a_service(tmp_path) as service:
        answer = await service.bus.connection.request("ingest.control.a", body, timeout=10)
        assert json.loads(answer.data)["code"] == code


async def test_work_stops_soon_after_its_job_was_cancelled_and_waits_for_its_thread(tmp_path: Path) -> None:
    left: list[str] = []
    started = asyncio.Event()

    async def does(_: PlanFetch, work: Work) -> None:
        loop = asyncio.get_running_loop()

        def grind() -> None:
            loop.call_soon_threadsafe(started.set)
            try:
                while True:
                    work.check()
            except EmporterError:
                left.append("thread")
                raise

        await work.heavy(grind)

    async with a_service(tmp_path) as service:
        service.does = does
        await service.order("a")
        async with asyncio.timeout(20):
            await started.wait()
        await service.jobs.cancel("a")
        await service.until_queue_is_empty()
        assert left == ["thread"]
        status = await service.jobs.read("a")
        assert status is not None
        assert status.state == JobState.CANCELLED


async def test_a_heartbeat_keeps_long_work_from_being_given_to_another(tmp_path: Path) -> None:
    async def does(_: PlanFetch, __: Work) -> None:
        await asyncio.sleep(1.6)

    async with a_service(tmp_path, ack_wait_seconds=0.5) as service:
        service.does = does
        await service.order("a")
        await service.until_queue_is_empty()
        assert len(service.calls) == 1


async def test_a_restart_of_the_bus_in_the_middle_of_work_loses_nothing(tmp_path: Path) -> None:
    entered = asyncio.Event()
    go = asyncio.Event()

    async def does(_: PlanFetch, __: Work) -> None:
        entered.set()
        await go.wait()

    async with a_service(tmp_path, ack_wait_seconds=5.0) as service:
        service.does = does
        await service.order("a")
        async with asyncio.timeout(20):
            await entered.wait()
        service.server.kill()
        service.server.start()
        await service.server.until_ready()
        go.set()
        await service.order("b")
        await service.until_queue_is_empty()
        assert {c.job for c in service.calls} == {"a", "b"}


async def test_a_command_that_kills_its_worker_each_time_ends_as_a_dead_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = tuple(
        topology.Consumer(
            c.name, c.stream, c.filters, c.max_ack_pending, c.facts, tries=2 if c.name == "fetcher-finish" else c.tries
        )
        for c in topology.CONSUMERS
    )
    monkeypatch.setattr(topology, "CONSUMERS", few)
    async with a_service(tmp_path, ack_wait_seconds=0.3) as service:
        status = await service.jobs.begin("a", REQUEST, 1, 1)
        await service.bus.command(subjects.fetch_finish("a"), JobCommand.of(status), "FETCH", "fetch.finish")
        dying = await service.bus.js.pull_subscribe_bind("fetcher-finish", "FETCH")
        for _ in range(2):
            await dying.fetch(1, timeout=5)
        asking = asyncio.create_task(_ask(dying))
        ended = await service.until("a", lambda s: s.state == JobState.FAILED)
        asking.cancel()
        assert ended.error is not None
        assert "never came back" in ended.error.message
        await service.until_queue_is_empty()
        assert set(await outstanding(service.bus, "DLQ", "dlq.>")) == {"dlq.fetch.finish.a"}


async def _ask(subscription: Any) -> None:
    """The advisory comes when the next delivery would have been due, so somebody must ask."""
    while True:
        with_nothing = asyncio.wait_for(subscription.fetch(1, timeout=0.5), 1)
        try:
            await with_nothing
        except TimeoutError:
            continue


async def test_provisioning_twice_changes_nothing_and_drift_is_named(tmp_path: Path) -> None:
    async with provisioned(tmp_path) as (settings, _):
        await provision(settings)
        expected = consumer_config(topology.consumer_named("converter-task"), settings.ack_wait_seconds)
        bus = Bus(settings, "converter")

        @bus.consume("converter-task")
        async def on_task(body: bytes, _: Delivery) -> None:
            return

        async with bus.running():
            info = await bus.js.consumer_info("CONVERT", "converter-task")
            assert drift(expected, info.config) == []
        other = Bus(settings.model_copy(update={"ack_wait_seconds": 7.0}), "converter")

        @other.consume("converter-task")
        async def on_other(body: bytes, _: Delivery) -> None:
            return

        with pytest.raises(NotProvisionedError, match="ack_wait is 2.0, should be 7.0"):
            async with other.running():
                pass
        await other.broker.stop()


async def test_a_bus_of_an_earlier_version_is_given_the_streams_it_lacks(tmp_path: Path) -> None:
    async with provisioned(tmp_path) as (settings, _), speaking(settings) as bus:
        await bus.js.delete_stream("WEBHOOKS")
        await provision(settings)
        made = (await bus.js.stream_info("WEBHOOKS")).config
        assert made.allow_msg_schedules
        assert await bus.js.consumer_info("WEBHOOKS", "cataloger-webhooks")


def test_a_server_that_took_the_stream_but_knows_no_schedules_is_named_too_old() -> None:
    wanted = stream_config(topology.stream_named("WEBHOOKS"))
    check_schedules(wanted, wanted)
    with pytest.raises(NotProvisionedError, match="keeps no schedules"):
        check_schedules(wanted, stream_config(topology.stream_named("EVENTS")))


async def test_a_service_whose_consumer_is_gone_is_not_ready_and_comes_back(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        assert await service.bus.ready()
        await service.bus.js.delete_consumer("FETCH", "fetcher-plan")
        assert not await service.bus.ready()
        await provision(service.bus.settings)
        assert await service.bus.ready()
        await service.order("a")
        await service.until_queue_is_empty()


@pytest.mark.parametrize(
    ("subject", "kind"),
    [
        ("status.idr-1", "status"),
        ("convert.task.idr-1.idr-1.0.7", "convert.task"),
        ("_INBOX.abc.def", "_INBOX"),
        ("ingest.request", "ingest.request"),
    ],
)
def test_no_metric_is_labelled_with_a_job(subject: str, kind: str) -> None:
    assert kind_of(subject) == kind


def test_the_settings_of_one_service_are_those_of_all() -> None:
    assert Settings(ack_wait_seconds=3).ack_wait_seconds == 3
