"""Doorbells, appointments and dead letters on a real nats-server; the sweep of a sender runs only where a test lets it."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from cataloger import outbox as outbox_module
from cataloger.intake import Intake
from cataloger.models import Delivery
from cataloger.testing_builders import a_status
from cataloger.testing_databases import OnPostgres, OnSqlite
from cataloger.testing_webhooks import WAIT, Process, Receiver, dead_letters_counted, until, until_kept, until_quiet, until_states
from cataloger.testing_world import World
from cataloger.webhooks import LINEAGE, Subscription
from emporter_contracts import subjects
from emporter_runtime.provision import provision
from emporter_runtime.settings import Settings
from emporter_runtime.testing_bus import nats_server, speaking

SOON = timedelta(seconds=0.4)
NOWHERE = "http://127.0.0.1:1/"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        asyncio.run(server.until_ready())
        yield server


@pytest.fixture
async def settings(server, tmp_path):
    made = Settings(nats_url=server.url, store_url=f"file://{tmp_path}/store", ack_wait_seconds=2.0)
    await provision(made)
    async with speaking(made) as bus:
        for stream in ("WEBHOOKS", "DLQ"):
            await bus.js.purge_stream(stream)
    return made


@pytest.fixture
async def process(world, settings):
    async with Process(settings, world.database).running() as process:
        world.intake = Intake(world.database, world.objects, world.feed, ring=process.bells.ring)
        yield process


class BusSuite:
    async def test_an_event_is_told_when_it_is_taken_in_and_nothing_stays_on_the_bus(self, world, process):
        receiver = Receiver()
        async with receiver.up() as url:
            hook = await process.hooks.subscribe(Subscription(url=url))
            await world.hear(a_status())
            await until_states(process.hooks, hook, "delivered", 1)
        await until_quiet(process)
        await until_kept(process, hook["id"], set())

    async def test_a_failed_try_is_made_again_by_an_appointment_of_the_bus(self, world, process, monkeypatch):
        monkeypatch.setattr(outbox_module, "RETRY_AFTER", (SOON,) * 100)
        receiver = Receiver()
        receiver.answer = 500
        async with receiver.up() as url:
            hook = await process.hooks.subscribe(Subscription(url=url))
            await world.hear(a_status())
            await until_kept(process, hook["id"], {"webhooks.later"})
            [waiting] = await process.hooks.deliveries(hook["id"], "pending", 1)
            receiver.answer = 200
            await until_states(process.hooks, hook, "delivered", 1)
        assert receiver.events.total() > waiting["tries"] >= 1
        await until_quiet(process)
        await until_kept(process, hook["id"], set())

    async def test_two_catalogs_share_the_work_and_each_event_is_told_once(self, world, process, settings):
        receiver = Receiver()
        async with receiver.up() as url, Process(settings, world.database).running() as other:
            hooks = [await process.hooks.subscribe(Subscription(url=url)) for _ in range(6)]
            n = 0
            async with asyncio.timeout(WAIT):
                while n < 10 or not (process.posted and other.posted):
                    await world.hear(a_status(job=f"epfl-v{n}"))
                    n += 1
            for hook in hooks:
                await until_states(process.hooks, hook, "delivered", n)
        assert process.posted + other.posted == receiver.events.total() == 6 * n
        assert set(receiver.events.values()) == {6}

    async def test_of_a_receiver_that_is_down_the_bus_holds_two_messages_however_much_waits(self, world, process, monkeypatch):
        monkeypatch.setattr(outbox_module, "RETRY_AFTER", (timedelta(days=1),) * 10)
        hook = await process.hooks.subscribe(Subscription(url=NOWHERE))
        name, now = hook["id"], datetime.now(UTC)
        waiting = [
            Delivery(
                webhook=name, event=f"e{n}", body={}, state="pending", tries=3, next_try=now + timedelta(days=1), error="",
                created_at=now,
            )
            for n in range(3000)
        ]  # fmt: skip
        async with world.database.writing() as session:
            session.add_all(waiting)
        for n in range(30):
            await world.hear(a_status(job=f"epfl-v{n}"))
            assert (await process.bus.js.stream_info("WEBHOOKS")).state.messages <= 2
        await until_quiet(process)
        await until_kept(process, name, {"webhooks.later"})
        assert len(await process.hooks.deliveries(name, "pending", 5000)) == 3030

    async def test_what_no_try_could_deliver_is_one_dead_letter_and_is_sent_by_retry(self, world, process, monkeypatch):
        monkeypatch.setattr(outbox_module, "RETRY_AFTER", (SOON / 8,))
        receiver = Receiver()
        receiver.answer = 503
        counted = dead_letters_counted()
        async with receiver.up() as url:
            hook = await process.hooks.subscribe(Subscription(url=url))
            await world.hear(a_status())
            await until_states(process.hooks, hook, "dead", 1)
            letter = await process.bus.js.get_last_msg("DLQ", f"dlq.webhooks.due.{hook['id']}")
            assert json.loads(letter.data) == receiver.bodies[0]
            assert dead_letters_counted() == counted + 1
            assert letter.headers["Emporter-Error-Code"] == "delivery_failed"
            said = f"the receiver answered 503; emporter webhooks retry {hook['id']}"
            assert letter.headers["Emporter-Error-Message"] == said
            row = Delivery(webhook=hook["id"], event=receiver.bodies[0]["id"], body=receiver.bodies[0])
            await process.bells.set_aside(row, "a process that was killed before it could note that says so again")
            assert await process.letters() == 1
            receiver.answer = 200
            # Put back where it came from, a dead letter is but a doorbell.
            await process.bus.publish_raw(
                subjects.webhook_due(hook["id"]), letter.data, {"Nats-Msg-Id": f"again {hook['id']}"}, "WEBHOOKS"
            )
            await until_quiet(process)
            assert len(await process.hooks.deliveries(hook["id"], "dead", 1)) == 1
            assert await process.hooks.retry(hook["id"]) == 1
            await until_states(process.hooks, hook, "delivered", 1)
        assert await process.letters() == 1

    async def test_doorbells_of_nobody_and_with_anything_in_them_change_nothing(self, world, process):
        receiver = Receiver()
        async with receiver.up() as url:
            ended = await process.hooks.subscribe(Subscription(url=url))
            hook = await process.hooks.subscribe(Subscription(url=url))
            await process.hooks.unsubscribe(ended["id"])
            names = (ended["id"], LINEAGE, "x" * 200, "a'--", "%00", "a\x00b", "\N{SNOWMAN}", hook["id"])
            bodies = (b"", b"\xff\x00{", b'{"webhook": "http://evil/"}', b"[" * 1000, json.dumps({"data": "x" * 10_000}).encode())
            for n, body in enumerate(bodies):
                for name in names:
                    headers = {"ce-type": "io.emporter.surprise.v1", "Nats-Msg-Id": f"{hook['id']}.{name}{n}"}
                    await process.bus.publish_raw(subjects.webhook_due(name), body, headers, "WEBHOOKS")
                # Each is heard: the next would take its place.
                await until_quiet(process)
            assert receiver.events.total() == 0
            assert (await process.bus.js.stream_info("WEBHOOKS")).state.messages == 0
            # What is no text nobody can read, here as anywhere.
            assert await process.letters() == len(names)
            await world.hear(a_status())
            await until_states(process.hooks, hook, "delivered", 1)


class TestOverTheBusOnSqlite(OnSqlite, BusSuite):
    pass


class TestOverTheBusOnPostgres(OnPostgres, BusSuite):
    pass


class TestOverTheBus(OnSqlite):
    async def test_a_lost_doorbell_is_made_good_by_the_sweep(self, world: World, process):
        receiver = Receiver()
        async with receiver.up() as url:
            hook = await process.hooks.subscribe(Subscription(url=url))
            world.intake = Intake(world.database, world.objects, world.feed)
            await world.hear(a_status())
            sweeping = asyncio.create_task(process.sender.sweep_for_ever(0.05))
            await until_states(process.hooks, hook, "delivered", 1)
            sweeping.cancel()
            await asyncio.gather(sweeping, return_exceptions=True)
        assert receiver.events.total() == 1

    async def test_what_a_killed_process_held_is_told_after_its_lease_without_a_sweep(self, world, process, monkeypatch):
        monkeypatch.setattr(outbox_module, "LEASE", SOON)
        receiver = Receiver()
        async with receiver.up() as url:
            hook = await process.hooks.subscribe(Subscription(url=url))
            world.intake = Intake(world.database, world.objects, world.feed)
            await world.hear(a_status())
            free = datetime.now(UTC) + SOON
            await process.outbox.claim(hook["id"])
            # The bus rings again for who took a doorbell and was killed.
            await process.bells.ring(hook["id"])
            monkeypatch.setattr(outbox_module, "LEASE", timedelta(seconds=90))
            await until_states(process.hooks, hook, "delivered", 1)
            assert datetime.now(UTC) >= free
        assert receiver.events.total() == 1

    async def test_receivers_that_are_down_hang_or_answer_500_keep_nobody_waiting_and_lose_nothing(self, world, process):
        good, broken, hanging = Receiver(), Receiver(), Receiver()
        broken.answer, hanging.held = 500, asyncio.Event()
        jobs = 12
        async with good.up() as a, broken.up() as b, hanging.up() as c:
            known = {url: await process.hooks.subscribe(Subscription(url=url)) for url in (NOWHERE, b, c, a)}
            for n in range(jobs):
                await world.hear(a_status(job=f"epfl-v{n}"))
            await until_states(process.hooks, known[a], "delivered", jobs)
            assert set(good.events.values()) == {1}
            for url in (NOWHERE, b):
                assert len(await process.hooks.deliveries(known[url]["id"], "pending", 1000)) == jobs
            assert hanging.events.total() == 1
            hanging.held.set()
            await until_states(process.hooks, known[c], "delivered", jobs)
            assert set(hanging.events.values()) == {1}

    async def test_rows_of_a_subscription_that_was_ended_meanwhile_are_forgotten(self, world, process):
        now = datetime.now(UTC)
        row = Delivery(webhook="0" * 16, event="e", body={}, state="pending", tries=0, next_try=now, error="", created_at=now)
        async with world.database.writing() as session:
            session.add(row)
        await process.sender.sweep()

        async def gone() -> bool:
            return await process.outbox.next_try("0" * 16) is None

        await until(gone)
        assert await process.letters() == 0

    async def test_an_appointment_that_comes_too_early_makes_no_other(self, world, process, monkeypatch):
        """As one does where the clock of the bus is ahead."""
        monkeypatch.setattr(outbox_module, "RETRY_AFTER", (timedelta(days=1),))
        hook = await process.hooks.subscribe(Subscription(url=NOWHERE))
        await world.hear(a_status())
        await until_states(process.hooks, hook, "pending", 1)
        await until_quiet(process)
        await process.bells.ring_at(hook["id"], datetime.now(UTC) - timedelta(seconds=1))
        await until_kept(process, hook["id"], set())
        await until_quiet(process)
        await until_kept(process, hook["id"], set())
        [waiting] = await process.hooks.deliveries(hook["id"], "pending", 1)
        assert waiting["tries"] == 1

    async def test_a_stop_gives_back_what_was_claimed_and_not_tried(self, world, process):
        receiver = Receiver()
        receiver.held = asyncio.Event()
        async with receiver.up() as url:
            hook = await process.hooks.subscribe(Subscription(url=url))
            world.intake = Intake(world.database, world.objects, world.feed)
            await world.hear(*(a_status(job=f"epfl-v{n}") for n in range(3)))
            sweeping = asyncio.create_task(process.sender.sweep_for_ever(60))

            async def begun() -> bool:
                return receiver.events.total() == 1

            await until(begun)
            sweeping.cancel()
            await asyncio.gather(sweeping, return_exceptions=True)
            receiver.held.set()
            await until_states(process.hooks, hook, "delivered", 1)

            async def given_back() -> bool:
                return await process.outbox.due() == [hook["id"]]

            await until(given_back)

    async def test_dead_events_of_openlineage_are_listed_and_sent_again_too(self, world, process):
        now = datetime.now(UTC)
        row = Delivery(webhook=LINEAGE, event="e", body={}, state="dead", tries=11, next_try=now, error="no", created_at=now)
        async with world.database.writing() as session:
            session.add(row)
        told = []

        async def take(delivery):
            told.append(delivery.event)

        process.sender._lineage = take
        assert [d["event"] for d in await process.hooks.deliveries(LINEAGE, "dead", 10)] == ["e"]
        assert await process.hooks.retry(LINEAGE) == 1
        await until_states(process.hooks, {"id": LINEAGE}, "delivered", 1)
        assert told == ["e"]


async def test_what_waits_while_the_bus_is_gone_is_told_when_it_is_back_and_empty(tmp_path, sqlite, monkeypatch):
    monkeypatch.setattr("emporter_runtime.bus.PULL_TIMEOUT", 0.5)
    receiver, world = Receiver(), World(sqlite)
    with nats_server(tmp_path / "nats") as server:
        await server.until_ready()
        settings = Settings(nats_url=server.url, store_url=f"file://{tmp_path}/store", ack_wait_seconds=2.0)
        await provision(settings)
        async with receiver.up() as url, Process(settings, sqlite).running() as process:
            world.intake = Intake(sqlite, world.objects, world.feed, ring=process.bells.ring)
            hook = await process.hooks.subscribe(Subscription(url=url))
            server.kill()
            await world.hear(a_status())
            await process.sender.sweep()
            assert receiver.events.total() == 0
            server.wipe()
            server.start()
            await server.until_ready()
            await provision(settings)
            sweeping = asyncio.create_task(process.sender.sweep_for_ever(0.2))
            await until_states(process.hooks, hook, "delivered", 1)
            sweeping.cancel()
            await asyncio.gather(sweeping, return_exceptions=True)
    assert receiver.events.total() == 1
