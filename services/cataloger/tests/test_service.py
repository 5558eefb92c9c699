"""The whole service as a process: a real bus, a store in a folder, a SQLite file."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import httpx
import pytest

from cataloger.testing_builders import JOB, a_plan, a_record, a_status, store_commit, store_plan
from emporter_contracts import subjects
from emporter_contracts.commands import CatalogQuery
from emporter_contracts.events import LevelComplete, RawManifestComplete, RawPlanReady, VolumeComplete
from emporter_contracts.ids import VolumeRef
from emporter_runtime.bus import Bus
from emporter_runtime.objects import Objects
from emporter_runtime.removal import remove
from emporter_runtime.settings import Settings
from emporter_runtime.testing_bus import free_port, provisioned, speaking

WAIT = 60
"""Seconds until a claim that never comes true is a failure."""


class Running:
    """A cataloger process and everything around it."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.objects = Objects.open(settings)
        self.url = f"http://127.0.0.1:{free_port()}"
        self.environment = os.environ | {
            "EMPORTER_NATS_URL": settings.nats_url,
            "EMPORTER_STORE_URL": settings.store_url,
            "EMPORTER_ACK_WAIT_SECONDS": str(settings.ack_wait_seconds),
            "EMPORTER_SWEEP_SECONDS": "0.2",
            "EMPORTER_DATABASE_URL": f"sqlite+aiosqlite:///{folder}/catalog.db",
            "EMPORTER_HTTP_PORT": self.url.rsplit(":", 1)[1],
        }
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.process = await self.command()

    async def command(self, *work: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cataloger", *work, env=self.environment, stderr=asyncio.subprocess.PIPE
        )

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, list[dict]]:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(how)
        _, said = await asyncio.wait_for(self.process.communicate(), WAIT)
        assert self.process.returncode is not None
        return self.process.returncode, [json.loads(line) for line in said.splitlines() if line.startswith(b"{")]

    async def until(self, path: str, condition) -> dict:
        async with httpx.AsyncClient(base_url=self.url) as client, asyncio.timeout(WAIT):
            while True:
                try:
                    response = await client.get(path)
                    if condition(response):
                        return response.json()
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.05)

    async def ready(self) -> None:
        await self.until("/readyz", lambda r: r.status_code == 200)


@pytest.fixture
async def running(tmp_path):
    async with provisioned(tmp_path) as (settings, server):
        running = Running(settings, tmp_path)
        running.server = server
        await running.start()
        yield running
        if running.process is not None and running.process.returncode is None:
            await running.stop()


async def say(bus: Bus, version: int, state: str, **fields) -> None:
    status = a_status(state, version=version, **fields)
    await bus.publish(subjects.status(status.job), status, f"{status.job}.1.1.{version}", "STATUS")


async def test_a_run_heard_on_the_bus_is_found_over_http_and_over_the_bus(running):
    run = {"job": JOB, "revision": 1, "generation": 1}
    await store_plan(running.objects, a_plan())
    await store_commit(running.objects, a_record())
    await running.ready()
    async with speaking(running.settings) as bus:
        await say(bus, 1, "pending")
        await bus.publish(subjects.raw_plan_ready(JOB), RawPlanReady(**run, objects=1, bytes=1, volumes=(JOB,)), "p", "EVENTS")
        await bus.publish(subjects.raw_manifest_complete(JOB), RawManifestComplete(**run, objects=1, bytes=1), "m", "EVENTS")
        await bus.publish(subjects.level_complete(JOB, 1, 0), LevelComplete(**run, volume=JOB, level=0), "l", "EVENTS")
        await bus.publish(subjects.volume_complete(JOB, 1), VolumeComplete(**run, volume=JOB, digest="d"), "v", "EVENTS")
        await say(bus, 2, "complete", volumes=(JOB,), committed=(JOB,))
        record = await running.until(f"/v1/volumes/{JOB}", lambda r: r.status_code == 200 and r.json()["status"] == "complete")
        assert record["metadata"]["technical"]["sha256"] == "ab" * 32
        events = await running.until(f"/v1/volumes/{JOB}/events", lambda r: len(r.json().get("items", [])) == 6)
        assert {e["type"].split(".")[2] for e in events["items"]} == {
            "job_status", "raw_plan_ready", "raw_manifest_complete", "level_complete", "volume_complete",
        }  # fmt: skip

        async def ask(**query) -> dict:
            reply = await bus.connection.request(
                subjects.CATALOG_QUERY, CatalogQuery(**query).model_dump_json().encode(), timeout=5
            )
            return json.loads(reply.data)

        assert [v["volume"] for v in (await ask(q="hippocampus"))["items"]] == [JOB]
        assert (await ask(kind="job", id=JOB))["items"][0]["state"] == "complete"
        assert (await ask(kind="volume", id="epfl-none"))["code"] == "not_found"
        assert (await ask(sort="colour"))["code"] == "invalid_request"
        broken = await bus.connection.request(subjects.CATALOG_QUERY, b"{", timeout=5)
        assert json.loads(broken.data)["code"] == "invalid_request"


