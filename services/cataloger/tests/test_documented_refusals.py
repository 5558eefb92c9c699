"""The OpenAPI document of the catalog says its refusals as they come: problems, and no 422."""

from __future__ import annotations

from typing import Any

import httpx

from cataloger.api import graphql, hooks, writes
from cataloger.api.guard import WriteGuard
from cataloger.api.rest import build
from cataloger.curation import Curation
from cataloger.feed import Feed
from cataloger.testing_builders import JOB
from cataloger.testing_world import World
from cataloger.webhooks import Webhooks

PARTS = {"{volume}": "not-there", "{job}": "not-there", "{key}": "note", "{webhook}": "not-there"}

BODIES = {
    "/graphql": (["operationName", "query", "variables"], ["query"]),
    "/v1/webhooks": (["filter", "types", "url"], ["url"]),
}


def application(world: World, guard: WriteGuard) -> Any:
    more = (
        writes.routes(Curation(world.database, world.objects), guard),
        hooks.routes(Webhooks(world.database), guard),
        graphql.routes(world.catalog),
    )
    return build(world.catalog, world.removals, Feed(), {}, 1.0, *more)


def path_of(template: str) -> str:
    for name, value in PARTS.items():
        template = template.replace(name, value)
    return template


async def test_every_refusal_that_comes_is_documented_as_a_problem(sqlite) -> None:
    world = World(sqlite)
    await world.hear(await world.finished())
    app = application(world, WriteGuard("", "127.0.0.1"))
    document = app.openapi()
    seen: set[int] = set()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://catalog") as client:
        for template, methods in document["paths"].items():
            for method, operation in methods.items():
                for query in ("", "?limit=-1&cursor=%00&format=no&sha256=no"):
                    answer = await client.request(method.upper(), path_of(template) + query, json={})
                    if answer.status_code < 400:
                        continue
                    seen.add(answer.status_code)
                    assert str(answer.status_code) in operation["responses"], (method, template, answer.text)
                    said = operation["responses"][str(answer.status_code)]["content"]
                    assert answer.headers["content-type"] in said, (method, template)
        assert (await client.get(f"/v1/volumes/{JOB}")).status_code == 200
        stub = {"source": "idr", "source_id": "77"}
        entered = [(await client.post("/v1/volumes", json=stub)).status_code for _ in range(2)]
        assert entered == [201, 409]
        assert "409" in document["paths"]["/v1/volumes"]["post"]["responses"]
    assert seen >= {400, 404}


async def test_every_operation_that_takes_a_body_says_what_is_in_it(sqlite) -> None:
    document = application(World(sqlite), WriteGuard("", "127.0.0.1")).openapi()
    bare = {f"{method} {path}" for path, methods in document["paths"].items() for method, operation in methods.items()
            if method in ("post", "put", "patch") and "requestBody" not in operation}  # fmt: skip
    assert bare == {"post /v1/webhooks/{webhook}/retry"}, "which takes none"
    asked = {path: document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"] for path in BODIES}
    assert {path: (sorted(schema["properties"]), schema["required"]) for path, schema in asked.items()} == BODIES


def test_every_operation_may_demand_a_token_and_none_says_422(sqlite) -> None:
    document = application(World(sqlite), WriteGuard("", "127.0.0.1")).openapi()
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    assert len(operations) > 20
    for operation in operations:
        assert {"401", "403", "429", "503"} <= operation["responses"].keys()
        assert "422" not in operation["responses"]
    assert document["components"]["schemas"]["Problem"]["required"] == ["type", "title", "status", "code"]
