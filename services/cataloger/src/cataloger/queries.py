"""Answers, as JSON documents: the same for REST and for `catalog.query` on the bus."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession

from cataloger import batches, citations, listing, quality
from cataloger.database import POOL_SIZE, Database
from cataloger.errors import AnswerTooLargeError, InvalidQueryError, NotInCatalogError, TooSlowError
from cataloger.facets import WholeCatalog, count_some, narrows
from cataloger.lineage import came_of, graph_of
from cataloger.models import Event, Revision
from cataloger.openlineage import events_of
from cataloger.repository import annotations_of, find_job, find_revision, find_volume, revisions_of
from emporter_contracts.commands import CatalogQuery
from emporter_contracts.ids import VolumeRef
from emporter_contracts.jobs import JobStatus

MESSAGE_BYTES = 900_000
"""Of one answer on the bus: the server's limit is 1 MiB, headers included."""
PATIENCE = 5.0
"""Seconds one statement of a question may take: a hundred times what those an index answers do."""
DEMANDING = POOL_SIZE // 2
"""Questions about any field of records that are looked into at once; the other connections are for everybody else."""
CITED_PAGE = 500
"""Records read at once for the citations of a set."""
CITING_SECONDS = 20.0
"""Of one set, which may be looked for on many pages that hold little."""
MAX_CITED = 10_000
"""Volumes of one set that is cited; a list of references that is longer is a catalog."""
WHOLE = frozenset({"raw", "citations"})
"""Answers that have no next page: less of them would be cut off."""
TABLE_PAGE = 500
"""Rows read at once for the consolidated table."""

SHA256 = re.compile("[0-9a-fA-F]{64}")
Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Page:
    """Some items, and where the next are; None after the last."""

    items: list[Document]
    cursor: str | None = None
    complete: bool = True
    """False where more fit than a list by relevance ranks, or may, so that its last page is not the end of what there is."""

    def document(self) -> Document:
        return {"items": self.items, "cursor": self.cursor, "complete": self.complete}