async def test_what_was_said_while_the_cataloger_was_killed_is_heard_afterwards(running):
    await running.ready()
    async with speaking(running.settings) as bus:
        await say(bus, 1, "pending")
        await running.until(f"/v1/jobs/{JOB}", lambda r: r.status_code == 200)
        await running.stop(signal.SIGKILL)
        await say(bus, 2, "processing")
        await say(bus, 3, "failed")
        await running.start()
        await running.until(f"/v1/jobs/{JOB}", lambda r: r.status_code == 200 and r.json()["state"] == "failed")


async def test_an_event_nobody_can_read_becomes_a_dead_letter_and_the_next_is_heard(running):
    await running.ready()
    async with speaking(running.settings) as bus:
        headers = {"ce-type": "io.emporter.surprise.v1", "ce-id": "s", "Nats-Msg-Id": "s"}
        await bus.publish_raw(subjects.raw_plan_ready(JOB), b"{}", headers, "EVENTS")
        await bus.publish_raw(subjects.status(JOB), b"not json", {"ce-id": "t", "Nats-Msg-Id": "t"}, "STATUS")
        await say(bus, 1, "pending")
        await running.until(f"/v1/jobs/{JOB}", lambda r: r.status_code == 200)
        async with asyncio.timeout(WAIT):
            while (await bus.js.stream_info("DLQ")).state.messages < 2:
                await asyncio.sleep(0.05)


async def test_http_is_answered_while_the_bus_is_down_and_readiness_says_which_part_is(running):
    await running.ready()
    async with speaking(running.settings) as bus:
        await say(bus, 1, "pending")
        await running.until(f"/v1/jobs/{JOB}", lambda r: r.status_code == 200)
    running.server.kill()
    answer = await running.until("/readyz", lambda r: r.status_code == 503)
    assert answer["checks"] == {"bus": False, "database": True, "store": True}
    assert (await running.until(f"/v1/jobs/{JOB}", lambda r: r.status_code == 200))["state"] == "pending"
    running.server.start()
    await running.server.until_ready()
    await running.ready()


async def test_a_told_cataloger_stops_cleanly_with_a_stream_open(running):
    await running.ready()
    async with speaking(running.settings) as bus:
        await say(bus, 1, "processing")
    await running.until(f"/v1/jobs/{JOB}", lambda r: r.status_code == 200)
    async with (
        httpx.AsyncClient(base_url=running.url, timeout=WAIT) as client,
        client.stream("GET", f"/v1/jobs/{JOB}/stream") as heard,
    ):
        lines = heard.aiter_lines()
        await anext(lines)
        code, said = await running.stop()
    assert code == 0
    assert said[-1]["event"] == "stopped_cleanly"
    assert not [line for line in said if line["level"] in ("error", "critical")]


async def test_a_cataloger_told_to_stop_while_it_waits_for_the_bus_stops(running):
    running.server.kill()
    await running.stop()
    await running.start()
    await running.until("/readyz", lambda r: r.status_code == 503)
    code, _ = await running.stop()
    assert code == 0


async def test_a_volume_removed_by_an_operator_is_marked_without_anybody_asking(running):
    await store_commit(running.objects, a_record())
    await running.ready()
    async with speaking(running.settings) as bus:
        await say(bus, 1, "complete", volumes=(JOB,), committed=(JOB,))
        await running.until("/v1/volumes?status=complete", lambda r: len(r.json()["items"]) == 1)
    await remove(running.objects, VolumeRef(JOB))
    await running.until("/v1/volumes?status=removed", lambda r: len(r.json()["items"]) == 1)


async def test_migrate_and_rebuild_are_commands_that_end(tmp_path):
    settings = Settings(store_url=f"file://{tmp_path}/store")
    world = Running(settings, tmp_path)
    await store_commit(world.objects, a_record())
    for work in ("migrate", "rebuild"):
        process = await world.command(work)
        _, said = await asyncio.wait_for(process.communicate(), WAIT)
        assert process.returncode == 0, said.decode()
    assert json.loads(next(line for line in said.splitlines() if b"rebuilt" in line))["revisions"] == 1


async def test_a_wrong_setting_is_one_line_and_exit_2(tmp_path):
    world = Running(Settings(store_url=f"file://{tmp_path}/store"), tmp_path)
    world.environment["EMPORTER_DATABASE_URL"] = "mysql://nowhere"
    process = await world.command()
    _, said = await asyncio.wait_for(process.communicate(), WAIT)
    assert process.returncode == 2
    assert b"EMPORTER_DATABASE_URL" in said
