"""The route that makes a metadata-only revision of a committed volume."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from cataloger.api.guard import WriteGuard, json_body, json_object
from cataloger.api.rest import Routes
from cataloger.revising import Corrections
from emporter_contracts.ids import VolumeRef
from emporter_contracts.revisions import Changes, ReviseVolume


def routes(corrections: Corrections, guard: WriteGuard) -> Routes:
    """Adds the route to an application."""

    def add(app: FastAPI) -> None:
        @app.post("/v1/volumes/{volume}/revisions", status_code=201, openapi_extra=_body())
        async def correct(volume: str, request: Request) -> JSONResponse:
            """Say something anew of a volume whose voxels stay: `{"voxel_size_nm": [40, 4, 4], "reason": "…"}`.

            Makes a revision that shows the arrays of the current one, in seconds whatever its size; 200 where the volume says all
            of it already. `<volume>@r<N>` is refused (409) once another revision is current. Rules of publication are asked as of
            an ingest: 403 `policy_denied`, or `held_by` with what keeps it from becoming current.
            """
            guard.check(request)
            ref = VolumeRef.parse(volume)
            made = await corrections.correct(str(ref), await json_object(request))
            told = {**made.model_dump(mode="json"), "ref": f"{made.volume}@r{made.revision}"}
            location = {"Location": f"/v1/volumes/{made.volume}@r{made.revision}"}
            return JSONResponse(told, 200 if made.existing else 201, headers=location)

    return add


def _body() -> dict[str, Any]:
    said = ReviseVolume.model_json_schema()["properties"]
    properties = {**Changes.model_json_schema()["properties"], "by": said["by"], "reason": said["reason"]}
    return json_body({"type": "object", "additionalProperties": False, "properties": properties})
