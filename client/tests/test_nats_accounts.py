"""What a client of the bus can and can't do, against a real nats-server with the real configuration."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.js.errors import APIError

from emporter_contracts import topology
from emporter_runtime import provision
from emporter_runtime.natsconf import Listener, NatsUser, container_config, nats_config
from emporter_runtime.testing_bus import free_port

REPOSITORY = Path(__file__).parents[2]
BINARY = Path(sys.executable).with_name("nats-server")
SERVICES = NatsUser("services", 'a "quoted" \\ word')
CLIENT = NatsUser("client", "client-word")


class Bus:
    """A services' and a client's connection to one server."""

    def __init__(self, services: Nats, client: Nats) -> None:
        self.services = services
        self.client = client
        self.errors: list[str] = []

    async def state(self) -> dict[str, int]:
        """Messages of every stream."""
        js = self.services.jetstream()
        return {s.name: (await js.stream_info(s.name)).state.messages for s in topology.STREAMS}


async def answering(message: Msg) -> None:
    await message.respond(b"answer")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A provisioned server with our configuration."""
    folder, port = tmp_path_factory.mktemp("nats"), free_port()
    file = folder / "nats.conf"
    file.write_text(nats_config(Listener(port=port, http_port=free_port()), str(folder / "js"), SERVICES, CLIENT))
    server = subprocess.Popen([str(BINARY), "-c", str(file)], stderr=subprocess.DEVNULL)
    try:
        until_listening(port)
        asyncio.run(provisioned(f"nats://127.0.0.1:{port}"))
        yield f"nats://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


async def provisioned(address: str) -> None:
    connection = await nats.connect(address, user=str(SERVICES.name), password=str(SERVICES.password))
    await provision.apply(connection.jetstream(), ack_wait=2.0)
    await connection.close()


