"""What there is."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict

from block_server.access import grant_of, granted_labels, granted_page
from block_server.answers import ASK_AGAIN, etag, not_modified, unchanged
from block_server.arrays import Level, OpenVolume
from block_server.faults import problems
from block_server.queries import VOLUME, ListQuery, asked, documented
from block_server.rooms import base_url, find, rooms_of
from block_server.routes.precomputed import is_sayable
from emporter_contracts.errors import InvalidValueError
from emporter_contracts.ids import VolumeRef, is_volume_id
from emporter_contracts.plans import Caveat, Licence, Role
from emporter_contracts.records import MetadataRecord, Number

router = APIRouter(tags=["volumes"])

Voxels3 = tuple[int, int, int]
Nm3 = tuple[float, float, float]
NmOrNone3 = tuple[float | None, float | None, float | None]


class Body(BaseModel):
    model_config = ConfigDict(frozen=True)


class Links(Body):
    """All pinned to the revision they stand beside, but `current`. Null where the volume can't be read so: one that is read where
    it lies has no Zarr here, and precomputed needs lengths along every axis and a dtype it knows.
    """

    self: str
    current: str
    block: str
    blocks: str
    zarr: str | None
    zarr2: str | None
    precomputed: str | None
    view: str
    catalog: str | None = None


class VolumeSummary(Body):
    """One volume of a listing, at its current revision. Fields are null where its record can't be read."""

    volume: str
    revision: int
    ref: str
    managed: bool | None
    shape: Voxels3 | None
    dtype: str | None
    voxel_size_nm: NmOrNone3 | None
    role: Role | None
    description: str | None
    links: Links


class VolumeList(Body):
    """Volumes by name; `next` is the cursor of the page that follows, null at the end."""

    volumes: list[VolumeSummary]
    next: str | None


class LevelInfo(Body):
    """One level, axes z, y, x. nm are null where nobody knows them; `translation_nm` is where the centre of its first voxel lies
    in the world, `factor` how many voxels of level 0 one of its voxels spans.
    """

    level: int
    shape: Voxels3
    chunk: Voxels3
    shard: Voxels3
    voxel_size_nm: NmOrNone3
    translation_nm: NmOrNone3
    factor: Voxels3


class Statistics(Body):
    """Of the level-0 voxels; `window` is the 0.1 and 99.9 percentile. Integers past 2^53 are strings."""

    minimum: Number
    maximum: Number
    window: tuple[Number, Number] | None


class VolumeInfo(Body):
    """One revision of one volume, axes z, y, x; `shape`, `chunk`, `shard` and `voxel_size_nm` are of level 0.

    `digest` is the commit's; `voxels_sha256` of the level-0 voxels in C order, little-endian; `files` the archive's names. One
    that is not `managed` is read from `source_id` where it lies: it has no OME-Zarr here, and is 409 once that changed.
    """

    volume: str
    revision: int
    ref: str
    digest: str
    managed: bool
    voxels_sha256: str | None
    files: list[str]
    description: str
    source: str
    source_id: str
    shape: Voxels3
    dtype: str
    axes: str
    voxel_size_nm: NmOrNone3
    source_origin: Voxels3
    chunk: Voxels3
    shard: Voxels3
    levels: list[LevelInfo]
    role: Role
    labels: list[str]
    labels_of: str | None
    statistics: Statistics | None
    licence: Licence
    citation: list[str]
    caveats: list[Caveat]
    links: Links


@router.get("/v1/volumes", responses=problems(400, 503), openapi_extra=documented(ListQuery))
async def volumes(request: Request) -> VolumeList:
    """Every committed volume that was not removed, at its current revision."""
    query, rooms = asked(request, ListQuery), rooms_of(request)
    if query.cursor and not is_volume_id(query.cursor):
        raise InvalidValueError(f"{query.cursor!r} is no cursor", hint="give `next` of the page before, or nothing")
    page = await granted_page(rooms.volumes, grant_of(request), query.limit, query.cursor)
    records = await rooms.volumes.records(page.refs)
    listed = [_summary(request, ref, record) for ref, record in zip(page.refs, records, strict=True)]
    return VolumeList(volumes=listed, next=page.cursor)


