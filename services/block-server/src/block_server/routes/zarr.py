"""The stored OME-Zarr itself, byte for byte: what any Zarr reader opens over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import quote

from fastapi import APIRouter, Request, Response

from block_server.answers import FOR_EVER, PIECE, PiecewiseResponse, etag, not_modified, unchanged
from block_server.arrays import OpenVolume, shard_of
from block_server.delivering import Timing
from block_server.errors import DamagedVolumeError, NoSuchKeyError, UnsatisfiableRangeError
from block_server.faults import problems
from block_server.queries import VOLUME, documented
from block_server.ranges import Wanted, wanted_range
from block_server.rooms import Rooms, find_stored, removed_or_damaged, rooms_of
from emporter_contracts import storage
from emporter_runtime.errors import ObjectMissingError, StoreUnavailableError
from emporter_runtime.objects import Objects, Part

T = TypeVar("T")

router = APIRouter(tags=["zarr"])

KEY = {
    "name": "key",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "description": "of an object below the Zarr, such as `zarr.json` or `0/c/0/0/0`",
}
LONGEST_KEY = 200
"""Characters; none of ours has more than 60, and no store chokes on fewer than 255."""

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The object", "content": {"application/octet-stream": {}, "application/json": {}}},
    206: {"description": "The range asked for (one, bounded, open or suffix)", "content": {"application/octet-stream": {}}},
    304: {"description": "The client has it already (If-None-Match)"},
    **problems(400, 404, 409, 410, 415, 416, 502, 503),
}


@router.get(
    "/zarr/{v}.ome.zarr/{key:path}",  # noqa: FAST003  # read from the request
    response_class=Response,
    responses=_ANSWERS,
    operation_id="zarr_get",
    openapi_extra=documented(None, VOLUME, KEY),
)
async def stored(request: Request) -> Response:
    """A stored object of a pinned revision, or a range of it. Never encoded, never redirected."""
    timing = Timing()
    rooms, key = rooms_of(request), request.path_params["key"]
    volume, full_key, tag = await _object(request, key)
    if unchanged(request, tag):
        return not_modified(_headers(tag))
    wanted = wanted_range(request, tag)
    timing.over("find")
    hold = await rooms.passing.hold(2 * PIECE)
    timing.over("wait")
    try:
        first, size, stop = await _opened(rooms, volume, key, full_key, wanted)
    except BaseException:
        hold.shrink(0)
        raise
    timing.over("read")
    headers = _headers(tag) | timing.header
    if wanted is not None:
        headers["content-range"] = f"bytes {first.start}-{stop - 1}/{size}"
    hold.shrink(min(hold.bytes, stop - first.start))
    return PiecewiseResponse(
        pieces(rooms.objects, full_key, first, stop),
        stop - first.start,
        headers=headers,
        media_type=_media_type(key),
        status=200 if wanted is None else 206,
        hold=hold,
    )


@router.head(
    "/zarr/{v}.ome.zarr/{key:path}",  # noqa: FAST003  # read from the request
    response_class=Response,
    responses=_ANSWERS,
    operation_id="zarr_head",
    openapi_extra=documented(None, VOLUME, KEY),
)
async def stored_head(request: Request) -> Response:
    """Length and ETag of a stored object."""
    rooms, key = rooms_of(request), request.path_params["key"]
    volume, full_key, tag = await _object(request, key)
    if unchanged(request, tag):
        return not_modified(_headers(tag))
    info = await _there(rooms, volume, key, lambda: rooms.objects.head(storage.VOLUMES, full_key))
    return Response(headers=_headers(tag) | {"content-length": str(info.size)}, media_type=_media_type(key))


async def _object(request: Request, key: str) -> tuple[OpenVolume, str, str]:
    """The revision, the object's key in the store, its ETag. Raises NotPinnedError, NoSuchKeyError."""
    volume = await find_stored(request, lambda ref: f"zarr/{ref}.ome.zarr/{quote(key)}")
    assert volume.ref.revision is not None
    is_array = any(key.startswith(f"{level.path}/") for level in volume.levels)
    revision = volume.arrays_of if is_array else volume.ref.revision
    if any(part in {"", ".", ".."} for part in key.split("/")) or not key.isprintable() or len(key) > LONGEST_KEY:
        raise _no_such(volume, key)
    return volume, storage.zarr_root(volume.ref.volume, revision) + key, etag(volume, "zarr", key)