def until_listening(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise AssertionError("nats-server does not answer")


@pytest.fixture
async def bus(address: str) -> AsyncIterator[Bus]:
    errors: list[str] = []

    async def heard(error: Exception) -> None:
        errors.append(str(error))

    connections = [
        await nats.connect(address, user=str(user.name), password=str(user.password), error_cb=heard, allow_reconnect=False)
        for user in (SERVICES, CLIENT)
    ]
    made = Bus(*connections)
    made.errors = errors
    yield made
    for connection in reversed(connections):
        await connection.close()


async def test_a_request_is_acknowledged_by_its_stream(bus: Bus) -> None:
    answer = await bus.client.request("ingest.request", b"{}", timeout=5)
    assert json.loads(answer.data)["stream"] == "INGEST"


async def test_the_last_state_of_a_job_is_read_directly(bus: Bus) -> None:
    await bus.services.jetstream().publish("status.j", b'{"state": "pending"}')
    found = await bus.client.jetstream().get_last_msg("STATUS", "status.j", direct=True)
    assert found.data == b'{"state": "pending"}'


async def test_an_event_is_read_directly(bus: Bus) -> None:
    await bus.services.jetstream().publish("raw.plan.ready.j", b"{}")
    assert (await bus.client.jetstream().get_last_msg("EVENTS", "raw.plan.ready.j", direct=True)).data == b"{}"


@pytest.mark.parametrize("subject", ["status.j", "progress.j", "reply.abc"])
async def test_what_services_say_in_public_is_heard(bus: Bus, subject: str) -> None:
    subscription = await bus.client.subscribe(subject)
    await bus.client.flush()
    await bus.services.publish(subject, b"said")
    assert (await subscription.next_msg(timeout=5)).data == b"said"


async def answered(client: Nats, subject: str) -> Msg:
    """The answer, as soon as the server has carried the interest in `subject` from one account into the other."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await client.request(subject, b"{}", timeout=5)
            except NoRespondersError:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("subject", ["ingest.plan", "ingest.control.j", "catalog.query"])
async def test_a_request_is_answered(bus: Bus, subject: str) -> None:
    await bus.services.subscribe(subject, cb=answering)
    await bus.services.flush()
    assert (await answered(bus.client, subject)).data == b"answer"


@pytest.mark.parametrize(
    "subject",
    [
        "status.x", "convert.task.x.x.0.0", "fetch.plan.x", "dlq.x", "raw.object.stored.x.1.0-0", "reply.x", "webhooks.due.x",
        "webhooks.later.x",
    ],
)  # fmt: skip
async def test_a_client_writes_nowhere_else(bus: Bus, subject: str) -> None:
    heard = await bus.services.subscribe(subject)
    await bus.services.flush()
    before = await bus.state()
    await bus.client.publish(subject, b"forged")
    await bus.client.flush()
    await until(lambda: any("permissions violation" in e.lower() for e in bus.errors))
    assert await bus.state() == before
    assert heard.pending_msgs == 0


@pytest.mark.parametrize("target", ["status.x", "convert.task.x.x.0.0", "fetch.plan.x"])
@pytest.mark.parametrize(
    "subject",
    [
        "ingest.request",
        "ingest.plan",
        "ingest.control.x",
        "catalog.query",
        "$JS.API.DIRECT.GET.STATUS.status.j",
        "$JS.API.DIRECT.GET.EVENTS.raw.plan.ready.j",
    ],
)
async def test_an_answer_never_goes_into_a_stream_of_the_services(bus: Bus, subject: str, target: str) -> None:
    """The reply subject of a request names where whoever answers writes."""
    js = bus.services.jetstream()
    await js.publish("status.j", b"{}")
    await js.publish("raw.plan.ready.j", b"{}")
    answered = asyncio.Event()

    async def answer(message: Msg) -> None:
        await message.respond(b"forged")
        answered.set()

    for service in ("ingest.plan", "ingest.control.*", "catalog.query"):
        await bus.services.subscribe(service, cb=answer)
    heard = await bus.services.subscribe(target)
    await bus.services.flush()
    before = await bus.state()
    await bus.client.publish(subject, b"{}", reply=target)
    await bus.client.flush()
    if subject.split(".", maxsplit=1)[0] == "catalog" or subject in {"ingest.plan", "ingest.control.x"}:
        await asyncio.wait_for(answered.wait(), 5)
    # A later request on the same connection is answered after the earlier one was.
    await bus.client.jetstream().get_last_msg("STATUS", "status.j", direct=True)
    await bus.services.flush()
    after = await bus.state()
    assert after | {"INGEST": 0} == before | {"INGEST": 0}
    assert heard.pending_msgs == 0


@pytest.mark.parametrize(
    "headers",
    [
        {"Nats-Trace-Dest": "status.x"},
        {"Nats-Trace-Dest": "convert.task.x.x.0.0", "Nats-Trace-Only": "true"},
        {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
        {"Nats-Schedule": "@at 2000-01-01T00:00:00Z", "Nats-Schedule-Target": "status.x"},
        {"Nats-Schedule": "@every 1s", "Nats-Schedule-Target": "convert.task.x.x.0.0"},
        {"Nats-Stream-Source": "STATUS 1 > > status.x"},
        {"Nats-Subject": "status.x", "Nats-Stream": "STATUS"},
        {"Nats-Rollup": "all"},
        {"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1", "Nats-Batch-Commit": "1"},
        {"Nats-Incr": "1"},
        {"Emporter-Reply-To": "status.x"},
    ],
    ids="+".join,
)
@pytest.mark.parametrize("subject", ["ingest.request", "ingest.plan", "$JS.API.DIRECT.GET.STATUS.status.j"])
async def test_no_header_leads_a_message_elsewhere(bus: Bus, subject: str, headers: dict[str, str]) -> None:
    js = bus.services.jetstream()
    await js.publish("status.j", b"{}")
    await bus.client.request("ingest.request", b"kept", timeout=5)
    await bus.services.subscribe("ingest.plan", cb=answering)
    heard = [await bus.services.subscribe(s) for s in ("status.>", "convert.>")]
    await bus.services.flush()
    before = await bus.state()
    # An error and silence are both answers here.
    with suppress(nats.errors.TimeoutError, NoRespondersError):
        await bus.client.request(subject, b"{}", headers=headers, timeout=1)
    # Also when a service takes it from the stream: the header may be there still.
    taken = await js.pull_subscribe("ingest.request", durable="fetcher-intake", stream="INGEST")
    for message in await taken.fetch(5, timeout=1):
        await message.ack_sync()
    await bus.services.flush()
    after = await bus.state()
    assert {n: c for n, c in after.items() if n != "INGEST"} == {n: c for n, c in before.items() if n != "INGEST"}
    assert [s.pending_msgs for s in heard] == [0, 0]


@pytest.mark.parametrize(
    "call",
    [
        "STREAM.LIST", "STREAM.NAMES", "INFO", "STREAM.INFO.STATUS", "STREAM.CREATE.MINE", "STREAM.UPDATE.STATUS", "STREAM.DELETE.STATUS",
        "STREAM.PURGE.STATUS", "STREAM.MSG.GET.STATUS", "STREAM.MSG.GET.LEDGER", "STREAM.MSG.DELETE.STATUS",
        "CONSUMER.CREATE.STATUS.mine", "CONSUMER.DURABLE.CREATE.STATUS.mine", "CONSUMER.DELETE.CONVERT.converter-task",
        "CONSUMER.INFO.CONVERT.converter-task", "CONSUMER.MSG.NEXT.CONVERT.converter-task", "CONSUMER.PAUSE.CONVERT.converter-task",
        "DIRECT.GET.LEDGER", "DIRECT.GET.DLQ.dlq.x", "DIRECT.GET.CONVERT", "DIRECT.GET.INGEST",
    ],
)  # fmt: skip
async def test_a_client_has_no_part_of_the_stream_api_but_direct_gets(bus: Bus, call: str) -> None:
    consumer_before = (await bus.services.jetstream().consumer_info("CONVERT", "converter-task")).config
    body = json.dumps(
        {"name": "MINE", "subjects": ["mine"], "stream_name": "STATUS", "config": {"durable_name": "mine"}, "seq": 1}
    ).encode()
    with pytest.raises((NoRespondersError, nats.errors.TimeoutError, APIError)):
        await bus.client.request(f"$JS.API.{call}", body, timeout=0.3)
    await until(lambda: any("permissions violation" in e.lower() for e in bus.errors))
    js = bus.services.jetstream()
    assert {s.config.name for s in await js.streams_info()} == {s.name for s in topology.STREAMS}
    assert {c.name for c in await js.consumers_info("STATUS")} == {"cataloger-status"}
    assert (await js.consumer_info("CONVERT", "converter-task")).config == consumer_before


@pytest.mark.parametrize("subject", [">", "convert.>", "_R_.>", "$JS.>", "dlq.>", "ingest.request"])
async def test_a_client_overhears_nothing_of_the_services(bus: Bus, subject: str) -> None:
    subscription = await bus.client.subscribe(subject)
    await bus.client.flush()
    await bus.services.publish("convert.task.a.b.0.1", b"inner")
    await bus.services.flush()
    await until(lambda: any("permissions violation" in e.lower() for e in bus.errors))
    assert subscription.pending_msgs == 0


async def test_the_file_for_containers_is_what_the_rules_say() -> None:
    written = (REPOSITORY / "deploy/nats/nats.conf").read_text()
    assert written == container_config(), "run: python -m emporter_runtime.natsconf > deploy/nats/nats.conf"


async def test_the_file_for_containers_is_valid() -> None:
    environment = {
        "EMPORTER_NATS_USER": "services", "EMPORTER_NATS_PASSWORD": "word", "EMPORTER_CLIENT_NATS_USER": "client",
        "EMPORTER_CLIENT_NATS_PASSWORD": '"0word"',
    }  # fmt: skip
    checked = subprocess.run(
        [str(BINARY), "-t", "-c", str(REPOSITORY / "deploy/nats/nats.conf")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr


async def until(condition: object, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.01)
