"""From a request to a plan, by headers alone: which objects, which volumes, how much room; no voxel is copied."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np

from emporter_contracts import ids
from emporter_contracts.commands import IngestRequest
from emporter_contracts.errors import RefusedError
from emporter_contracts.geometry import AXES, VoxelSize, added
from emporter_contracts.plans import MAX_VOLUMES, Caveat, FetchPlan, PlannedObject, PlannedVolume, Role, Segments
from emporter_readers.discover import discover
from emporter_readers.protocol import ByteSource, FoundVolume, Hints
from emporter_runtime.errors import InsufficientStorageError, StoppedError
from fetcher.claims import disagreements, selection
from fetcher.errors import TooManyVolumesError
from fetcher.regions import region_of
from fetcher.sources.protocol import Context, Listing, Part, Source

PYRAMID_SHARE = 8 / 7
"""Voxels of a whole pyramid over those of level 0, where every level halves all three axes: 1 + 1/8 + 1/64 + …"""
DISAGREEMENT = 0.01
"""By how much file and archive may differ about a voxel size before it is worth a caveat: rounding is below it."""
GIB = 2**30


async def make_plan(request: IngestRequest, job: str, revision: int, source: Source) -> FetchPlan:
    """What an ingest of `request` fetches and which volumes it makes.

    Raises FetcherError, ReaderError or RefusedError for what can't become a volume, TransientError where the archive is away.
    """
    listing = await source.resolve(request, Context(job, revision))
    parts = listing.parts or (Part(tuple(range(len(listing.objects)))),)
    found = [(part, volume) for part in parts for volume in await _found(request, part, listing, source)]
    if len(found) > MAX_VOLUMES:
        raise TooManyVolumesError(
            f"{request.source_id} holds {len(found)} volumes, one job may hold {MAX_VOLUMES}",
            hint="choose with select: series, channel, time",
        )
    planned = [_volume(request, job, part, volume, single=len(parts) == 1) for part, volume in found]
    objects, volumes = _needed(listing.objects, planned)
    voxel_bytes = sum(math.prod(v.shape) * np.dtype(v.dtype).itemsize for v in volumes)
    copied = sum(o.bytes for o in objects if isinstance(o.location, Segments))
    return FetchPlan(
        job=job,
        revision=revision,
        source=request.source,
        source_id=request.source_id,
        objects=objects,
        volumes=volumes,
        description=listing.description,
        modality=listing.modality,
        licence=listing.licence,
        citation=listing.citation,
        caveats=listing.caveats,
        archive=listing.archive,
        download_url=listing.download_url,
        raw_bytes=sum(o.bytes for o in objects),
        voxel_bytes=voxel_bytes,
        stored_bytes_estimate=math.ceil(voxel_bytes * PYRAMID_SHARE) + copied,
        planned_at=datetime.now(UTC),
        software=f"emporter-fetcher {version('emporter-fetcher')}",
    )


def check_space(plan: FetchPlan, free: int | None, reserved: int) -> None:
    """Raises InsufficientStorageError where the plan needs more than is free after `reserved` bytes of running jobs.

    `free` None means that nobody knows, and nothing is refused.
    """
    need = plan.stored_bytes_estimate
    if free is None or need <= free - reserved:
        return
    raise InsufficientStorageError(
        f"{plan.job} needs about {need / GIB:.2f} GiB ({plan.copied_bytes / GIB:.2f} as served, the rest converted), "
        f"{max(0, free - reserved) / GIB:.2f} GiB are free ({free / GIB:.2f} less {reserved / GIB:.2f} for running jobs)",
        hint="free some space, or take a part of it: --region",
    )


class _Stoppable:
    """A ByteSource that can be taken away from a reader in a thread: threads can't be cancelled, their next read can fail."""

    def __init__(self, inner: ByteSource, given_up: threading.Event) -> None:
        self.name = inner.name
        self.size = inner.size
        self._inner = inner
        self._given_up = given_up

    def read(self, start: int, stop: int) -> bytes:
        if self._given_up.is_set():
            raise StoppedError(f"reading the headers of {self.name} was given up")
        return self._inner.read(start, stop)


async def _found(request: IngestRequest, part: Part, listing: Listing, source: Source) -> list[FoundVolume]:
    """The volumes of one part; positions are of the part's own objects."""
    opened = [source.open(listing.objects[n]) for n in part.objects]
    role = request.role if request.role != "auto" else _role_of(request, part) or "auto"
    hints = Hints(
        select=selection(request, part),
        axes=request.axes,
        rgb=request.rgb,
        role=role,
        parameters=request.parameters,
        region=listing.region,
    )
    given_up = threading.Event()
    # A thread of its own: in the shared ones, readers that wait for the loop could keep it from resolving names and hashing.
    thread = ThreadPoolExecutor(1, thread_name_prefix="headers")
    try:
        stoppable = [_Stoppable(inner, given_up) for inner in opened]
        return await asyncio.get_running_loop().run_in_executor(thread, discover, stoppable, hints)
    finally:
        given_up.set()
        thread.shutdown(wait=False)


