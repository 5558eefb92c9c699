"""Catalogers and their database are killed all along many ingests: what the catalog says in the end is what store and streams say.

`make test` kills 8 times over 24 ingests; `make chaos-catalog` sets EMPORTER_CHAOS_INGESTS=200, EMPORTER_CHAOS_CATALOG_KILLS=200 and
EMPORTER_CHAOS_WHOLE=200.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tifffile
from sqlalchemy import func, select, update
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from cataloger.database import Database
from cataloger.models import Delivery, Event, Revision
from cataloger.testing import postgres_binaries
from cataloger.testing_ingests import Ingests
from cataloger.testing_killed import Cataloger, Postgres, differences, killable_postgres, rows
from cataloger.webhooks import Subscription, Webhooks
from emporter.testing import running_stack
from emporter_contracts.commands import IngestRequest
from emporter_contracts.jobs import JobState
from emporter_runtime.bus import Bus
from emporter_runtime.health import serving
from emporter_runtime.objects import Objects
from emporter_runtime.settings import Settings
from emporter_runtime.testing_bus import free_port, provisioned

INGESTS = int(os.environ.get("EMPORTER_CHAOS_INGESTS", "24"))
KILLS = int(os.environ.get("EMPORTER_CHAOS_CATALOG_KILLS", "8"))
WHOLE = int(os.environ.get("EMPORTER_CHAOS_WHOLE", "6"))
"""Phantoms that go the whole way, with real services."""
A_MINUTE = 65.0
SEED = int(os.environ.get("EMPORTER_CHAOS_SEED", "6"))
AT_ONCE = 6
WAIT = 400
"""Seconds until a claim that never comes true is a failure."""
CONSUMERS = (("STATUS", "cataloger-status"), ("EVENTS", "cataloger-events"))

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(postgres_binaries() is None, reason="no PostgreSQL server here (Debian: apt-get install postgresql)"),
]


class Told:
    """A webhook's receiver: how often it was told which event."""

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()

    @asynccontextmanager
    async def up_with(self):
        async def take(request):
            self.events[request.headers["webhook-id"]] += 1
            return PlainTextResponse("")

        async with serving(Starlette(routes=[Route("/hook", take, methods=["POST"])]), "127.0.0.1", 0) as port:
            yield self, f"http://127.0.0.1:{port}/hook"


class Annotator:
    """A user who notes things about volumes, and tries again until each is taken."""

    def __init__(self, url: str, ingests: Ingests, rng: random.Random) -> None:
        self._url, self._ingests, self._rng = url, ingests, rng
        self.noted: dict[tuple[str, str], str] = {}

    async def for_ever(self) -> None:
        async with httpx.AsyncClient(base_url=self._url, timeout=10) as client:
            for n in range(10_000):
                while not self._ingests.readable:
                    await asyncio.sleep(0.05)
                await self._note(client, self._rng.choice(self._ingests.readable), f"key{n % 3}", str(n))
                await asyncio.sleep(0.2)

    async def _note(self, client: httpx.AsyncClient, volume: str, key: str, value: str) -> None:
        self.noted[volume, key] = value
        while True:
            try:
                answer = await client.put(f"/v1/volumes/{volume}/annotations/{key}", json={"value": value})
            except httpx.TransportError:
                await asyncio.sleep(0.05)
                continue
            if answer.status_code == 200:
                return
            # Not there yet: the catalog is still catching up.
            assert answer.status_code in (404, 503), answer.text
            await asyncio.sleep(0.05)


async def handled(bus: Bus) -> int:
    """How many messages the cataloger acknowledged, of both its consumers."""
    infos = [await bus.js.consumer_info(stream, name) for stream, name in CONSUMERS]
    return sum(info.ack_floor.consumer_seq if info.ack_floor else 0 for info in infos)


async def caught_up(bus: Bus) -> bool:
    infos = [await bus.js.consumer_info(stream, name) for stream, name in CONSUMERS]
    return all(info.num_pending == 0 and info.num_ack_pending == 0 for info in infos)


async def until(condition: Callable[[], Any], what: str, said: Callable[[], str] = str) -> None:
    try:
        async with asyncio.timeout(WAIT):
            while not await condition():
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"not within {WAIT} s: {what}; {said()}")


