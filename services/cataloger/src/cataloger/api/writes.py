"""The routes that write: annotations, and records of outside scripts."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from cataloger.api.guard import WriteGuard, json_body, json_object
from cataloger.api.rest import Routes
from cataloger.curation import Curation
from cataloger.errors import InvalidQueryError
from emporter_contracts.ids import VolumeRef

SOURCE = {"source": {"type": "string"}, "source_id": {"type": "string"}}
PATCHES = ("application/merge-patch+json", "application/json")


def routes(curation: Curation, guard: WriteGuard) -> Routes:
    """Adds the routes to an application."""

    def add(app: FastAPI) -> None:
        @app.put("/v1/volumes/{volume}/annotations/{key}", openapi_extra=_body({"value": {"type": "string"}}))
        async def annotate(volume: str, key: str, request: Request) -> dict[str, str]:
            """Set an annotation: `{"value": "…"}`. It is found by `q=`, `annotation=key` and `annotation=key=value`."""
            guard.check(request)
            value = (await json_object(request)).get("value")
            if not isinstance(value, str):
                raise InvalidQueryError("value is missing", hint='send {"value": "text"}')
            await curation.annotate(_plain(volume), key, value)
            return {"volume": volume, "key": key, "value": value}

        @app.delete("/v1/volumes/{volume}/annotations/{key}", status_code=204)
        async def unannotate(volume: str, key: str, request: Request) -> Response:
            """Take an annotation away."""
            guard.check(request)
            await curation.unannotate(_plain(volume), key)
            return Response(status_code=204)

        @app.post("/v1/volumes", status_code=201, openapi_extra=_body(SOURCE))
        async def enter(request: Request) -> JSONResponse:
            """Enter a volume no job makes: `source` and `source_id`, and any other field of a record. It begins `pending`."""
            guard.check(request)
            record = await curation.enter(await json_object(request))
            return JSONResponse(record, 201, headers={"Location": f"/v1/volumes/{record['volume']}"})

        @app.patch("/v1/volumes/{volume}", openapi_extra=_body({}))
        async def enrich(volume: str, request: Request) -> dict[str, Any]:
            """Change an entered record by JSON merge patch; `status` moves as a job's does."""
            guard.check(request)
            return await curation.enrich(_plain(volume), await json_object(request, PATCHES))

    return add


def _plain(volume: str) -> str:
    ref = VolumeRef.parse(volume)
    if ref.revision is not None:
        raise InvalidQueryError(f"{volume} is one revision, which never changes", hint=f"write to {ref.volume}")
    return ref.volume


def _body(properties: dict[str, Any]) -> dict[str, Any]:
    return json_body({"type": "object", "properties": properties, "required": sorted(properties)})
