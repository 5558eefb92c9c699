"""The stored shards as OME-Zarr 0.4, on Zarr v2: each chunk a byte range of a shard, never decoded."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request, Response

from block_server.answers import FOR_EVER, etag, not_modified, unchanged
from block_server.arrays import Level, OpenVolume
from block_server.delivering import Timing
from block_server.errors import DamagedVolumeError, NoSuchKeyError, UnsatisfiableRangeError
from block_server.faults import problems
from block_server.queries import VOLUME, documented
from block_server.ranges import Wanted, wanted_range
from block_server.rooms import Rooms, find_stored, removed_or_damaged, rooms_of
from block_server.shards import CHECKSUM_BYTES, Layout
from emporter_contracts import storage
from emporter_contracts.geometry import AXES, Index3, grid_shape

router = APIRouter(tags=["zarr"])

KEY = {
    "name": "key",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "description": "such as `.zattrs`, `0/.zarray` or the chunk `0/3/1/2`",
}
ZGROUP = {"zarr_format": 2}
_CHUNK = re.compile(r"(?P<path>.+)/(?P<z>0|[1-9]\d{0,9})/(?P<y>0|[1-9]\d{0,9})/(?P<x>0|[1-9]\d{0,9})\Z", re.ASCII)
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The object", "content": {"application/octet-stream": {}, "application/json": {}}},
    206: {"description": "The range asked for", "content": {"application/octet-stream": {}}},
    304: {"description": "The client has it already (If-None-Match)"},
    **problems(400, 404, 409, 410, 415, 416, 502, 503),
}


@router.get(
    "/zarr2/{v}.ome.zarr/{key:path}",  # noqa: FAST003  # read from the request
    response_class=Response,
    responses=_ANSWERS,
    operation_id="zarr2_get",
    openapi_extra=documented(None, VOLUME, KEY),
)
async def seen(request: Request) -> Response:
    """A file of the Zarr v2 view of a pinned revision: metadata made from what is stored, chunks as they are stored."""
    return await _answer(request, head=False)


@router.head(
    "/zarr2/{v}.ome.zarr/{key:path}",  # noqa: FAST003  # read from the request
    response_class=Response,
    responses=_ANSWERS,
    operation_id="zarr2_head",
    openapi_extra=documented(None, VOLUME, KEY),
)
async def seen_head(request: Request) -> Response:
    """Its length and ETag."""
    return await _answer(request, head=True)


async def _answer(request: Request, *, head: bool) -> Response:
    timing = Timing()
    rooms, key = rooms_of(request), request.path_params["key"]
    volume = await find_stored(request, lambda ref: f"zarr2/{ref}.ome.zarr/{quote(key)}")
    tag = etag(volume, "zarr2", key)
    headers = {"etag": tag, "cache-control": FOR_EVER, "accept-ranges": "bytes"}
    chunk = _chunk(volume, key)
    timing.over("find")
    if chunk is None:
        body = json.dumps(await _document(rooms, volume, key)).encode()
        media_type = "application/json"
    elif unchanged(request, tag):
        return not_modified(headers)
    elif head:
        return Response(
            headers=headers | {"content-length": str(await _size(rooms, volume, *chunk))}, media_type="application/octet-stream"
        )
    else:
        body = await _read(rooms, volume, *chunk, timing)
        media_type = "application/octet-stream"
    if unchanged(request, tag):
        return not_modified(headers)
    if head:
        return Response(headers=headers | {"content-length": str(len(body))}, media_type=media_type)
    timing.over("read")
    headers |= timing.header
    wanted = wanted_range(request, tag)
    if wanted is None:
        return Response(body, headers=headers, media_type=media_type)
    start, stop = _bounds(wanted, len(body), key)
    headers["content-range"] = f"bytes {start}-{stop - 1}/{len(body)}"
    return Response(body[start:stop], 206, headers=headers, media_type=media_type)


def _bounds(wanted: Wanted, size: int, key: str) -> tuple[int, int]:
    start = wanted.start if wanted.suffix is None else max(0, size - wanted.suffix)
    stop = size if wanted.stop is None else min(size, wanted.stop)
    if start >= stop:
        raise UnsatisfiableRangeError(f"{key} has no such bytes", size=size)
    return start, stop


def _chunk(volume: OpenVolume, key: str) -> tuple[Level, Index3] | None:
    """The chunk that a key names; None where it names none. Raises NoSuchKeyError for one outside the grid."""
    match = _CHUNK.match(key)
    level = None if match is None else next((one for one in volume.levels if one.path == match["path"]), None)
    if match is None or level is None:
        return None
    index = (int(match["z"]), int(match["y"]), int(match["x"]))
    if not all(i < n for i, n in zip(index, grid_shape(level.shape, level.chunk), strict=True)):
        raise _no_such(volume, key)
    return level, index


async def _size(rooms: Rooms, volume: OpenVolume, level: Level, chunk: Index3) -> int:
    layout = Layout.of(level)
    try:
        place = await rooms.shards.place(volume, level, layout, chunk)
    except DamagedVolumeError as error:
        raise await removed_or_damaged(rooms, volume, error) from error
    return place.stop - place.start - CHECKSUM_BYTES * layout.checksummed


async def _read(rooms: Rooms, volume: OpenVolume, level: Level, chunk: Index3, timing: Timing) -> bytes:
    layout = Layout.of(level)
    try:
        place = await rooms.shards.place(volume, level, layout, chunk)
        timing.over("index")
        with await rooms.passing.hold(2 * (place.stop - place.start)):
            timing.over("wait")
            return bytes(await rooms.shards.read(place, layout))
    except DamagedVolumeError as error:
        raise await removed_or_damaged(rooms, volume, error) from error
    except ValueError as error:
        damage = DamagedVolumeError(
            f"{volume.ref} level {level.number}: chunk {list(chunk)} can't be read: {error}",
            hint="restore it from a backup, or ingest it again with force",
        )
        raise await removed_or_damaged(rooms, volume, damage) from error


async def _document(rooms: Rooms, volume: OpenVolume, key: str) -> dict[str, Any]:
    """The metadata under `key`. Raises NoSuchKeyError, UnsuitableViewError."""
    match key.split("/"):
        case [".zgroup"]:
            return ZGROUP
        case [".zattrs"]:
            return await _attributes(rooms, volume)
        case [".zmetadata"]:
            return {"zarr_consolidated_format": 1, "metadata": await _consolidated(rooms, volume)}
        case [path, ".zarray"] if (level := _named(volume, path)) is not None:
            return _array(level)
        case [path, ".zattrs"] if _named(volume, path) is not None:
            return {"_ARRAY_DIMENSIONS": list(AXES)}
    raise _no_such(volume, key)


def _named(volume: OpenVolume, path: str) -> Level | None:
    return next((level for level in volume.levels if level.path == path), None)


def _array(level: Level) -> dict[str, Any]:
    """`.zarray` (Zarr v2 specification, "Metadata")."""
    layout = Layout.of(level)
    return {
        "zarr_format": 2,
        "shape": list(level.shape),
        "chunks": list(level.chunk),
        "dtype": layout.dtype,
        "compressor": layout.compressor,
        # Every chunk is stored, so nothing is ever filled; and xarray takes voxels equal to a fill value for missing ones (NaN).
        "fill_value": None,
        "order": "C",
        "filters": None,
        "dimension_separator": "/",
    }


async def _attributes(rooms: Rooms, volume: OpenVolume) -> dict[str, Any]:
    """NGFF 0.4: what 0.5 has under `ome` lies at the top, and each multiscale says the version."""
    assert volume.ref.revision is not None
    root = storage.zarr_root(volume.ref.volume, volume.ref.revision)
    ome = dict(json.loads(await rooms.objects.get(storage.VOLUMES, root + "zarr.json"))["attributes"]["ome"])
    ome.pop("version", None)
    ome["multiscales"] = [{**one, "version": "0.4"} for one in ome["multiscales"]]
    for name in ("image-label", "omero"):
        if name in ome:
            ome[name] = {**ome[name], "version": "0.4"}
    return ome


async def _consolidated(rooms: Rooms, volume: OpenVolume) -> dict[str, Any]:
    arrays = {f"{level.path}/.zarray": _array(level) for level in volume.levels}
    dimensions = {f"{level.path}/.zattrs": {"_ARRAY_DIMENSIONS": list(AXES)} for level in volume.levels}
    return {".zgroup": ZGROUP, ".zattrs": await _attributes(rooms, volume), **arrays, **dimensions}


def _no_such(volume: OpenVolume, key: str) -> NoSuchKeyError:
    return NoSuchKeyError(f"{volume.ref} has nothing under {key[:200]!r}", hint=".zattrs names its arrays")