async def kill_all_along(
    bus: Bus, cataloger: Cataloger, server: Postgres | None, ingests: Ingests, rng: random.Random
) -> Counter[str]:
    """Carry all ingests out, some at once, and kill at every few of them, wherever the cataloger then is."""
    killed: Counter[str] = Counter()
    slots = asyncio.Semaphore(AT_ONCE)
    running: set[asyncio.Task[None]] = set()

    async def one(n: int) -> None:
        async with slots:
            await ingests.carry_out(n)

    begun = 0
    for kill in range(KILLS):
        before = await handled(bus)
        due = -(-INGESTS * (kill + 1) // KILLS)
        while begun < due:
            running.add(asyncio.create_task(one(begun)))
            begun += 1

        async def moved(before: int = before) -> bool:
            return await handled(bus) > before or await caught_up(bus)

        await until(moved, "the cataloger goes on", cataloger.said)
        await asyncio.sleep(rng.uniform(0, 0.2))
        victim = rng.choices(["cataloger", "postgres", "both"], [4, 5, 1])[0] if server else "cataloger"
        if server and victim != "cataloger":
            server.kill()
        if victim != "postgres":
            cataloger.kill()
            cataloger.start()
        if server and victim != "cataloger":
            server.start()
            server.wait()
        killed[victim] += 1
    await asyncio.gather(*running)
    return killed


async def due_now(database: Database) -> None:
    """What a killed sender had taken is sent after a lease of a minute and a half; the test has no time for that."""
    async with database.writing() as session:
        past = datetime.now(UTC) - timedelta(seconds=1)
        await session.execute(update(Delivery).where(Delivery.state == "pending").values(next_try=past))


async def all_told(database: Database) -> bool:
    await due_now(database)
    async with database.reading() as session:
        left = select(func.count()).select_from(Delivery).where(Delivery.state != "delivered")
        return (await session.execute(left)).scalar_one() == 0


async def as_expected(database: Database, ingests: Ingests) -> bool:
    """Whether the catalog says of each volume what has to be said; tombstones and releases it finds by looking."""
    found = (await rows(database))["volumes"]
    return {v: (row["status"], row["revision"]) for v, row in found.items()} == ingests.expected


async def check_equal(live: Database, cataloger: Cataloger, url: str) -> dict[str, int]:
    """A catalog made again in an empty database is this one, row by row; how many rows of which table."""
    cataloger.run("rebuild", EMPORTER_DATABASE_URL=url)
    again = Database.open(url)
    try:
        one, other = await rows(live), await rows(again)
    finally:
        await again.close()
    unlike = differences(one, other)
    assert not unlike, "\n".join(unlike[:20])
    return {table: len(found) for table, found in one.items()}


def cataloger_of(settings: Settings, url: str, port: int, folder: Path) -> Cataloger:
    environment = {
        "EMPORTER_NATS_URL": settings.nats_url,
        "EMPORTER_STORE_URL": settings.store_url,
        "EMPORTER_ACK_WAIT_SECONDS": str(settings.ack_wait_seconds),
        "EMPORTER_SWEEP_SECONDS": "0.5",
        "EMPORTER_DATABASE_URL": url,
        "EMPORTER_HTTP_PORT": str(port),
        "EMPORTER_WEBHOOK_ALLOW_PRIVATE": "true",
        "EMPORTER_LOG_LEVEL": "warning",
    }
    return Cataloger(environment, folder / "cataloger.log")


async def ordeal(folder: Path, url: str, again: str, server: Postgres | None) -> None:
    """The whole: subscribe, annotate, ingest and kill; then catch up, and compare with a catalog made again."""
    async with provisioned(folder) as (settings, _), Told().up_with() as (told, hook):
        bus, objects = Bus(settings, "test"), Objects.open(settings)
        await bus.broker.connect()
        database = Database.open(url)
        await database.migrate()
        await Webhooks(database).subscribe(Subscription(url=hook, types=("io.emporter.volume_complete.v1",)))
        port = free_port()
        cataloger, ingests = cataloger_of(settings, url, port, folder), Ingests(bus, objects, SEED)
        cataloger.start()
        rng = random.Random(SEED)
        user = Annotator(f"http://127.0.0.1:{port}", ingests, random.Random(SEED + 1))
        noting = asyncio.create_task(user.for_ever())
        try:
            killed = await kill_all_along(bus, cataloger, server, ingests, rng)
            await until(lambda: caught_up(bus), "everything is handled", cataloger.said)
            noting.cancel()
            await asyncio.gather(noting, return_exceptions=True)
            await until(lambda: as_expected(database, ingests), f"all is as expected: {ingests.expected}", cataloger.said)
            await until(lambda: all_told(database), "every event is told", cataloger.said)
            cataloger.stop()
            count = await check_equal(database, cataloger, again)
            assert all(count.values()), f"a table without a row is equal to any: {count}"
            assert (await bus.js.stream_info("DLQ")).state.messages == 0
            await check_told(database, told, ingests)
        finally:
            noting.cancel()
            cataloger.kill()
            await database.close()
            await bus.broker.stop()
    print(
        f"{INGESTS} ingests, killed {dict(killed)}, rows equal {count}, {sum(told.events.values())} tellings of {len(told.events)} events"
    )


async def check_told(database: Database, told: Told, ingests: Ingests) -> None:
    async with database.reading() as session:
        wanted = select(Event.id).where(Event.type == "io.emporter.volume_complete.v1")
        events = set((await session.execute(wanted)).scalars())
        commits = select(func.count()).select_from(Revision).where(Revision.committed.is_(True))
        assert len(events) == (await session.execute(commits)).scalar_one() > 0
    assert set(told.events) == events


async def test_after_any_kills_of_cataloger_and_postgres_the_catalog_is_that_of_store_and_streams(tmp_path: Path) -> None:
    with killable_postgres() as server:
        await ordeal(tmp_path, server.create("live"), server.create("again"), server)


async def test_after_any_kills_of_the_cataloger_a_catalog_on_sqlite_is_that_of_store_and_streams(tmp_path: Path) -> None:
    sqlite = f"sqlite+aiosqlite:///{tmp_path}"
    await ordeal(tmp_path, f"{sqlite}/live.db", f"{sqlite}/again.db", None)


def test_the_same_holds_for_volumes_that_went_the_whole_way(tmp_path: Path) -> None:
    """Real fetcher, converter, store and bus; the cataloger's database is a PostgreSQL that is killed with it."""
    rng = random.Random(SEED)
    (tmp_path / "phantoms").mkdir()
    for n in range(WHOLE):
        data = np.random.default_rng(n).integers(0, 255, (4 + n % 30, 32, 48), "uint8")
        tifffile.imwrite(tmp_path / "phantoms" / f"p{n}.tif", data, photometric="minisblack")
    with killable_postgres() as server:
        env = {"EMPORTER_DATABASE_URL": server.create("live")}
        with running_stack(tmp_path / "stack", env=env, file_roots={"here": tmp_path / "phantoms"}) as stack:
            client = stack.client()
            jobs, killed = [], list[float]()
            for n in range(WHOLE):
                jobs.append(client.ingest(IngestRequest(source="file-root", source_id=f"here/p{n}.tif")).job)
                # A stack goes down by itself when one of its processes dies five times within a minute.
                often = sum(time.monotonic() - then < A_MINUTE for then in killed) == 4
                if n % 2 and not often:
                    stack.until(lambda: stack.is_ready("cataloger"), "the cataloger works")
                    killed.append(time.monotonic())
                    stack.kill("cataloger")
                else:
                    some = rng.choice(jobs)
                    stack.until(lambda some=some: client.status(some).fetch.done > 0, "one is fetched")
                server.kill()
                server.start()
                server.wait()
            assert len(killed) >= 3
            assert {client.wait(job).state for job in jobs} == {JobState.COMPLETE}
            stack.close_clients()
            asyncio.run(compare_stack(stack, server, env["EMPORTER_DATABASE_URL"], jobs))
    print(f"{WHOLE} ingests the whole way, PostgreSQL killed {WHOLE} times, the cataloger {len(killed)} times: all rows equal")


async def compare_stack(stack: Any, server: Postgres, url: str, jobs: list[str]) -> None:
    settings = stack.settings()
    bus, live = Bus(settings, "test"), Database.open(url)
    await bus.broker.connect()

    async def complete() -> bool:
        return {v for v, row in (await rows(live))["volumes"].items() if row["status"] == "complete"} == set(jobs)

    try:
        await until(lambda: caught_up(bus), "everything is handled")
        await until(complete, "all volumes are complete")
        operator = json.loads(stack.files.operator.read_text())
        environment = {f"EMPORTER_{k.upper()}": str(v) for k, v in operator.items()}
        await check_equal(live, Cataloger(environment, stack.dir / "rebuild.log"), server.create("again"))
    finally:
        await live.close()
        await bus.broker.stop()