class Catalog:
    """The catalog, to be asked."""

    def __init__(self, database: Database, catalog_url: str = "", blocks_url: str = "", *, patience: float = PATIENCE) -> None:
        self._database = database
        self._patience = patience
        self._demanding = asyncio.Semaphore(DEMANDING)
        self._catalog_url = catalog_url.rstrip("/")
        self._blocks_url = blocks_url.rstrip("/")
        self._whole = WholeCatalog(database)

    async def volumes(self, query: CatalogQuery) -> Page:
        """The volumes a query asks for, one row each. Raises InvalidQueryError."""
        async with self._asking(query) as session:
            found = await listing.volumes_page(session, query)
        return Page([self._row(row) for row in found.rows], found.cursor, found.complete)

    async def record(self, ref: VolumeRef) -> Document:
        """The metadata record of a volume, or of one revision, with where its job stands. Raises NotInCatalogError."""
        async with self._database.reading() as session:
            volume = await find_volume(session, ref.volume)
            if volume is None:
                raise _no_volume(ref.volume)
            revision = await find_revision(session, ref.volume, ref.revision or volume.revision)
            if revision is None:
                there = ", ".join(f"{ref.volume}@r{n}" for n in await revisions_of(session, ref.volume))
                raise NotInCatalogError(f"{ref} is not in the catalog", hint=f"there is {there}")
            job = await find_job(session, volume.job)
            notes = await annotations_of(session, ref.volume)
        return {
            **revision.record,
            "annotations": notes,
            "external": revision.external,
            "removed": revision.removed_at is not None,
            "held": revision.held,
            "latest_run": None if job is None else _latest_run(job.revision, job.generation, job.state),
            "links": self._links(revision),
        }

    async def events(self, ref: VolumeRef, query: CatalogQuery) -> Page:
        """What was said about a volume, the oldest first. Raises NotInCatalogError."""
        async with self._database.reading() as session:
            if await find_volume(session, ref.volume) is None:
                raise _no_volume(ref.volume)
            found = await listing.events_page(session, ref.volume, ref.revision, query)
        return Page([_event(row.Event) for row in found.rows], found.cursor)

    async def facets(self, query: CatalogQuery) -> Document:
        """How many volumes of a query there are by source, status, modality, … Raises InvalidQueryError."""
        if narrows(query):
            async with self._asking(query) as session:
                return (await count_some(session, query)).document()
        return (await self._whole.counts()).document()

    async def quality(self, query: CatalogQuery) -> Page:
        """What gates found in any revision, the newest first. Raises InvalidQueryError."""
        async with self._asking(query) as session:
            items, cursor = await quality.results_page(session, query)
        return Page(items, cursor)

    async def lineage(self, ref: VolumeRef) -> Document:
        """What a volume was made from and what was made of it, as a graph. Raises NotInCatalogError."""
        async with self._database.reading() as session:
            if await find_volume(session, ref.volume) is None:
                raise _no_volume(ref.volume)
            graph = await graph_of(session, ref.volume)
        return {"volume": ref.volume, **graph.document()}

    async def run_events(self, ref: VolumeRef) -> list[Document]:
        """The runs of a volume's job as OpenLineage events. Raises NotInCatalogError."""
        async with self._database.reading() as session:
            volume = await find_volume(session, ref.volume)
            if volume is None:
                raise _no_volume(ref.volume)
            return await events_of(session, volume.job)

    async def came_of(self, sha256: str | None, url: str | None) -> list[Document]:
        """What was made of a file of an archive. Raises InvalidQueryError."""
        async with self._database.reading() as session:
            return await came_of(session, sha256, url)

    async def citation(self, ref: VolumeRef) -> list[Document]:
        """How to cite a volume: CSL items. Raises NotInCatalogError."""
        return citations.items([await self.record(ref)])

    async def citations(self, query: CatalogQuery) -> list[Document]:
        """How to cite all volumes a query asks for, whatever its order and page: CSL items, each publication once.

        Raises InvalidQueryError for more than MAX_CITED volumes.
        """
        asked = query.model_copy(update={"sort": "id", "limit": CITED_PAGE, "cursor": None})
        entries: list[Document] = []
        cited, until = 0, time.monotonic() + CITING_SECONDS
        while cited < MAX_CITED:
            if time.monotonic() > until:
                raise TooSlowError(
                    f"the set was not found within {CITING_SECONDS:g} seconds", hint="narrow it: source=, q=, where="
                )
            page = await self.volumes(asked)
            cited += len(page.items)
            found = await self.records_by_ref([(row["volume"], row["revision"]) for row in page.items])
            entries = citations.merged([*entries, *citations.items(record for record in found if record is not None)])
            if page.cursor is None:
                return entries
            asked = asked.model_copy(update={"cursor": page.cursor})
        raise InvalidQueryError(f"more than {MAX_CITED} volumes are not cited at once", hint="narrow it: source=, q=, where=")

    async def jobs(self, query: CatalogQuery) -> Page:
        """The last state of the jobs a query asks for."""
        async with self._database.reading() as session:
            found = await listing.jobs_page(session, query)
        return Page([row.Job.status for row in found.rows], found.cursor)

    async def job(self, job: str) -> JobStatus:
        """The last state of a job. Raises NotInCatalogError."""
        async with self._database.reading() as session:
            found = await find_job(session, job)
        if found is None:
            raise NotInCatalogError(f"there is no job {job[:80]}", hint="emporter jobs lists what there is")
        return JobStatus.model_validate(found.status)

    async def jobs_by_id(self, ids: list[str]) -> list[Document | None]:
        """The last state of each of these jobs, None for those there are not."""
        async with self._database.reading() as session:
            found = await batches.jobs(session, ids)
        return [found[i].status if i in found else None for i in ids]

    async def records_by_ref(self, refs: list[tuple[str, int]]) -> list[Document | None]:
        """The record of each of these revisions, None for those there are not."""
        async with self._database.reading() as session:
            found = await batches.records(session, refs)
        return [found.get(ref) for ref in refs]

    async def rows_by_id(self, ids: list[str]) -> list[Document | None]:
        """The row of each of these volumes, None for those there are not."""
        async with self._database.reading() as session:
            found = await batches.volumes(session, ids)
        return [self._row(found[i]) if i in found else None for i in ids]

    async def labels_of(self, images: list[str]) -> list[list[Document]]:
        """The rows of the volumes that label each of these images."""
        async with self._database.reading() as session:
            found = await batches.labels(session, images)
        return [[self._row(row) for row in found[image]] for image in images]

    async def events_of(self, asked: list[tuple[str, int]]) -> list[list[Document]]:
        """What was said about each of these volumes, the oldest first, and at most so many of each."""
        async with self._database.reading() as session:
            found = await batches.events(session, [volume for volume, _ in asked], max(limit for _, limit in asked))
        return [[_event(event) for event in found[volume][:limit]] for volume, limit in asked]

    async def table(self) -> AsyncIterator[tuple[Document, list[str]]]:
        """Every volume's row by id, and what its schema has against its record."""
        after = ""
        while True:
            async with self._database.reading() as session:
                page = await listing.all_volumes(session, after, TABLE_PAGE)
            for volume in page:
                yield volume.summary, volume.problems
            if len(page) < TABLE_PAGE:
                return
            after = page[-1].id

    async def answer(self, query: CatalogQuery) -> Document:
        """The answer to a query on the bus, in as many items as a message carries."""
        page = await self._asked(query)
        while len(json.dumps(page.document())) > MESSAGE_BYTES:
            if query.limit == 1 or len(page.items) <= 1 or query.kind in WHOLE:
                raise AnswerTooLargeError(
                    f"{query.kind} {query.id or ''} is larger than a message", hint="ask GET /v1/volumes/{id} over HTTP"
                )
            query = query.model_copy(update={"limit": len(page.items) // 2})
            page = await self._asked(query)
        return page.document()

    @asynccontextmanager
    async def _asking(self, query: CatalogQuery) -> AsyncIterator[AsyncSession]:
        """A session for what may look at every record: not for long, and not on every connection there is."""
        async with self._demanding if query.where else nullcontext(), self._database.asking(self._patience) as session:
            yield session

    async def _asked(self, query: CatalogQuery) -> Page:
        lists = {"volumes": self.volumes, "jobs": self.jobs, "quality": self.quality}
        if query.kind in lists:
            return await lists[query.kind](query)
        if query.kind == "facets":
            return Page([await self.facets(query)])
        if query.kind == "citations" and query.id is None:
            return Page(await self.citations(query))
        if query.id is None:
            raise InvalidQueryError(f"a query of kind {query.kind} needs an id", hint=f'{{"kind": "{query.kind}", "id": …}}')
        if query.kind == "events":
            return await self.events(VolumeRef.parse(query.id), query)
        return Page(await self._named(query.kind, query.id))

    async def _named(self, kind: str, identity: str) -> list[Document]:
        """What there is of one volume, job or file."""
        if kind == "job":
            return [(await self.job(identity)).model_dump(mode="json")]
        if kind == "raw":
            return await (self.came_of(identity, None) if SHA256.fullmatch(identity) else self.came_of(None, identity))
        ref = VolumeRef.parse(identity)
        if kind == "citations":
            return await self.citation(ref)
        return [await (self.lineage(ref) if kind == "lineage" else self.record(ref))]

    def _row(self, row: Row[Any]) -> Document:
        pinned = f"{row.id}@r{row.revision}"
        links = {"record": f"{self._catalog_url}/v1/volumes/{pinned}"}
        external = row.summary.get("external", False)
        if self._blocks_url and row.status == "complete" and not external:
            links["blocks"] = f"{self._blocks_url}/v1/volumes/{pinned}"
        latest = _latest_run(row.run, row.generation, row.state)
        return {**row.summary, "job": None if external else row.job, "latest_run": latest, "links": links}

    def _links(self, revision: Revision) -> dict[str, str]:
        pinned = f"{revision.volume}@r{revision.revision}"
        links = {
            "self": f"{self._catalog_url}/v1/volumes/{pinned}",
            "events": f"{self._catalog_url}/v1/volumes/{revision.volume}/events",
            "lineage": f"{self._catalog_url}/v1/volumes/{revision.volume}/lineage",
        }
        if not revision.external:
            links["job"] = f"{self._catalog_url}/v1/jobs/{revision.job}"
        if self._blocks_url and revision.committed and revision.removed_at is None:
            links["blocks"] = f"{self._blocks_url}/v1/volumes/{pinned}"
        return links


def _latest_run(revision: int | None, generation: int, state: str) -> Document | None:
    return None if revision is None else {"revision": revision, "generation": generation, "state": state}


def _event(event: Event) -> Document:
    return {
        "id": event.id,
        "type": event.type,
        "at": event.at.isoformat().replace("+00:00", "Z"),
        "job": event.job,
        "volume": event.volume,
        "revision": event.revision,
        "generation": event.generation,
        "version": event.version,
        "data": event.data,
    }


def _no_volume(volume: str) -> NotInCatalogError:
    return NotInCatalogError(f"there is no volume {volume}", hint="emporter volumes lists what there is")
