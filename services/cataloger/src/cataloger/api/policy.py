"""The routes of the policy: which rules there are, what they decided, what they would say of a volume."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Query

from cataloger.api.rest import Cursor, Limit, Routes
from cataloger.errors import NotInCatalogError
from cataloger.policy import Policies, Wanted
from emporter_contracts.ids import VolumeRef
from emporter_contracts.policy import Outcome, Point

Name = Annotated[str | None, Query(max_length=140)]


def routes(policies: Policies) -> Routes:
    """Adds the routes to an application."""

    def add(app: FastAPI) -> None:
        @app.get("/v1/policy")
        async def policy() -> dict[str, Any]:
            """The policy in force: its rules, and what retention takes away."""
            return policies.in_force()

        @app.get("/v1/policy/decisions")
        async def decisions(
            job: Name = None,
            volume: Name = None,
            rule: Name = None,
            point: Point | None = None,
            outcome: Outcome | None = None,
            cursor: Cursor = None,
            limit: Limit = 100,
        ) -> dict[str, Any]:
            """What rules said at request and publication, the newest first; refusals at access are in the block-server's log."""
            wanted = Wanted(job, VolumeRef.parse(volume).volume if volume else None, rule, point, outcome)
            return (await policies.decisions(wanted, cursor, limit)).document()

        @app.get("/v1/policies/{digest}")
        async def older(digest: str) -> dict[str, Any]:
            """A policy that was in force when something was decided, by the digest its decisions name."""
            found = await policies.known(digest)
            if found is None:
                raise NotInCatalogError("no policy of this digest was in force here", hint="GET /v1/policy is the present one")
            return found

        @app.get("/v1/volumes/{volume}/policy")
        async def check(
            volume: str,
            purpose: Annotated[str, Query(max_length=200)] = "",
            caller: Annotated[str, Query(max_length=200)] = "",
        ) -> dict[str, Any]:
            """What the rules would say now if this volume were requested, published, or read for a purpose."""
            return await policies.check(VolumeRef.parse(volume), purpose, caller)

    return add
