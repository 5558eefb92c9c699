"""Several senders, and receivers that do harm: nothing is lost, nothing is told twice by two, nobody is led inward."""

import asyncio
import json
from collections import Counter
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.routing import Route

from cataloger.testing_builders import a_status
from cataloger.testing_databases import OnPostgres, OnSqlite
from cataloger.webhooks import Post, Sender, Subscription, Webhooks
from emporter_runtime.health import serving

JOBS = 25


@asynccontextmanager
async def receiver(answer):
    """A receiver whose `answer` is handed each request."""
    async with serving(Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])]), "127.0.0.1", 0) as port:
        yield f"http://127.0.0.1:{port}/hook"


class SendersSuite:
    async def test_two_senders_on_one_database_tell_each_event_once(self, world):
        told: Counter[str] = Counter()

        async def take(request):
            told[request.headers["webhook-id"]] += 1
            await asyncio.sleep(0)
            return PlainTextResponse("")

        posts = [Post(allow_private=True) for _ in range(2)]
        async with receiver(take) as url:
            hook = await Webhooks(world.database).subscribe(Subscription(url=url))
            await world.hear(*(a_status(job=f"epfl-v{n}") for n in range(JOBS)))
            await asyncio.gather(*(Sender(world.database, post).send_due() for post in posts))
            assert len(await Webhooks(world.database).deliveries(hook["id"], "delivered", 1000)) == JOBS
        assert set(told.values()) == {1}
        assert len(told) == JOBS
        for post in posts:
            await post.close()

    async def test_a_receiver_that_redirects_inward_leads_nobody_there(self, world):
        inside = []

        async def take(request):
            inside.append(await request.body())
            return PlainTextResponse("")

        async with receiver(take) as private:

            async def lead(_):
                return RedirectResponse(private, 307)

            async with receiver(lead) as url:
                hook = await Webhooks(world.database).subscribe(Subscription(url=url))
                await world.hear(a_status())
                post = Post(allow_private=True)
                await Sender(world.database, post).send_due()
                await post.close()
        assert inside == []
        [waiting] = await Webhooks(world.database).deliveries(hook["id"], "pending", 10)
        assert "307" in waiting["error"]

    async def test_receivers_that_are_down_hang_or_answer_500_keep_nobody_waiting_and_lose_nothing(self, world):
        release = asyncio.Event()
        good: list[str] = []

        async def take(request):
            good.append(json.loads(await request.body())["data"]["job"])
            return PlainTextResponse("")

        async def fail(_):
            return PlainTextResponse("", 500)

        async def hang(_):
            await release.wait()
            return PlainTextResponse("")

        hooks = Webhooks(world.database)
        post = Post(allow_private=True)
        sender = Sender(world.database, post)
        async with receiver(take) as a, receiver(fail) as b, receiver(hang) as c:
            known = {url: await hooks.subscribe(Subscription(url=url)) for url in ("http://127.0.0.1:1/", b, c, a)}
            sending = asyncio.create_task(sender.send_for_ever())
            for n in range(JOBS):
                await world.hear(a_status(job=f"epfl-v{n}"))
            async with asyncio.timeout(60):
                while len(good) < JOBS:
                    await asyncio.sleep(0.02)
            assert sorted(good) == sorted(f"epfl-v{n}" for n in range(JOBS))
            release.set()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            for url in ("http://127.0.0.1:1/", b):
                assert len(await hooks.deliveries(known[url]["id"], "pending", 1000)) == JOBS
        await post.close()


class TestSendersOnSqlite(OnSqlite, SendersSuite):
    pass


class TestSendersOnPostgres(OnPostgres, SendersSuite):
    pass