@router.get(
    "/v1/volumes/{v}",  # noqa: FAST003  # `find` takes it
    response_model=VolumeInfo,
    responses={304: {"description": "Unchanged (If-None-Match)"}, **problems(400, 404, 409, 410, 502, 503)},
    openapi_extra=documented(None, VOLUME),
)
async def volume(request: Request) -> Response:
    """What one volume is, who said so, and where its voxels are to be had."""
    found = await find(request)
    labels = list(await granted_labels(rooms_of(request).volumes, grant_of(request), found.volume.ref.volume))
    body = _info(request, found.volume, labels).model_dump_json()
    # Labels of a volume may come later, so even a pinned revision is asked for again.
    tag = etag(found.volume, "info", body)
    headers = {"etag": tag, "cache-control": ASK_AGAIN}
    return not_modified(headers) if unchanged(request, tag) else Response(body, headers=headers, media_type="application/json")


def links(request: Request, ref: VolumeRef, record: MetadataRecord | None) -> Links:
    """Where everything about one pinned revision is; all that could be, where its record can't be read."""
    base, catalog = base_url(request), rooms_of(request).settings.catalog_url.rstrip("/")
    stored, sayable = record is None or record.managed, record is None or is_sayable(record.metadata.core)
    return Links(
        self=f"{base}/v1/volumes/{ref}",
        current=f"{base}/v1/volumes/{ref.volume}",
        block=f"{base}/v1/volumes/{ref}/block",
        blocks=f"{base}/v1/volumes/{ref}/blocks",
        zarr=f"{base}/zarr/{ref}.ome.zarr" if stored else None,
        zarr2=f"{base}/zarr2/{ref}.ome.zarr" if stored else None,
        precomputed=f"{base}/precomputed/{ref}" if sayable else None,
        view=f"{base}/view/{ref}",
        catalog=f"{catalog}/v1/volumes/{ref.volume}" if catalog else None,
    )


def _summary(request: Request, ref: VolumeRef, record: MetadataRecord | None) -> VolumeSummary:
    assert ref.revision is not None
    core = record.metadata.core if record is not None else None
    return VolumeSummary(
        volume=ref.volume,
        revision=ref.revision,
        ref=str(ref),
        managed=None if record is None else record.managed,
        shape=None if core is None else core.volume_shape,
        dtype=None if core is None else core.data_type,
        voxel_size_nm=None if core is None else core.voxel_size_nm,
        role=None if core is None else core.role,
        description=None if core is None else core.description,
        links=links(request, ref, record),
    )


def _info(request: Request, volume: OpenVolume, labels: list[str]) -> VolumeInfo:
    record, finest = volume.record, volume.levels[0]
    core = record.metadata.core
    assert volume.ref.revision is not None
    return VolumeInfo(
        volume=volume.ref.volume,
        revision=volume.ref.revision,
        ref=str(volume.ref),
        digest=volume.digest,
        managed=record.managed,
        voxels_sha256=record.metadata.technical.sha256,
        files=list(record.files),
        description=core.description,
        source=record.source,
        source_id=record.source_id,
        shape=finest.shape,
        dtype=finest.dtype.name,
        axes=core.axes,
        voxel_size_nm=volume.voxel_size_nm(finest),
        source_origin=core.source_origin,
        chunk=finest.chunk,
        shard=finest.shard,
        levels=[_level(volume, level) for level in volume.levels],
        role=core.role,
        labels=labels,
        labels_of=core.labels_of,
        statistics=_statistics(record),
        licence=record.licence,
        citation=list(record.citation),
        caveats=list(record.caveats),
        links=links(request, volume.ref, record),
    )


def _statistics(record: MetadataRecord) -> Statistics | None:
    said = record.metadata.technical.statistics
    return None if said is None else Statistics(minimum=said.minimum, maximum=said.maximum, window=said.window)


def _level(volume: OpenVolume, level: Level) -> LevelInfo:
    sizes = volume.voxel_size_nm(level)
    tz, ty, tx = (None if nm is None else t for nm, t in zip(sizes, level.translation, strict=True))
    return LevelInfo(
        level=level.number,
        shape=level.shape,
        chunk=level.chunk,
        shard=level.shard,
        voxel_size_nm=sizes,
        translation_nm=(tz, ty, tx),
        factor=level.factor,
    )
