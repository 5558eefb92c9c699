"""The catalog as GraphQL, over the same queries as REST and the bus: `python -m cataloger.api.graphql [--check]` writes its SDL.

Strawberry resolves the annotations of this module when it is imported, so they are no strings here.
"""
# mypy: disable-error-code="untyped-decorator"
# strawberry.field with arguments is typed for values, not for methods.

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import strawberry
from fastapi import FastAPI, Request
from graphql import GraphQLError
from strawberry.dataloader import DataLoader
from strawberry.scalars import JSON
from strawberry.schema.config import StrawberryConfig
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError

from cataloger.api import graphql_limits
from cataloger.api.guard import json_body, json_object
from cataloger.errors import InvalidQueryError
from cataloger.queries import Catalog, Document
from emporter_contracts.commands import CatalogQuery
from emporter_contracts.errors import EmporterError
from emporter_contracts.ids import VolumeRef
from emporter_runtime.logging import get_logger

SDL = Path(__file__).resolve().parents[5] / "contracts" / "schemas" / "catalog.graphql"
"""Where the schema lies in a checkout."""
MAX_FIRST = 1000
DOCUMENT = {
    "type": "object",
    "properties": {
        "query": {"type": "string"},
        "variables": {"type": ["object", "null"]},
        "operationName": {"type": ["string", "null"]},
    },
    "required": ["query"],
}
"""What is sent to POST /graphql."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Context:
    """What the fields of one document read from: loaders join what they ask for into one statement each."""

    catalog: Catalog
    jobs: DataLoader[str, Document | None]
    records: DataLoader[tuple[str, int], Document | None]
    volumes: DataLoader[str, Document | None]
    labels: DataLoader[str, list[Document]]
    events: DataLoader[tuple[str, int], list[Document]]

    @classmethod
    def of(cls, catalog: Catalog) -> "Context":
        """A context of its own for each document: loaders remember what they read."""
        return cls(
            catalog,
            DataLoader(catalog.jobs_by_id),
            DataLoader(catalog.records_by_ref),
            DataLoader(catalog.rows_by_id),
            DataLoader(catalog.labels_of),
            DataLoader(catalog.events_of),
        )


def _context(info: strawberry.Info) -> Context:
    return cast("Context", info.context)


@strawberry.input(description='A range of one measure, `low..high`, such as {name: "voxel_nm", within: "4..8"}.')
class RangeInput:
    name: str
    within: str


@strawberry.input(description="Which volumes; what is not known of a volume matches no filter.")
class VolumeFilter:
    q: str | None = None
    source: str | None = None
    status: str | None = None
    modality: str | None = None
    organism: str | None = None
    dtype: str | None = None
    licence: str | None = None
    role: str | None = None
    labels_of: str | None = None
    verified: str | None = None
    verdict: str | None = None
    gate: str | None = strawberry.field(
        default=None, description="One quality gate, on the revision shown: shifted (warns or fails), or shifted:fail."
    )
    held: bool | None = None
    caveat: str | None = None
    managed: bool | None = None
    annotation: str | None = None
    max_voxel_nm: float | None = None
    ranges: list[RangeInput] = strawberry.field(default_factory=list)
    where: list[str] = strawberry.field(default_factory=list)

    def query(self) -> dict[str, Any]:
        """As fields of a CatalogQuery."""
        said = {name: value for name, value in vars(self).items() if name not in ("ranges", "where") and value is not None}
        return {**said, "ranges": {r.name: r.within for r in self.ranges}, "where": tuple(self.where)}


@strawberry.type(description="What was said about a volume or its job.")
class Event:
    id: str
    type: str
    at: str
    revision: int
    generation: int
    version: int | None
    data: JSON


@strawberry.type(description="One ingest request carried out; `state` is complete in `status`.")
class Job:
    id: str
    source: str
    source_id: str
    state: str
    revision: int
    generation: int
    updated_at: str
    status: JSON


@strawberry.type(description="One volume at the revision shown. Shape in voxels, voxel size in nm, both z, y, x.")
class Volume:
    id: strawberry.ID
    revision: int
    status: str
    source: str
    source_id: str
    description: str
    shape: list[int] | None
    voxel_size_nm: list[float | None]
    dtype: str | None
    modality: str
    role: str
    organism: str | None
    licence: str | None
    levels: int | None
    bytes: str | None = strawberry.field(description="Of the level-0 voxels; a string, for it may be past 2^53.")
    sha256: str | None
    citation: list[str]
    caveats: list[str]
    verdict: str | None = strawberry.field(description="Of the quality gates: pass, warn, fail.")
    held: bool = strawberry.field(description="Whether a revision waits to be released, this one or a newer one.")
    held_revision: int | None
    annotations: JSON
    created_at: str
    updated_at: str
    links: JSON
    job_id: strawberry.Private[str | None]
    labels_of: strawberry.Private[str | None]

    @strawberry.field(description="The whole metadata record.")
    async def record(self, info: strawberry.Info) -> JSON | None:
        return cast("JSON | None", await _context(info).records.load((str(self.id), self.revision)))

    @strawberry.field
    async def job(self, info: strawberry.Info) -> Job | None:
        found = await _context(info).jobs.load(self.job_id) if self.job_id else None
        return _job(found) if found else None

    @strawberry.field(description="The image this volume labels.")
    async def image(self, info: strawberry.Info) -> "Volume | None":
        found = await _context(info).volumes.load(self.labels_of.partition("@")[0]) if self.labels_of else None
        return _volume(found) if found else None

    @strawberry.field(description="The volumes that label this one.")
    async def labels(self, info: strawberry.Info, first: int = 20) -> "list[Volume]":
        return [_volume(row) for row in (await _context(info).labels.load(str(self.id)))[: _first(first)]]

    @strawberry.field(description="What was said about it, the oldest first.")
    async def events(self, info: strawberry.Info, first: int = 50) -> list[Event]:
        found = await _context(info).events.load((str(self.id), _first(first)))
        return [Event(**{name: item[name] for name in _EVENT}) for item in found]

    @strawberry.field(description="What it was made from and what was made of it, as a graph; of one volume, not in a list.")
    async def lineage(self, info: strawberry.Info) -> JSON:
        return cast("JSON", await _context(info).catalog.lineage(VolumeRef(str(self.id))))


@strawberry.type
class VolumePage:
    items: list[Volume]
    cursor: str | None = strawberry.field(description="`after` of the next page; null after the last.")
    complete: bool = strawberry.field(description="False where `relevance` ranks only the newest of what fits.")


@strawberry.type(description="What one quality gate found in one revision; `slices` are indices z of level 0.")
class GateResult:
    volume: str
    revision: int
    gate: str
    verdict: str
    at: str
    measured: float | None
    threshold: float | None
    slices: list[int]
    evidence: str
    shown: bool = strawberry.field(description="Whether this revision is the one the volume shows.")
    held: bool
    removed: bool


@strawberry.type
class QualityPage:
    items: list[GateResult]
    cursor: str | None


@strawberry.type
class JobPage:
    items: list[Job]
    cursor: str | None


@strawberry.type
class Query:
    @strawberry.field(description="Volumes, in the order of `sort` (-updated_at, bytes, relevance, …).")
    async def volumes(
        self,
        info: strawberry.Info,
        filter: VolumeFilter | None = None,  # noqa: A002  # its name in the schema
        sort: str = "-updated_at",
        first: int = 50,
        after: str | None = None,
    ) -> VolumePage:
        query = CatalogQuery(**(filter.query() if filter else {}), sort=sort, limit=_first(first), cursor=after)
        page = await _context(info).catalog.volumes(query)
        return VolumePage(items=[_volume(row) for row in page.items], cursor=page.cursor, complete=page.complete)

    @strawberry.field
    async def volume(self, info: strawberry.Info, id: strawberry.ID) -> Volume | None:  # noqa: A002
        found = await _context(info).volumes.load(VolumeRef.parse(str(id)).volume)
        return _volume(found) if found else None

    @strawberry.field(description="Jobs, the newest first.")
    async def jobs(
        self,
        info: strawberry.Info,
        state: str | None = None,
        source: str | None = None,
        first: int = 50,
        after: str | None = None,
    ) -> JobPage:
        query = CatalogQuery(kind="jobs", status=state, source=source, limit=_first(first), cursor=after)
        page = await _context(info).catalog.jobs(query)
        return JobPage(items=[_job(status) for status in page.items], cursor=page.cursor)

    @strawberry.field
    async def job(self, info: strawberry.Info, id: strawberry.ID) -> Job | None:  # noqa: A002
        found = await _context(info).jobs.load(str(id))
        return _job(found) if found else None

    @strawberry.field(description="What quality gates found in every revision, the newest first.")
    async def quality(
        self,
        info: strawberry.Info,
        gate: str | None = None,
        verdict: str | None = None,
        volume: strawberry.ID | None = None,
        first: int = 50,
        after: str | None = None,
    ) -> QualityPage:
        named = str(volume) if volume is not None else None
        query = CatalogQuery(kind="quality", gate=gate, verdict=verdict, id=named, limit=_first(first), cursor=after)
        page = await _context(info).catalog.quality(query)
        return QualityPage(items=[GateResult(**item) for item in page.items], cursor=page.cursor)

    @strawberry.field(description="How many volumes have which source, modality, organism, …")
    async def facets(self, info: strawberry.Info, filter: VolumeFilter | None = None) -> JSON:  # noqa: A002
        return cast("JSON", await _context(info).catalog.facets(CatalogQuery(**(filter.query() if filter else {}))))

    @strawberry.field(description="What was made of a file of an archive, by content or by address.")
    async def raw(self, info: strawberry.Info, sha256: str | None = None, url: str | None = None) -> list[JSON]:
        return cast("list[JSON]", await _context(info).catalog.came_of(sha256, url))


class _Schema(strawberry.Schema):
    def process_errors(self, errors: list[GraphQLError], execution_context: Any = None) -> None:  # noqa: ARG002
        for error in errors:
            if not isinstance(error.original_error, EmporterError | type(None)):
                log.error("graphql_failed", error=repr(error.original_error))


schema = _Schema(Query, config=StrawberryConfig(auto_camel_case=False))
_EVENT = ("id", "type", "at", "revision", "generation", "version", "data")
_SAME = (
    "revision", "status", "source", "source_id", "description", "shape", "voxel_size_nm", "dtype", "modality", "role", "organism",
    "licence", "levels", "sha256", "citation", "caveats", "verdict", "held_revision", "annotations", "created_at", "updated_at",
    "links", "labels_of",
)  # fmt: skip


def _volume(row: Document) -> Volume:
    size = row["bytes"]
    same = {name: row.get(name) for name in _SAME}
    return Volume(
        id=strawberry.ID(row["volume"]),
        bytes=None if size is None else str(size),
        job_id=row["job"],
        held=row.get("held") is True,
        **cast("dict[str, Any]", same),
    )


def _job(status: Document) -> Job:
    same = ("source", "source_id", "state", "revision", "generation", "updated_at")
    return Job(id=status["job"], status=cast("JSON", status), **{name: status[name] for name in same})


def _first(first: int) -> int:
    if not 1 <= first <= MAX_FIRST:
        raise InvalidQueryError(f"first: {first} items", hint=f"1 to {MAX_FIRST}")
    return first


def routes(catalog: Catalog) -> Callable[[FastAPI], None]:
    """Adds POST /graphql to an application."""

    def add(app: FastAPI) -> None:
        @app.post("/graphql", openapi_extra=json_body(DOCUMENT))
        async def graphql(request: Request) -> Document:
            """A GraphQL document: `{"query": "{ volumes { items { id } } }", "variables": {}}`."""
            return await answer(catalog, await json_object(request))

    return add


async def answer(catalog: Catalog, body: Document) -> Document:
    """The answer to one document. Raises InvalidQueryError for one that asks for too much or is none."""
    query, variables, name = body.get("query"), body.get("variables") or {}, body.get("operationName")
    if not isinstance(query, str) or not isinstance(variables, dict) or not isinstance(name, str | None):
        raise InvalidQueryError("no GraphQL document", hint='send {"query": "{ volumes { items { id } } }"}')
    graphql_limits.check(query, variables)
    try:
        result = await schema.execute(query, variables, Context.of(catalog), operation_name=name)
    except (CannotGetOperationTypeError, InvalidOperationTypeError) as error:
        raise InvalidQueryError("the document holds no such query", hint="name one of its queries in operationName") from error
    document: Document = {"data": result.data}
    if result.errors:
        document["errors"] = [_error(error) for error in result.errors]
    return document


def _error(error: GraphQLError) -> Document:
    """An error as the specification has it; what is no fault of the asker is not told in detail."""
    said = error.formatted
    cause = error.original_error
    if isinstance(cause, EmporterError):
        return {**said, "message": cause.message, "extensions": {"code": cause.code, "hint": cause.hint}}
    if cause is not None and not isinstance(cause, GraphQLError | ValueError):
        return {**said, "message": "a fault of the catalog", "extensions": {"code": "internal", "hint": "its log says more"}}
    return {**said, "extensions": {"code": "invalid_request", "hint": "/graphql answers introspection"}}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit 0 when the SDL is as it should be; with --check, 1 where it is not."""
    parser = argparse.ArgumentParser(prog="python -m cataloger.api.graphql", description="Export the GraphQL schema.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where the file differs")
    parser.add_argument("--to", type=Path, default=SDL, metavar="FILE", help="default: contracts/schemas/catalog.graphql")
    chosen = parser.parse_args(arguments)
    sdl = schema.as_str() + "\n"
    if not chosen.check:
        chosen.to.write_text(sdl)
        return 0
    if chosen.to.is_file() and chosen.to.read_text() == sdl:
        return 0
    sys.stderr.write(f"{chosen.to.name} differs from the code: run `python -m cataloger.api.graphql`\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