async def _opened(rooms: Rooms, volume: OpenVolume, key: str, full_key: str, wanted: Wanted | None) -> tuple[Part, int, int]:
    """The first piece of what is wanted, the size of the whole object, and where what is wanted stops."""
    try:
        first = await _there(rooms, volume, key, lambda: _first(rooms.objects, full_key, wanted or Wanted()))
    except StoreUnavailableError:
        # Some stores say so, too, when a range begins past the end.
        info = await _there(rooms, volume, key, lambda: rooms.objects.head(storage.VOLUMES, full_key))
        if wanted is None and info.size == 0:
            return Part(info, 0, 0, memoryview(b"")), 0, 0
        if wanted is not None and (wanted.start >= info.size or wanted.suffix == 0):
            raise UnsatisfiableRangeError(f"{key} has no such bytes", size=info.size) from None
        raise
    size = first.info.size
    if wanted is not None and first.start >= first.stop:
        raise UnsatisfiableRangeError(f"{key} has no such bytes", size=size)
    stop = size if wanted is None or wanted.stop is None else min(wanted.stop, size)
    return first, size, stop


async def _first(objects: Objects, full_key: str, wanted: Wanted) -> Part:
    if wanted.suffix is None:
        stop = wanted.start + PIECE if wanted.stop is None else min(wanted.stop, wanted.start + PIECE)
        return await objects.get_part(storage.VOLUMES, full_key, wanted.start, stop)
    if wanted.suffix <= PIECE:
        return await objects.get_tail(storage.VOLUMES, full_key, wanted.suffix)
    size = (await objects.head(storage.VOLUMES, full_key)).size
    start = max(0, size - wanted.suffix)
    return await objects.get_part(storage.VOLUMES, full_key, start, start + PIECE)


async def pieces(objects: Objects, full_key: str, first: Part, stop: int) -> AsyncIterator[memoryview]:
    """`first` and what follows up to `stop`, each piece fetched while the one before it is sent."""
    piece = first
    while piece.stop < stop:
        then = asyncio.create_task(objects.get_part(storage.VOLUMES, full_key, piece.stop, min(stop, piece.stop + PIECE)))
        try:
            yield piece.data
            piece = await then
        finally:
            then.cancel()
    yield piece.data


async def _there(rooms: Rooms, volume: OpenVolume, key: str, call: Callable[[], Awaitable[T]]) -> T:
    """What `call` gives. A missing shard raises DamagedVolumeError: Zarr readers take 404 for zeros."""
    try:
        return await call()
    except ObjectMissingError:
        shard = shard_of(volume.levels, key)
        if shard is None:
            raise _no_such(volume, key) from None
        level, index = shard
        damage = DamagedVolumeError(
            f"{volume.ref} level {level.number}: shard {list(index)} is missing",
            hint="restore it from a backup, or ingest it again with force",
        )
        raise await removed_or_damaged(rooms, volume, damage) from None


def _no_such(volume: OpenVolume, key: str) -> NoSuchKeyError:
    return NoSuchKeyError(f"{volume.ref} stores nothing under {key[:200]!r}", hint="zarr.json names its arrays")


def _headers(tag: str) -> dict[str, str]:
    return {"etag": tag, "cache-control": FOR_EVER, "accept-ranges": "bytes"}


def _media_type(key: str) -> str:
    return "application/json" if key.endswith(".json") else "application/octet-stream"