def _role_of(request: IngestRequest, part: Part) -> Role | None:
    """Who names an image says that these are its labels; else the archive's own word."""
    return "labels" if request.labels_of is not None else part.role


def _volume(request: IngestRequest, job: str, part: Part, found: FoundVolume, *, single: bool) -> PlannedVolume:
    if request.labels_of is not None and request.role == "image":
        raise RefusedError("labels_of names the image of labels, but the role is image", hint="leave one of the two out")
    box = found.region or region_of(request, found.shape, found.start, found.name or found.format)
    size, caveats = _voxel_size(request, part, found)
    series = "-".join(filter(None, (ids.slug(part.name), found.series)))
    told = request.role != "auto" or _role_of(request, part) is not None
    role = found.role if not told else _told_role(request, part)
    return PlannedVolume(
        volume=ids.volume_id(job, found.series if single else series),
        name=found.name or part.name,
        format=found.format,
        objects=tuple(part.objects[n] for n in found.objects),
        select=found.select,
        axes=found.axes,
        rgb=found.rgb,
        parameters=dict(found.parameters),
        shape=box.shape,
        dtype=found.dtype,
        voxel_size=size,
        role=role,
        labels_of=request.labels_of or (part.labels_of if role == "labels" else None),
        source_shape=found.shape,
        native=found.native.cell,
        source_origin=added(box.start, found.start),
        source_start=found.start,
        translation_nm=found.translation_nm,
        fill_value=found.fill_value,
        acquisition=found.acquisition.or_else(part.acquisition),
        caveats=_merged(found.caveats, [*disagreements(part.claims, found), *caveats], told=told),
        said=found.said,
    )


def _told_role(request: IngestRequest, part: Part) -> Role:
    if request.role != "auto":
        return request.role
    return _role_of(request, part) or "image"


def _voxel_size(request: IngestRequest, part: Part, found: FoundVolume) -> tuple[VoxelSize, list[Caveat]]:
    """User, else file, else archive; with a caveat wherever one of them contradicts another, or nobody says."""
    said = found.voxel_size.or_else(part.voxel_size)
    user = VoxelSize.said("user", request.voxel_size_nm or (None, None, None))
    caveats = list(_voxel_caveats(user, found.voxel_size, part.voxel_size, said))
    size = user.or_else(said)
    if not size.known:
        unknown = ", ".join(axis for axis, nm in zip(AXES, size.nm, strict=True) if nm is None)
        caveats.append(Caveat(code="voxel_size_unknown", evidence=f"nobody says it along {unknown}"))
        caveats.extend(_isotropy(size, found))
    return size, caveats


def _isotropy(size: VoxelSize, found: FoundVolume) -> Iterator[Caveat]:
    """What the pyramid takes for granted: nothing along an axis of one voxel, which is never halved."""
    unknown = [axis for axis, nm, n in zip(AXES, size.nm, found.shape, strict=True) if nm is None and n > 1]
    if unknown:
        yield Caveat(code="isotropy_assumed", evidence=f"by the pyramid: the voxel size along {', '.join(unknown)} is unknown")


def _voxel_caveats(user: VoxelSize, file: VoxelSize, archive: VoxelSize, said: VoxelSize) -> Iterator[Caveat]:
    told = [
        f"{axis}: {ours:g} nm, " + (f"the {who} says {theirs:g} nm" if theirs is not None else "nobody else says it")
        for axis, ours, theirs, who in zip(AXES, user.nm, said.nm, said.said_by, strict=True)
        if ours is not None
    ]
    if told:
        yield Caveat(code="voxel_size_by_user", evidence="; ".join(told))
    for axis, here, there, who in zip(AXES, file.nm, archive.nm, archive.said_by, strict=True):
        if here is not None and there is not None and abs(here - there) > DISAGREEMENT * there:
            evidence = f"voxel size along {axis}: {here:g} nm by the file, {there:g} nm by the {who}; the file counts"
            yield Caveat(code="archive_disagrees", evidence=evidence)


def _merged(found: tuple[Caveat, ...], ours: list[Caveat], *, told: bool) -> tuple[Caveat, ...]:
    """The reader's caveats but those we know better: of voxel sizes it could not know, of a role it guessed and we were told."""
    known_better = {"voxel_size_unknown", "isotropy_assumed"} | ({"role_guessed"} if told else set())
    return (*(c for c in found if c.code not in known_better), *ours)


def _needed(
    objects: tuple[PlannedObject, ...], volumes: list[PlannedVolume]
) -> tuple[tuple[PlannedObject, ...], tuple[PlannedVolume, ...]]:
    """Only the objects some volume lies in, and the volumes with their new positions: nothing is fetched for nothing.

    In the order of the voxels, as each volume lists its own: what was fetched first can then be converted first.
    """
    used = list(dict.fromkeys(n for volume in volumes for n in volume.objects))
    place = {old: new for new, old in enumerate(used)}
    moved = tuple(v.model_copy(update={"objects": tuple(place[n] for n in v.objects)}) for v in volumes)
    return tuple(objects[n] for n in used), moved
