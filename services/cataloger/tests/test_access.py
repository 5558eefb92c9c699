"""A catalog that demands tokens: nothing of it is read without one for all volumes, whichever route is asked."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.middleware import Middleware

from cataloger.api import graphql, hooks, writes
from cataloger.api.gate import CatalogGate
from cataloger.api.guard import WriteGuard
from cataloger.api.rest import build
from cataloger.curation import Curation
from cataloger.feed import Feed
from cataloger.settings import CatalogerSettings
from cataloger.testing_builders import JOB
from cataloger.testing_world import World
from cataloger.webhooks import Webhooks
from emporter_runtime.access import AccessSettingsError
from emporter_runtime.access_gate import OPEN_PATHS, Access
from emporter_runtime.access_links import LinkKeys
from emporter_runtime.access_tokens import Tokens, changing, new_token
from emporter_runtime.health import serving

WRITES = "w" * 20


def routes_of(routes: Any) -> Iterator[tuple[str, str]]:
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from routes_of(inner.routes)
        else:
            yield from ((method, route.path) for method in set(route.methods) - {"HEAD"})


@asynccontextmanager
async def closed(world: World, folder: Path):
    """Yields a client, the texts of tokens by kind, and every route there is."""
    kinds = {"all": new_token("a", ["*"]), "one": new_token("b", [JOB]), "metrics": new_token("c", [], metrics=True)}
    with changing(folder / "tokens.json") as replace:
        replace([token for token, _ in kinds.values()])
    access = Access(Tokens(folder / "tokens.json"), LinkKeys(["k" * 40]), demanded=True)
    guard = WriteGuard(WRITES, "0.0.0.0")
    more = (
        writes.routes(Curation(world.database, world.objects), guard),
        graphql.routes(world.catalog),
        hooks.routes(Webhooks(world.database), guard),
    )
    app = build(world.catalog, world.removals, Feed(), {}, 1.0, *more)
    app.user_middleware.append(Middleware(CatalogGate, access=access, write_token=WRITES))
    async with serving(app, "127.0.0.1", 0) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        yield client, {kind: text for kind, (_, text) in kinds.items()}, sorted(routes_of(app.routes))


def bearing(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


async def test_no_route_of_the_catalog_answers_without_a_token_for_all_volumes(sqlite, tmp_path: Path):
    world = World(sqlite)
    await world.hear(await world.finished())
    async with closed(world, tmp_path) as (client, tokens, routes):
        assert len(routes) > 20
        for method, path in routes:
            if path in OPEN_PATHS:
                assert (await client.request(method, path)).status_code == 200
                continue
            asked = path.replace("{volume}", JOB).replace("{job}", JOB)
            for headers, status in (({}, 401), (bearing("emt_x"), 401), (bearing(tokens["one"]), 403)):
                answer = await client.request(method, asked, headers=headers, json={})
                assert answer.status_code == status, (method, path)
                assert answer.headers["content-type"] == "application/problem+json"
                assert answer.json()["hint"]


async def test_with_a_token_for_all_volumes_it_is_read_and_with_that_of_writes_written(sqlite, tmp_path: Path):
    world = World(sqlite)
    await world.hear(await world.finished())
    async with closed(world, tmp_path) as (client, tokens, _):
        everything = bearing(tokens["all"])
        assert (await client.get(f"/v1/volumes/{JOB}", headers=everything)).json()["volume"] == JOB
        assert (await client.get("/v1/volumes", headers=everything)).status_code == 200
        assert (await client.get("/openapi.json", headers=everything)).status_code == 200
        put = f"/v1/volumes/{JOB}/annotations/k"
        assert (await client.put(put, json={"value": "x"}, headers=everything)).status_code == 401
        assert (await client.put(put, json={"value": "x"}, headers=bearing(WRITES))).status_code == 200
        assert (await client.get("/metrics", headers=bearing(tokens["metrics"]))).status_code == 200
        assert (await client.get("/metrics", headers=everything)).status_code == 403
        assert (await client.get("/v1/volumes", headers=bearing(tokens["metrics"]))).status_code == 403


async def test_a_browser_may_ask_whether_it_may_send_a_token(sqlite, tmp_path: Path):
    async with closed(World(sqlite), tmp_path) as (client, _, __):
        ask = {
            "Origin": "http://elsewhere",
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "authorization",
        }
        assert (await client.options("/v1/volumes", headers=ask)).status_code == 200
        refused = await client.get("/v1/volumes", headers={"Origin": "http://elsewhere"})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "*")


def test_a_catalog_others_can_reach_does_not_start_without_saying_who_may_read():
    with pytest.raises(AccessSettingsError):
        CatalogerSettings(http_host="0.0.0.0").who_may_read()
    assert CatalogerSettings(http_host="0.0.0.0", access="open").who_may_read() is None
    assert CatalogerSettings().who_may_read() is None


def test_the_service_itself_ends_with_what_to_do(tmp_path: Path):
    env = {name: value for name, value in os.environ.items() if not name.startswith("EMPORTER_")}
    env |= {"EMPORTER_HTTP_HOST": "0.0.0.0", "EMPORTER_STORE_URL": f"file://{tmp_path}"}
    done = subprocess.run(
        [sys.executable, "-m", "cataloger"], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert "EMPORTER_ACCESS=open" in done.stderr
