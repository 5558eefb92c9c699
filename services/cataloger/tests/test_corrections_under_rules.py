"""What rules say of a correction reaches whoever asked for it over HTTP: refused with the rule's name, or held by it."""

from __future__ import annotations

import json
from typing import Any

import httpx

from cataloger.api import corrections
from cataloger.api.guard import WriteGuard
from cataloger.api.rest import build
from cataloger.feed import Feed
from cataloger.revising import Corrections
from cataloger.testing_builders import JOB
from cataloger.testing_world import World
from emporter_contracts.revisions import Revised, ReviseVolume


def web(world: World, answer: dict[str, Any]) -> httpx.AsyncClient:
    """The catalog's API, with a converter that answers so."""

    async def ask(_: ReviseVolume) -> bytes:
        return json.dumps(answer).encode()

    routes = corrections.routes(Corrections(ask, world.objects, world.intake), WriteGuard("", "127.0.0.1"))
    app = build(world.catalog, world.removals, Feed(), {}, 15.0, routes)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://catalog")


async def test_a_correction_that_a_rule_refuses_is_403_and_names_the_rule(sqlite) -> None:
    refused = {"code": "policy_denied", "message": f"policy rule no-secrets refuses {JOB}@r2", "hint": "ask"}
    answer = await web(World(sqlite), refused).post(f"/v1/volumes/{JOB}/revisions", json={"name": "x"})
    assert (answer.status_code, answer.headers["content-type"]) == (403, "application/problem+json")
    assert (answer.json()["code"], "no-secrets" in answer.text) == ("policy_denied", True)


async def test_a_correction_that_a_rule_holds_is_made_and_says_who_holds_it(sqlite) -> None:
    world = World(sqlite)
    await world.hear(await world.finished(run=(2, 1)))
    made = Revised(volume=JOB, revision=2, revises=1, held_by=("coarse",)).model_dump()
    answer = await web(world, made).post(f"/v1/volumes/{JOB}/revisions", json={"name": "x"})
    assert (answer.status_code, answer.json()["held_by"]) == (201, ["coarse"])
