"""The routes of the catalog, each one question to `queries.Catalog`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import ValidationError
from starlette.responses import Response

from cataloger.api import stream, tables
from cataloger.api.parameters import VolumeFilters, VolumeList
from cataloger.api.refusals import tell_refusals
from cataloger.citations import MEDIA_TYPES, Format, merged, written
from cataloger.errors import (
    AlreadyThereError,
    DeniedByPolicyError,
    InvalidQueryError,
    NotAuthorizedError,
    NotInCatalogError,
    WriteRefusedError,
)
from cataloger.feed import Feed
from cataloger.queries import Catalog
from cataloger.removal import Removals
from emporter_contracts.commands import CatalogQuery
from emporter_contracts.errors import EmporterError
from emporter_contracts.ids import VolumeRef
from emporter_contracts.records import Verdict
from emporter_runtime.errors import TransientError
from emporter_runtime.health import Check, health_routes
from emporter_runtime.problems import problem, problem_of

Limit = Annotated[int, Query(ge=1, le=1000, description="Items of one page")]
Cursor = Annotated[str | None, Query(description="`cursor` of the page before")]
Text = Annotated[str | None, Query()]
RETRY_SECONDS = "5"


Routes = Callable[[FastAPI], None]
STATUS: dict[type[EmporterError], int] = {
    NotInCatalogError: 404, AlreadyThereError: 409, WriteRefusedError: 403, DeniedByPolicyError: 403, NotAuthorizedError: 401,
    TransientError: 503,
}  # fmt: skip
"""Of our errors; any other is the asker's, 400."""
HEADERS: dict[int, dict[str, str]] = {503: {"Retry-After": RETRY_SECONDS}, 401: {"WWW-Authenticate": "Bearer"}}


def build(
    catalog: Catalog, removals: Removals, feed: Feed, checks: dict[str, Check], keep_alive: float, *more: Routes
) -> FastAPI:
    """The ASGI application; `more` add routes of their own."""
    app = FastAPI(title="Emporter catalog", version="1", docs_url=None, redoc_url=None)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=["*"],
        allow_methods=["GET"],
        allow_headers=["Authorization"],
        expose_headers=["X-Emporter-Revision", "Retry-After"],
    )
    app.router.routes.extend(health_routes(checks))
    _problems(app)
    _volumes(app, catalog, removals)
    _quality(app, catalog)
    _lineage(app, catalog)
    _citations(app, catalog)
    _jobs(app, catalog, feed, keep_alive)
    _tables(app, catalog)
    for add in more:
        add(app)
    tell_refusals(app)
    return app


def _volumes(app: FastAPI, catalog: Catalog, removals: Removals) -> None:
    @app.get("/v1/volumes")
    async def volumes(asked: Annotated[VolumeList, Query()]) -> dict[str, Any]:
        """Volumes, one row each; every word of `q` must be in its texts.

        `complete` is false where `sort=relevance` ranks only the newest of what fits: another order goes on to the end.
        """
        return (await catalog.volumes(asked.query())).document()

    @app.get("/v1/facets")
    async def facets(asked: Annotated[VolumeFilters, Query()]) -> dict[str, Any]:
        """How many of these volumes have which source, modality, …: of the newest 2,000 at most, 200 with where or gate."""
        return await catalog.facets(asked.query())

    @app.get("/v1/volumes/{volume}")
    async def record(volume: str) -> JSONResponse:
        """The metadata record of `<volume>`, or of one state of it, `<volume>@r<N>`."""
        ref = VolumeRef.parse(volume)
        await removals.look_briefly(ref.volume)
        found = await catalog.record(ref)
        return JSONResponse(found, headers={"X-Emporter-Revision": str(found["revision"])})

    @app.get("/v1/volumes/{volume}/events")
    async def events(volume: str, cursor: Cursor = None, limit: Limit = 100) -> dict[str, Any]:
        """What was said about a volume and its job, the oldest first."""
        return (await catalog.events(VolumeRef.parse(volume), CatalogQuery(cursor=cursor, limit=limit))).document()


