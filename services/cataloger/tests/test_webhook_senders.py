"""Several senders, and receivers that do harm: nothing is lost, nothing is told twice by two, nobody is led inward."""

import asyncio
from collections import Counter
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.routing import Route

from cataloger.outbox import Outbox
from cataloger.posting import Post
from cataloger.sending import Sender
from cataloger.testing_builders import a_status
from cataloger.testing_databases import OnPostgres, OnSqlite
from cataloger.testing_doorbells import MemoryDoorbells
from cataloger.webhooks import Subscription, Webhooks
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
            outbox = Outbox(world.database)
            pairs = [(MemoryDoorbells(), post) for post in posts]
            await asyncio.gather(*(bells.all_told_by(Sender(outbox, bells, post)) for bells, post in pairs))
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
                bells = MemoryDoorbells()
                await bells.all_told_by(Sender(Outbox(world.database), bells, post))
                await post.close()
        assert inside == []
        [waiting] = await Webhooks(world.database).deliveries(hook["id"], "pending", 10)
        assert "307" in waiting["error"]


class TestSendersOnSqlite(OnSqlite, SendersSuite):
    pass


class TestSendersOnPostgres(OnPostgres, SendersSuite):
    pass
