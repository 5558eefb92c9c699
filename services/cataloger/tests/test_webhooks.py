"""Who is told what, however often it takes: one suite on both databases, against real receivers."""

import asyncio
import base64
import hashlib
import hmac
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError
from sqlalchemy import update
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.routing import Route

from cataloger import sending
from cataloger.doorbells import Ring
from cataloger.errors import NotInCatalogError
from cataloger.intake import Intake
from cataloger.models import Delivery
from cataloger.openlineage import Backend, LineageSender
from cataloger.outbox import RETRY_AFTER, Outbox
from cataloger.posting import Post
from cataloger.sending import Sender
from cataloger.testing_builders import JOB, a_status
from cataloger.testing_databases import OnPostgres, OnSqlite
from cataloger.testing_doorbells import MemoryDoorbells
from cataloger.testing_world import World
from cataloger.webhooks import LINEAGE, Subscription, Webhooks
from emporter_contracts.events import LevelComplete
from emporter_runtime.errors import TransientError
from emporter_runtime.health import serving


class Receiver:
    """Answers as it is told, and keeps what it got."""

    def __init__(self) -> None:
        self.got: list[tuple[dict, bytes]] = []
        self.answer = 200
        self.held: asyncio.Event | None = None

    async def take(self, request):
        self.got.append((dict(request.headers), await request.body()))
        if self.held is not None:
            await self.held.wait()
        return RedirectResponse("http://127.0.0.1:1/") if self.answer == 307 else PlainTextResponse("", self.answer)

    @asynccontextmanager
    async def up(self, port: int = 0):
        app = Starlette(routes=[Route(path, self.take, methods=["POST"]) for path in ("/hook", "/api/v1/lineage")])
        async with serving(app, "127.0.0.1", port) as bound:
            yield f"http://127.0.0.1:{bound}/hook"