def _quality(app: FastAPI, catalog: Catalog) -> None:
    @app.get("/v1/quality")
    async def quality(
        gate: Annotated[str | None, Query(max_length=140, description="one quality gate: shifted, missing, …")] = None,
        verdict: Annotated[Verdict | None, Query(description="what the gate said")] = None,
        volume: Annotated[str | None, Query(max_length=140, description="a volume, or one revision of it: <volume>@r<N>")] = None,
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> dict[str, Any]:
        """What quality gates found in every revision, the newest first: with the slices z, and whether the revision is the one
        shown, held, or removed.
        """
        query = CatalogQuery(kind="quality", gate=gate, verdict=verdict, id=volume or None, cursor=cursor, limit=limit)
        return (await catalog.quality(query)).document()


def _lineage(app: FastAPI, catalog: Catalog) -> None:
    @app.get("/v1/volumes/{volume}/lineage")
    async def lineage(volume: str, format: Literal["graph", "openlineage"] = "graph") -> Any:  # noqa: A002  # its name in the URL
        """What a volume was made from and what was made of it: as a graph, or its runs as OpenLineage run events."""
        ref = VolumeRef.parse(volume)
        return await catalog.lineage(ref) if format == "graph" else await catalog.run_events(ref)

    @app.get("/v1/raw")
    async def raw(
        sha256: Annotated[str | None, Query(pattern="^[0-9a-fA-F]{64}$")] = None,
        url: Annotated[str | None, Query(max_length=4096)] = None,
    ) -> dict[str, Any]:
        """Files of archives with this content or address, each with the run that fetched it and the volumes made of it."""
        return {"items": await catalog.came_of(sha256, url)}


CITED = 1000
"""Volumes whose citations may be asked for by name at once."""


def _citations(app: FastAPI, catalog: Catalog) -> None:
    @app.get("/v1/volumes/{volume}/citation")
    async def citation(volume: str, format: Format = "bibtex") -> Response:  # noqa: A002  # its name in the URL
        """How to cite a volume: the dataset, and every publication its archive names."""
        return _cited(await catalog.citation(VolumeRef.parse(volume)), format)

    @app.get("/v1/citations")
    async def citations(asked: Annotated[VolumeFilters, Query()], request: Request) -> Response:
        """How to cite the volumes named by `volume=` (again for each), else all that fit, at most 10,000; or `format=csl`."""
        form = request.query_params.get("format", "bibtex")
        if form not in MEDIA_TYPES:
            raise InvalidQueryError(f"format={form[:40]!r} is not known", hint=f"one of {', '.join(MEDIA_TYPES)}")
        named = request.query_params.getlist("volume")
        if len(named) > CITED:
            raise InvalidQueryError(f"{len(named)} volumes are too many", hint=f"name at most {CITED} at once")
        if not named:
            return _cited(await catalog.citations(asked.query()), form)
        found = [entry for volume in named for entry in await catalog.citation(VolumeRef.parse(volume))]
        return _cited(merged(found), form)


def _cited(entries: list[dict[str, Any]], form: Format) -> Response:
    return Response(written(entries, form), media_type=MEDIA_TYPES[form])


def _jobs(app: FastAPI, catalog: Catalog, feed: Feed, keep_alive: float) -> None:
    @app.get("/v1/jobs")
    async def jobs(state: Text = None, source: Text = None, cursor: Cursor = None, limit: Limit = 100) -> dict[str, Any]:
        """The last state of each job, the newest job first."""
        query = CatalogQuery(kind="jobs", status=state, source=source, cursor=cursor, limit=limit)
        return (await catalog.jobs(query)).document()

    @app.get("/v1/jobs/{job}")
    async def job(job: str) -> JSONResponse:
        """The last state of one job."""
        return JSONResponse((await catalog.job(job)).model_dump(mode="json"))

    @app.get("/v1/jobs/{job}/stream")
    async def job_stream(job: str) -> StreamingResponse:
        """The state of a job now, then each change, as server-sent events, until it is complete, failed or cancelled."""
        await catalog.job(job)
        return StreamingResponse(
            stream.changes(job, feed, catalog.job, keep_alive),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )


def _tables(app: FastAPI, catalog: Catalog) -> None:
    @app.get("/v1/catalog.csv")
    async def catalog_csv() -> StreamingResponse:
        """All volumes as CSV."""
        return StreamingResponse(
            tables.csv_lines(catalog),
            media_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": 'attachment; filename="emporter-catalog.csv"'},
        )

    @app.get("/v1/catalog.json")
    async def catalog_json() -> StreamingResponse:
        """All volumes, and which records their JSON Schema finds fault with."""
        return StreamingResponse(tables.json_parts(catalog), media_type="application/json")


def _problems(app: FastAPI) -> None:
    @app.exception_handler(EmporterError)
    async def refused(_: Request, error: EmporterError) -> Response:
        status = next((status for kind, status in STATUS.items() if isinstance(error, kind)), 400)
        return problem_of(error, status, HEADERS.get(status))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return _invalid(error.errors())

    @app.exception_handler(ValidationError)
    async def invalid_query(_: Request, error: ValidationError) -> Response:
        return _invalid(error.errors(include_url=False))

    @app.exception_handler(404)
    async def unknown(request: Request, _: Exception) -> Response:
        return problem(404, "not_found", f"there is nothing at {request.url.path}", hint="/openapi.json lists the routes")

    @app.exception_handler(Exception)
    async def bug(_: Request, error: Exception) -> Response:
        return problem(500, "internal", f"{type(error).__name__}: a fault of the catalog", hint="its log says more")

    @app.exception_handler(405)
    async def only_get(request: Request, _: Exception) -> Response:
        return problem(
            405,
            "method_not_allowed",
            f"{request.method} is not allowed here",
            hint="/openapi.json lists the methods",
        )


def _invalid(errors: Any) -> Response:
    first = errors[0]
    where = str(first["loc"][-1]) if first["loc"] else "query"
    return problem(400, "invalid_request", f"{where}: {first['msg']}", hint="/openapi.json says what each parameter may be")
