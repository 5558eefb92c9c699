"""A question that no index answers ends after a while, with what to ask instead; on both databases."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy import event, text

from cataloger.api.rest import build
from cataloger.database import POOL_SIZE
from cataloger.errors import TooSlowError
from cataloger.queries import DEMANDING, Catalog
from cataloger.testing_builders import a_status
from cataloger.testing_databases import OnPostgres, OnSqlite
from cataloger.testing_world import World
from emporter_contracts.commands import CatalogQuery

HARD = CatalogQuery(where=("additional_metadata.dose>=1000",))
HARD_FACETS = HARD.model_copy(update={"kind": "facets"})


class PatienceSuite:
    @pytest.fixture
    async def some(self, world: World) -> World:
        for n in range(20):
            await world.hear(a_status(job=f"idr-{n}"))
        return world

    @pytest.mark.parametrize("ask", ["volumes", "facets"])
    async def test_a_question_that_takes_too_long_is_ended_and_says_what_to_ask_instead(self, some, ask):
        hasty = Catalog(some.database, patience=0.05)
        async with self.slow(some):
            with pytest.raises(TooSlowError, match="seconds") as ended:
                await getattr(hasty, ask)(HARD_FACETS if ask == "facets" else HARD)
        assert (ended.value.code, "source=" in ended.value.hint) == ("too_slow", True)
        assert ("page by page" in ended.value.hint) is self.GOES_ON, "only where it does"

    async def test_over_http_it_is_the_askers_400_with_the_hint(self, some):
        app = build(Catalog(some.database, patience=0.05), some.removals, some.feed, {}, 15)
        async with self.slow(some), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://catalog") as client:
            answer = await client.get("/v1/volumes", params={"where": HARD.where[0]})
        assert (answer.status_code, answer.json()["code"]) == (400, "too_slow")
        assert answer.headers["content-type"] == "application/problem+json"

    async def test_the_connection_it_ran_on_is_as_patient_as_before(self, some):
        hasty = Catalog(some.database, patience=0.05)
        async with self.slow(some):
            with pytest.raises(TooSlowError):
                await hasty.volumes(HARD)
        assert len((await hasty.volumes(CatalogQuery())).items) == 20
        # All connections at once, so that the two it asked on are among them.
        async with AsyncExitStack() as sessions:
            all_of_them = [await sessions.enter_async_context(some.database.reading()) for _ in range(POOL_SIZE)]
            await asyncio.gather(*(session.execute(text(self.A_WHILE)) for session in all_of_them))

    async def test_many_such_questions_leave_connections_for_others(self, some):
        running, most = 0, 0
        asking = some.database.asking

        @asynccontextmanager
        async def counted(seconds: float) -> AsyncIterator:
            nonlocal running, most
            async with asking(seconds) as session:
                running += 1
                most = max(most, running)
                yield session
                await asyncio.sleep(0)
                running -= 1

        some.database.asking = counted
        await asyncio.gather(*(some.catalog.volumes(HARD) for _ in range(4 * DEMANDING)))
        assert most <= DEMANDING


class TestPatienceOnSqlite(OnSqlite, PatienceSuite):
    GOES_ON = False
    A_WHILE = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 500000) SELECT max(i) FROM n"

    @asynccontextmanager
    async def slow(self, world: World) -> AsyncIterator[None]:
        """Looking at one record takes a fiftieth of a second."""
        engine = world.database._engine.sync_engine

        def dawdle(connection: Any, *_: Any) -> None:
            connection.create_function("emporter_json_match", 2, lambda *_: time.sleep(0.02) or 0)

        event.listen(engine, "checkout", dawdle)
        yield
        event.remove(engine, "checkout", dawdle)


class TestPatienceOnPostgres(OnPostgres, PatienceSuite):
    GOES_ON = True
    A_WHILE = "SELECT pg_sleep(0.2)"

    @asynccontextmanager
    async def slow(self, world: World) -> AsyncIterator[None]:
        """Somebody holds the table."""
        async with world.database.writing() as session:
            await session.execute(text("LOCK TABLE volumes IN ACCESS EXCLUSIVE MODE"))
            yield
