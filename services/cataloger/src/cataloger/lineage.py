"""Where voxels came from, what was made of them: raw objects → run of a job → revisions of volumes → volumes derived from those.

Edges are rows: those of raw objects and runs are `raw_objects`, the others `lineage_edges`, which `derived` makes of records.
A walk enters both by their indexes, from either end.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from cataloger.derived import LABELLED_BY, MADE
from cataloger.errors import InvalidQueryError
from cataloger.models import Job, LineageEdge, RawObject, Revision, Volume
from emporter_contracts.ids import VolumeRef

MAX_OBJECTS = 1000
"""Raw objects of one run that are shown; a stack of slices may have a hundred thousand. `raw_objects` counts them all."""
MAX_DEPTH = 4
"""Steps of `labels_of` that are followed each way: labels of an image, labels made of those, …"""
MAX_VOLUMES = 200
"""Volumes of one graph."""

Document = dict[str, Any]
VOLUME = (
    Revision.volume,
    Revision.revision,
    Revision.removed_at,
    Revision.record["status"].as_string().label("status"),
    Revision.record[("metadata", "technical", "sha256")].as_string().label("sha256"),
    Revision.record[("metadata", "provenance", "software")].as_string().label("software"),
    Revision.record[("metadata", "provenance", "plan")].as_string().label("plan"),
)
"""What is told of a revision. Not its whole record: that may name a hundred thousand files."""
OBJECTS = Revision.record[("metadata", "provenance", "objects")].label("objects")


@dataclass(slots=True)
class Graph:
    """Nodes by id, and edges in the direction of the data."""

    nodes: dict[str, Document] = field(default_factory=dict)
    edges: dict[tuple[str, str, str], None] = field(default_factory=dict)
    raw_objects: int = 0
    """Of the run that read most of them."""
    truncated: bool = False

    def edge(self, start: str, end: str, kind: str) -> None:
        self.edges[start, end, kind] = None

    def document(self) -> Document:
        edges = [{"from": start, "to": end, "kind": kind} for start, end, kind in self.edges]
        nodes = [{"id": name, **node} for name, node in self.nodes.items()]
        return {"nodes": nodes, "edges": edges, "raw_objects": self.raw_objects, "truncated": self.truncated}


def url_key(url: str) -> str:
    """What a URL is looked up by."""
    return hashlib.sha256(url.encode()).hexdigest()


def volume_node(ref: VolumeRef) -> str:
    return f"volume:{ref}"


def run_node(job: str, revision: int) -> str:
    return f"run:{job}@r{revision}"


async def graph_of(session: AsyncSession, volume: str) -> Graph:
    """Everything one volume's revisions came from, and every volume that was derived from it or that it was derived from."""
    graph = Graph()
    await _family(session, graph, volume)
    return graph


async def came_of(session: AsyncSession, sha256: str | None, url: str | None) -> list[Document]:
    """Raw objects with this content or address, each with the run that fetched it and the volumes made of it."""
    if (sha256 is None) == (url is None):
        raise InvalidQueryError("say which file: by sha256 or by url", hint="GET /v1/raw?sha256=… or ?url=…")
    wanted = RawObject.sha256 == sha256.lower() if sha256 is not None else RawObject.url_key == url_key(url or "")
    query = select(RawObject).where(wanted).order_by(RawObject.job, RawObject.revision, RawObject.n).limit(MAX_OBJECTS)
    found = []
    for raw in (await session.execute(query)).scalars():
        made = await _made_by(session, raw.job, raw.revision)
        job = await session.get(Job, raw.job)
        volumes = [_volume(revision) for revision in made if _used(revision.objects, raw.sha256)]
        found.append({**_raw(raw), "run": _run(raw.job, raw.revision, job), "volumes": volumes})
    return found


async def objects_of(session: AsyncSession, job: str, revision: int, limit: int = MAX_OBJECTS) -> list[RawObject]:
    """The raw objects of one run, in the order of its manifest."""
    query = select(RawObject).where(RawObject.job == job, RawObject.revision == revision).order_by(RawObject.n).limit(limit)
    return list((await session.execute(query)).scalars())


async def _family(session: AsyncSession, graph: Graph, volume: str) -> None:
    """A volume, and those it is tied to by `labels_of`, nearest first."""
    seen: set[str] = set()
    coming = [(volume, 0)]
    while coming:
        name, depth = coming.pop(0)
        if name in seen:
            continue
        if len(seen) >= MAX_VOLUMES:
            graph.truncated = True
            return
        seen.add(name)
        parents = await _add(session, graph, name)
        if depth < MAX_DEPTH:
            coming += [(parent, depth + 1) for parent in parents]
            coming += [(child, depth + 1) for child in await _children(session, name)]


