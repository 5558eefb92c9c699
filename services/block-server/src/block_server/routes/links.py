"""Signed links: for tools that send no headers, a prefix under which a few volumes can be read until it expires."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from block_server.access import access_of, grant_of, granted_labels
from block_server.errors import NoLinksError
from block_server.faults import problems
from block_server.queries import asked_body
from block_server.rooms import base_url, find_named, rooms_of
from block_server.routes.batch import described_body
from emporter_contracts.errors import EmporterError
from emporter_contracts.ids import VolumeRef
from emporter_runtime.access import Budget, ForbiddenError, Grant
from emporter_runtime.access_links import MOST_VOLUMES, PREFIX, Link

router = APIRouter(tags=["links"])

SHORTEST_SECONDS = 60
LONGEST_SECONDS = 366 * 86_400

ANSWERS: dict[int | str, dict[str, Any]] = problems(400, 401, 403, 404, 409, 410, 413, 429, 502, 503)


class LinkBody(BaseModel):
    """`labels`: also those that lie over the volumes, as far as the token may read them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    volumes: Annotated[list[str], Field(min_length=1, max_length=MOST_VOLUMES)]
    expires_seconds: Annotated[int, Field(ge=SHORTEST_SECONDS, le=LONGEST_SECONDS)] = 7 * 86_400
    labels: bool = True
    budget: Budget | None = None


class Signed(BaseModel):
    """`base` stands where the address of this service stood; `volumes` are pinned. A link never outlives the token behind it."""

    base: str
    volumes: list[str]
    expires_at: datetime
    budget: Budget | None


@router.post(
    "/v1/links",
    responses={200: {"model": Signed, "description": "Below `base` is every route"}, **ANSWERS},
    response_class=Response,
    openapi_extra=described_body(LinkBody),
)
async def sign(request: Request) -> Response:
    """A link to the present revisions of some volumes, for whoever has it."""
    access, grant = access_of(request), grant_of(request)
    body = await asked_body(request, LinkBody)
    if grant.linked:
        raise ForbiddenError("a link makes no further links", hint="ask with a token")
    if access is None or access.keys is None:
        raise NoLinksError(
            "this server signs no links",
            hint="an operator sets EMPORTER_LINK_SECRET_KEY; where no token is demanded, leave --expires off",
        )
    volumes = await _pinned(request, grant, body)
    expires = int(min(access.clock() + body.expires_seconds, grant.expires))
    text = access.keys.sign(Link(tuple(volumes), expires, grant.token, body.budget))
    signed = Signed(
        base=f"{base_url(request)}{PREFIX}{text}",
        volumes=[str(ref) for ref in volumes],
        expires_at=datetime.fromtimestamp(expires, UTC),
        budget=body.budget,
    )
    return Response(signed.model_dump_json(), media_type="application/json", headers={"cache-control": "no-store"})


async def _pinned(request: Request, grant: Grant, body: LinkBody) -> list[VolumeRef]:
    refs = [(await find_named(request, name)).volume.ref for name in body.volumes]
    if not body.labels:
        return list(dict.fromkeys(refs))
    volumes = rooms_of(request).volumes
    names = [name for ref in refs for name in await granted_labels(volumes, grant, ref.volume)]
    found = [await _labels(request, name) for name in dict.fromkeys(names)]
    return list(dict.fromkeys([*refs, *(ref for ref in found if ref is not None)]))[: max(MOST_VOLUMES, len(refs))]


async def _labels(request: Request, name: str) -> VolumeRef | None:
    """Labels that can't be read take nothing from their image."""
    try:
        return (await find_named(request, name)).volume.ref
    except EmporterError:
        return None
