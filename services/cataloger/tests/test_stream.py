"""The state of a job as server-sent events, over a real connection."""

import asyncio
import json

import httpx
import pytest

from cataloger.api import stream
from cataloger.api.rest import build
from cataloger.feed import BACKLOG, Feed
from cataloger.intake import Intake
from cataloger.queries import Catalog
from cataloger.removal import Removals
from cataloger.testing_builders import JOB, a_status, fact_of
from emporter_runtime.health import serving
from emporter_runtime.objects import Objects

KEEP_ALIVE = 0.05
URL = f"/v1/jobs/{JOB}/stream"


class Story:
    """A catalog that hears states while somebody listens."""

    def __init__(self, database, feed: Feed) -> None:
        self.objects = Objects.in_memory()
        self.feed = feed
        self.intake = Intake(database, self.objects, feed)
        self.catalog = Catalog(database)
        self.app = build(self.catalog, Removals(database, self.objects, self.intake), feed, {}, KEEP_ALIVE)

    async def hear(self, state: str, version: int, **fields) -> None:
        status = a_status(state, version=version, **fields)
        await self.intake.state_changed(status, fact_of(status))


@pytest.fixture
def story(sqlite):
    return Story(sqlite, Feed())


@pytest.fixture
async def client(story):
    async with serving(story.app, "127.0.0.1", 0) as port:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            yield client
        story.feed.close()


async def events(response):
    """(event id, state) of each event; comments as (None, text)."""
    identity = ""
    async for line in response.aiter_lines():
        name, _, value = line.partition(": ")
        if name == "id":
            identity = value
        elif name == "data":
            yield identity, json.loads(value)["state"]
        elif name == "" and value:
            yield None, value


async def test_the_state_comes_at_once_then_each_change_until_the_job_ends(story, client):
    await story.hear("pending", 1)
    seen = []
    async with client.stream("GET", URL) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-cache"
        async for identity, state in events(response):
            if identity is None:
                continue
            seen.append((identity, state))
            version = len(seen) + 1
            if version <= 5:
                await story.hear("processing" if version < 5 else "failed", version)
    assert seen == [("1.1.1", "pending"), *((f"1.1.{v}", "processing") for v in (2, 3, 4)), ("1.1.5", "failed")]


@pytest.mark.parametrize("state", ["complete", "failed", "cancelled"])
async def test_a_job_that_ended_is_told_once_and_the_stream_ends(story, client, state):
    await story.hear(state, 9)
    response = await client.get(URL)
    assert response.text.count("event: state") == 1
    assert f'"state":"{state}"' in response.text


async def test_a_silent_job_keeps_its_stream_alive_with_comments(story, client):
    await story.hear("processing", 1)
    async with client.stream("GET", URL) as response:
        heard = events(response)
        assert await anext(heard) == ("1.1.1", "processing")
        assert await anext(heard) == (None, "still there")
        assert await anext(heard) == (None, "still there")
        await story.hear("cancelled", 2)
        assert [e async for e in heard if e[0] is not None] == [("1.1.2", "cancelled")]


async def test_an_older_state_that_comes_late_is_not_told(story, client):
    await story.hear("processing", 5)
    async with client.stream("GET", URL) as response:
        heard = events(response)
        await anext(heard)
        await story.hear("pending", 3)
        await story.hear("complete", 6)
        assert [e async for e in heard if e[0] is not None] == [("1.1.6", "complete")]


async def test_a_state_another_replica_took_in_is_told_too(story, client, sqlite):
    elsewhere = Story(sqlite, Feed())
    await story.hear("processing", 1)
    async with client.stream("GET", URL) as response:
        heard = events(response)
        await anext(heard)
        await elsewhere.hear("complete", 2)
        assert [e async for e in heard if e[0] is not None] == [("1.1.2", "complete")]


async def test_several_may_listen_and_one_that_goes_away_takes_nothing_with_it(story, client):
    await story.hear("processing", 1)
    async with client.stream("GET", URL) as one:
        async with client.stream("GET", URL) as other:
            await anext(events(other))
        heard = events(one)
        await anext(heard)
        await story.hear("complete", 2)
        assert [e async for e in heard if e[0] is not None] == [("1.1.2", "complete")]
    await until(lambda: not story.feed._listeners)


async def test_a_service_that_stops_ends_its_streams(story, client):
    await story.hear("processing", 1)
    async with client.stream("GET", URL) as response:
        heard = events(response)
        await anext(heard)
        story.feed.close()
        assert [e async for e in heard if e[0] is not None] == []


async def test_a_reader_that_lags_far_behind_misses_the_middle_and_never_the_end():
    feed = Feed()
    last = BACKLOG * 2
    with feed.listening(JOB) as coming:
        for version in range(1, last + 1):
            feed.tell(a_status("processing", version=version))
        heard = [coming.get_nowait().version for _ in range(coming.qsize())]
    assert heard[-1] == last
    assert len(heard) == BACKLOG


def test_an_event_is_one_line_of_data_whatever_the_state_says():
    status = a_status("failed", error={"code": "x", "message": "two\nlines\r\n\nand more", "hint": ""})
    assert stream.event(status).count("\n") == 4


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)