async def _add(session: AsyncSession, graph: Graph, volume: str) -> list[str]:
    """Every revision of a volume and the edges that end there; the volumes it labels."""
    edges: dict[int, list[LineageEdge]] = {}
    for edge in (await session.execute(_edges_into(volume))).scalars():
        edges.setdefault(edge.revision, []).append(edge)
    parents = []
    for row in await session.execute(_told(VOLUME).where(Revision.volume == volume).order_by(Revision.revision)):
        graph.nodes[volume_node(VolumeRef(volume, row.revision))] = {"kind": "volume", **_volume(row)}
        for edge in edges.get(row.revision, ()):
            await _draw(session, graph, edge)
            parents += [edge.start] if edge.kind == LABELLED_BY else []
    return parents


async def _draw(session: AsyncSession, graph: Graph, edge: LineageEdge) -> None:
    """One edge, and what it comes from."""
    if edge.kind == MADE:
        start = await _add_run(session, graph, edge.start, edge.start_revision or edge.revision)
    else:
        ref = await _pinned(session, VolumeRef(edge.start, edge.start_revision))
        start = volume_node(ref)
        graph.nodes.setdefault(start, {"kind": "volume", "volume": ref.volume, "revision": ref.revision})
    graph.edge(start, volume_node(VolumeRef(edge.volume, edge.revision)), edge.kind)


async def _add_run(session: AsyncSession, graph: Graph, job: str, revision: int) -> str:
    """A run and the raw objects it read; its node."""
    run = run_node(job, revision)
    if run in graph.nodes:
        return run
    graph.nodes[run] = {"kind": "run", **_run(job, revision, await session.get(Job, job))}
    objects = await objects_of(session, job, revision, MAX_OBJECTS + 1)
    more = len(objects) > MAX_OBJECTS
    graph.raw_objects = max(graph.raw_objects, await _objects(session, job, revision) if more else len(objects))
    graph.truncated |= more
    for raw in objects[:MAX_OBJECTS]:
        # Content is identity: a revision made again from the same bytes hangs on the same node.
        graph.nodes.setdefault(f"raw:{raw.sha256}", {"kind": "raw", **_raw(raw)})
        graph.edge(f"raw:{raw.sha256}", run, "read_by")
    return run


async def _objects(session: AsyncSession, job: str, revision: int) -> int:
    query = select(func.count()).select_from(RawObject).where(RawObject.job == job, RawObject.revision == revision)
    return (await session.execute(query)).scalar_one()


async def _pinned(session: AsyncSession, ref: VolumeRef) -> VolumeRef:
    """The revision of a volume that is shown, where none is named."""
    if ref.revision is not None:
        return ref
    shown = await session.get(Volume, ref.volume)
    return VolumeRef(ref.volume, shown.revision if shown else None)


def _edges_into(volume: str) -> Select[LineageEdge]:
    """What the revisions of a volume come from."""
    return select(LineageEdge).where(LineageEdge.volume == volume).order_by(LineageEdge.revision, LineageEdge.kind)


async def _children(session: AsyncSession, volume: str) -> list[str]:
    """The volumes of which any revision labels any revision of this one."""
    labels = select(LineageEdge.volume).where(LineageEdge.start == volume, LineageEdge.kind == LABELLED_BY)
    return list((await session.execute(labels.distinct().order_by(LineageEdge.volume).limit(MAX_VOLUMES))).scalars())


async def _made_by(session: AsyncSession, job: str, revision: int) -> list[Any]:
    made = _told((*VOLUME, OBJECTS)).where(Revision.job == job, Revision.revision == revision)
    return list(await session.execute(made.order_by(Revision.volume)))


def _told(columns: tuple[Any, ...]) -> Select[Any]:
    """Of revisions, but not of what stands for volumes without names yet."""
    return select(*columns).where(Revision.stub.is_(False))


def _used(objects: list[Document] | None, sha256: str) -> bool:
    """Whether a volume of a run is made of this object; a draft does not say yet, and may be."""
    return not objects or any(o.get("sha256") == sha256 for o in objects)


def _raw(raw: RawObject) -> Document:
    return {"path": raw.path, "url": raw.url, "bytes": raw.bytes, "sha256": raw.sha256, "version": raw.version}


def _run(job: str, revision: int, row: Job | None) -> Document:
    newest = row is not None and row.revision == revision
    return {"job": job, "revision": revision, "state": row.state if row is not None and newest else None}


def _volume(revision: Any) -> Document:
    return {
        "volume": revision.volume,
        "revision": revision.revision,
        "status": revision.status,
        "removed": revision.removed_at is not None,
        "sha256": revision.sha256,
        "software": revision.software or None,
        "plan": revision.plan or None,
    }