class WebhookSuite:
    @pytest.fixture
    def hooks(self, world):
        return Webhooks(world.database)

    @pytest.fixture
    def bells(self):
        return MemoryDoorbells()

    @pytest.fixture
    async def sender(self, world, bells):
        post = Post(allow_private=True)
        yield Sender(Outbox(world.database), bells, post)
        await post.close()

    def a_sender(self, world: World, bells: MemoryDoorbells, backend: Backend) -> Sender:
        return Sender(Outbox(world.database), bells, Post(allow_private=True), LineageSender(world.database, backend))

    async def due_now(self, world: World) -> None:
        async with world.database.writing() as session:
            await session.execute(update(Delivery).values(next_try=datetime.now(UTC) - timedelta(seconds=1)))

    async def test_an_event_is_told_signed_and_once(self, world, hooks, sender, bells):
        receiver = Receiver()
        async with receiver.up() as url:
            hook = await hooks.subscribe(Subscription(url=url, types=("io.emporter.volume_complete.v1",)))
            event = await world.finished()
            await world.hear(a_status(), event, event)
            await bells.all_told_by(sender)
            await bells.all_told_by(sender)
        [(headers, body)] = receiver.got
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        key = base64.b64decode(hook["secret"].removeprefix("whsec_"))
        assert headers["webhook-signature"] == "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        told = json.loads(body)
        assert (told["specversion"], told["type"], told["subject"]) == ("1.0", "io.emporter.volume_complete.v1", JOB)
        assert (told["id"], told["data"]["source"]) == (headers["webhook-id"], "epfl")

    async def test_of_a_jobs_states_those_that_move_it_are_told(self, world, hooks):
        hook = await hooks.subscribe(Subscription(url="http://receiver.example/"))
        for version, state in enumerate(["pending", "processing", "processing", "processing", "failed"], 1):
            await world.hear(a_status(state, version=version))
        told = [d["body"]["data"]["state"] for d in await hooks.deliveries(hook["id"], None, 100)]
        assert sorted(told) == ["failed", "pending", "processing"]

    @pytest.mark.parametrize(
        ("wanted", "told"),
        [
            ({"source": "epfl"}, True), ({"source": "idr"}, False), ({"job": JOB}, True), ({"volume": "x"}, False),
            ({"state": "failed"}, False), ({"state": "pending"}, True),
        ],
    )  # fmt: skip
    async def test_a_filter_says_what_is_told(self, world, hooks, wanted, told):
        hook = await hooks.subscribe(Subscription(url="http://receiver.example/", filter=wanted))
        await world.hear(a_status("pending"))
        assert bool(await hooks.deliveries(hook["id"], None, 10)) is told

    @pytest.mark.parametrize("answer", [500, 404, 307])
    async def test_a_receiver_that_refuses_is_told_again_later_and_in_order(self, world, hooks, sender, bells, answer):
        receiver = Receiver()
        receiver.answer = answer
        async with receiver.up() as url:
            hook = await hooks.subscribe(Subscription(url=url))
            await world.hear(a_status("pending"), a_status("processing", version=2))
            await bells.all_told_by(sender)
            (first,) = [d for d in await hooks.deliveries(hook["id"], "pending", 10) if d["tries"]]
            assert (first["tries"], first["error"]) == (1, f"the receiver answered {answer}")
            assert len(receiver.got) == 1
            assert bells.appointed[hook["id"]].isoformat() == first["next_try"]
            receiver.answer = 204
            await self.due_now(world)
            await bells.all_told_by(sender)
            assert [json.loads(body)["data"]["state"] for _, body in receiver.got] == ["pending", "pending", "processing"]
            assert await hooks.deliveries(hook["id"], "pending", 10) == []

    async def test_a_receiver_that_is_down_gets_all_it_missed_in_order_once_it_is_up(self, world, hooks, sender, bells):
        receiver = Receiver()
        async with receiver.up() as url:
            hook = await hooks.subscribe(Subscription(url=url))
        await world.hear(a_status("pending"), a_status("processing", version=2))
        await bells.all_told_by(sender)
        assert receiver.got == []
        assert len(await hooks.deliveries(hook["id"], "pending", 10)) == 2
        async with receiver.up(int(url.split(":")[2].split("/")[0])):
            await self.due_now(world)
            await bells.all_told_by(sender)
        assert [json.loads(body)["data"]["state"] for _, body in receiver.got] == ["pending", "processing"]

    async def test_what_a_killed_sender_had_taken_is_sent_by_another_after_its_lease(self, world, hooks, sender, bells):
        receiver = Receiver()
        async with receiver.up() as url:
            hook = await hooks.subscribe(Subscription(url=url))
            await world.hear(a_status())
            await Outbox(world.database).claim(hook["id"])
            await bells.all_told_by(sender)
            assert receiver.got == []
            await self.due_now(world)
            await bells.all_told_by(sender)
            assert len(receiver.got) == 1

    async def test_a_receiver_that_never_answers_well_ends_in_a_dead_letter_that_can_be_sent_again(
        self, world, hooks, sender, bells
    ):
        receiver = Receiver()
        receiver.answer = 503
        async with receiver.up() as url:
            hook = await hooks.subscribe(Subscription(url=url))
            await world.hear(a_status())
            for _ in range(len(RETRY_AFTER) + 1):
                await self.due_now(world)
                await bells.all_told_by(sender)
            [dead] = await hooks.deliveries(hook["id"], "dead", 10)
            assert dead["tries"] == len(RETRY_AFTER) + 1
            assert bells.letters == {(hook["id"], dead["event"]): "the receiver answered 503"}
            await self.due_now(world)
            await bells.all_told_by(sender)
            assert len(receiver.got) == len(RETRY_AFTER) + 1
            receiver.answer = 200
            assert await hooks.retry(hook["id"]) == 1
            await bells.all_told_by(sender)
            assert await hooks.deliveries(hook["id"], "dead", 10) == []

    async def test_a_receiver_that_hangs_keeps_only_itself_waiting(self, world, hooks, sender, bells):
        slow, quick = Receiver(), Receiver()
        slow.held = asyncio.Event()
        async with slow.up() as slow_url, quick.up() as quick_url:
            await hooks.subscribe(Subscription(url=slow_url))
            await hooks.subscribe(Subscription(url=quick_url))
            await world.hear(a_status())
            sending = asyncio.create_task(bells.all_told_by(sender))
            while not (quick.got and slow.got):
                await asyncio.sleep(0.01)
            await world.hear(a_status("processing", version=2))
            await sender.sweep()
            await bells.answered_by(sender)
            assert len(quick.got) == 2
            assert len(slow.got) == 1
            slow.held.set()
            await sending

    async def test_a_slow_receiver_is_told_no_more_than_fits_into_the_lease(self, world, hooks, sender, bells, monkeypatch):
        monkeypatch.setattr(sending, "LEASE", timedelta(seconds=sending.TRY_SECONDS))
        receiver = Receiver()
        async with receiver.up() as url:
            hook = await hooks.subscribe(Subscription(url=url))
            await world.hear(a_status(), a_status("processing", version=2))
            await sender.answer(Ring(hook["id"]))
            assert receiver.got == []
            assert bells.rung == {hook["id"]: Ring(hook["id"])}
            monkeypatch.undo()
            await bells.answered_by(sender)
            assert [json.loads(body)["data"]["state"] for _, body in receiver.got] == ["pending", "processing"]

    async def test_a_ring_that_comes_as_the_last_look_was_taken_is_answered(self, world, hooks, sender, bells, monkeypatch):
        hook = await hooks.subscribe(Subscription(url="http://receiver.example/"))
        look = Outbox.next_try

        async def look_then_hear(outbox, name):
            found = await look(outbox, name)
            await world.hear(a_status())
            await sender.answer(Ring(name))
            return found

        monkeypatch.setattr(Outbox, "next_try", look_then_hear)
        await sender.answer(Ring(hook["id"]))
        assert bells.rung == {hook["id"]: Ring(hook["id"])}

    async def test_a_dead_letter_that_could_not_be_laid_down_leaves_its_event_to_be_tried_once_more(
        self, world, hooks, sender, bells
    ):
        async def away(*_):
            raise TransientError("the bus is away")

        hook = await hooks.subscribe(Subscription(url="http://127.0.0.1:1/"))
        await world.hear(a_status())
        async with world.database.writing() as session:
            await session.execute(update(Delivery).values(tries=len(RETRY_AFTER)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bells, "set_aside", away)
            with pytest.raises(TransientError):
                await sender.answer(Ring(hook["id"]))
        assert await hooks.deliveries(hook["id"], "dead", 10) == []
        await self.due_now(world)
        await bells.all_told_by(sender)
        assert len(bells.letters) == len(await hooks.deliveries(hook["id"], "dead", 10)) == 1

    async def test_a_private_address_is_not_told(self, world, hooks):
        receiver = Receiver()
        post = Post(allow_private=False)
        async with receiver.up() as url:
            for address in (url, url.replace("127.0.0.1", "localhost"), url.replace("127.0.0.1", "[::ffff:127.0.0.1]")):
                await hooks.subscribe(Subscription(url=address))
            await world.hear(a_status())
            bells = MemoryDoorbells()
            await bells.all_told_by(Sender(Outbox(world.database), bells, post))
        await post.close()
        assert receiver.got == []
        for hook in await hooks.all():
            [delivery] = await hooks.deliveries(hook["id"], None, 10)
            assert "no public address" in delivery["error"]

    async def test_an_ended_subscription_is_told_nothing_more(self, world, hooks):
        hook = await hooks.subscribe(Subscription(url="http://receiver.example/"))
        await world.hear(a_status())
        await hooks.unsubscribe(hook["id"])
        assert await hooks.all() == []
        for call in (hooks.unsubscribe(hook["id"]), hooks.deliveries(hook["id"], None, 1), hooks.retry(hook["id"])):
            with pytest.raises(NotInCatalogError):
                await call

    async def test_events_without_a_volume_of_their_own_are_told_too(self, world, hooks):
        hook = await hooks.subscribe(Subscription(url="http://receiver.example/", types=("io.emporter.level_complete.v1",)))
        await world.hear(a_status(), LevelComplete(job=JOB, revision=1, generation=1, volume=JOB, level=0))
        [delivery] = await hooks.deliveries(hook["id"], None, 10)
        assert delivery["body"]["data"]["source"] == "epfl"

    async def test_runs_are_told_to_openlineage_in_a_file(self, world, bells, tmp_path):
        file = tmp_path / "lineage.jsonl"
        backend = Backend("", file)
        world.intake = Intake(world.database, world.objects, world.feed, states_also_to=[LINEAGE])
        await world.hear(a_status(), a_status("processing", version=2), await world.finished())
        await world.hear(a_status("complete", version=9, volumes=(JOB,), committed=(JOB,)))
        await bells.all_told_by(self.a_sender(world, bells, backend))
        told = [json.loads(line) for line in file.read_text().splitlines()]
        assert [e["eventType"] for e in told] == ["START", "COMPLETE"]
        assert told[-1]["outputs"][0]["name"] == f"{JOB}@r1"

    async def test_runs_are_told_to_openlineage_over_http_and_again_where_it_did_not_take_them(self, world, bells):
        receiver = Receiver()
        receiver.answer = 500
        world.intake = Intake(world.database, world.objects, world.feed, states_also_to=[LINEAGE])
        async with receiver.up() as url:
            backend = Backend(url.removesuffix("/hook"), None)
            sender = self.a_sender(world, bells, backend)
            await world.hear(a_status(), a_status("processing", version=2), await world.finished())
            await bells.all_told_by(sender)
            assert len(receiver.got) == 1
            receiver.answer = 201
            await world.hear(a_status("complete", version=9, volumes=(JOB,), committed=(JOB,)))
            await self.due_now(world)
            await bells.all_told_by(sender)
        told = [json.loads(body)["eventType"] for _, body in receiver.got]
        assert told == ["START", "START", "COMPLETE"]


class TestWebhooksOnSqlite(OnSqlite, WebhookSuite):
    pass


class TestWebhooksOnPostgres(OnPostgres, WebhookSuite):
    pass


@pytest.mark.parametrize(
    "asked",
    [
        {"url": "ftp://x/"},
        {"url": "http://user:pw@x/"},
        {"url": "x"},
        {"url": "http://x/", "filter": {"colour": "red"}},
        {"url": "http://" + "x" * 3000},
    ],
)
def test_a_subscription_that_makes_no_sense_is_refused(asked):
    with pytest.raises(ValidationError):
        Subscription.model_validate(asked)
