"""Where voxels came from, what was made of them: raw objects → run of a job → revisions of volumes → volumes derived from those.

Nothing of it is stored as edges: raw objects, runs and records say it already, and so it can't disagree with them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from cataloger.errors import InvalidQueryError
from cataloger.models import Job, RawObject, Revision, Volume
from emporter_contracts.ids import VolumeRef

MAX_OBJECTS = 1000
"""Raw objects of one run that are shown; a stack of slices may have a hundred thousand. `raw_objects` counts them all."""
MAX_DEPTH = 4
"""Steps of `labels_of` that are followed each way: labels of an image, labels made of those, …"""
MAX_VOLUMES = 200
"""Volumes of one graph."""

Document = dict[str, Any]


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
        volumes = [_volume(revision) for revision in made if _used(revision, raw.sha256)]
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
        revisions = await _revisions(session, name)
        for revision in revisions:
            await _add(session, graph, revision)
        if depth < MAX_DEPTH:
            coming += [(parent, depth + 1) for parent in _parents(revisions)]
            coming += [(child, depth + 1) for child in await _children(session, name)]


async def _add(session: AsyncSession, graph: Graph, revision: Revision) -> None:
    """One revision, the run that made it, and that run's raw objects."""
    ref = VolumeRef(revision.volume, revision.revision)
    graph.nodes[volume_node(ref)] = {"kind": "volume", **_volume(revision)}
    image = revision.record.get("metadata", {}).get("core", {}).get("labels_of")
    if image:
        target = await _pinned(session, image)
        graph.nodes.setdefault(volume_node(target), {"kind": "volume", "volume": target.volume, "revision": target.revision})
        graph.edge(volume_node(target), volume_node(ref), "labelled_by")
    if revision.external:
        return
    corrections = revision.record.get("metadata", {}).get("provenance", {}).get("corrections") or ()
    if corrections:
        before = VolumeRef(revision.volume, corrections[-1]["revises"])
        graph.nodes.setdefault(volume_node(before), {"kind": "volume", "volume": before.volume, "revision": before.revision})
        graph.edge(volume_node(before), volume_node(ref), "corrected_as")
        return
    run = run_node(revision.job, revision.revision)
    if run not in graph.nodes:
        job = await session.get(Job, revision.job)
        graph.nodes[run] = {"kind": "run", **_run(revision.job, revision.revision, job)}
    graph.edge(run, volume_node(ref), "made")
    objects = await objects_of(session, revision.job, revision.revision, MAX_OBJECTS + 1)
    more = len(objects) > MAX_OBJECTS
    count = await _objects(session, revision.job, revision.revision) if more else len(objects)
    graph.raw_objects = max(graph.raw_objects, count)
    graph.truncated |= more
    for raw in objects[:MAX_OBJECTS]:
        # Content is identity: a revision made again from the same bytes hangs on the same node.
        graph.nodes.setdefault(f"raw:{raw.sha256}", {"kind": "raw", **_raw(raw)})
        graph.edge(f"raw:{raw.sha256}", run, "read_by")


async def _objects(session: AsyncSession, job: str, revision: int) -> int:
    query = select(func.count()).select_from(RawObject).where(RawObject.job == job, RawObject.revision == revision)
    return (await session.execute(query)).scalar_one()


async def _pinned(session: AsyncSession, image: str) -> VolumeRef:
    """The revision of the image that is shown, where none is named."""
    name, _, number = image.partition("@r")
    if number.isdigit():
        return VolumeRef(name, int(number))
    shown = await session.get(Volume, name)
    return VolumeRef(name, shown.revision if shown else None)


async def _revisions(session: AsyncSession, volume: str) -> Sequence[Revision]:
    query = select(Revision).where(Revision.volume == volume, Revision.stub.is_(False)).order_by(Revision.revision)
    return (await session.execute(query)).scalars().all()


async def _made_by(session: AsyncSession, job: str, revision: int) -> Sequence[Revision]:
    query = select(Revision).where(Revision.job == job, Revision.revision == revision, Revision.stub.is_(False))
    return (await session.execute(query.order_by(Revision.volume))).scalars().all()


async def _children(session: AsyncSession, volume: str) -> list[str]:
    query = select(Volume.id).where(Volume.image == volume).order_by(Volume.id).limit(MAX_VOLUMES)
    return list((await session.execute(query)).scalars())


def _parents(revisions: Sequence[Revision]) -> list[str]:
    images = [r.record.get("metadata", {}).get("core", {}).get("labels_of") for r in revisions]
    return [image.partition("@r")[0] for image in images if image]


def _used(revision: Revision, sha256: str) -> bool:
    """Whether a volume of a run is made of this object; a draft does not say yet, and may be."""
    objects = revision.record.get("metadata", {}).get("provenance", {}).get("objects") or ()
    return not objects or any(o.get("sha256") == sha256 for o in objects)


def _raw(raw: RawObject) -> Document:
    return {"path": raw.path, "url": raw.url, "bytes": raw.bytes, "sha256": raw.sha256, "version": raw.version}


def _run(job: str, revision: int, row: Job | None) -> Document:
    newest = row is not None and row.revision == revision
    return {"job": job, "revision": revision, "state": row.state if row is not None and newest else None}


def _volume(revision: Revision) -> Document:
    metadata = revision.record.get("metadata", {})
    technical, provenance = metadata.get("technical", {}), metadata.get("provenance", {})
    return {
        "volume": revision.volume,
        "revision": revision.revision,
        "status": revision.record.get("status"),
        "removed": revision.removed_at is not None,
        "sha256": technical.get("sha256"),
        "software": provenance.get("software") or None,
        "plan": provenance.get("plan") or None,
    }
