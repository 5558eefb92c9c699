"""Boxes and slices of voxels."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response

from block_server.answers import PiecewiseResponse, cache_rule, etag, not_modified, unchanged
from block_server.cropping import Asked, Crop, crop
from block_server.encoding import MEDIA_TYPES, BlockFormat, grey, npy_header, png, raw, window_of
from block_server.errors import DamagedVolumeError, OutsideVolumeError
from block_server.faults import problems
from block_server.queries import VOLUME, BlockQuery, SliceQuery, asked, documented
from block_server.rooms import Found, Rooms, find, removed_or_damaged, rooms_of, voxel_headers
from emporter_contracts.errors import InvalidValueError
from emporter_contracts.geometry import AXES, Box

router = APIRouter(tags=["blocks"])

AXIS = {
    "name": "axis",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "enum": list(AXES)},
    "description": "the axis that is cut across",
}
INDEX = {
    "name": "index",
    "in": "path",
    "required": True,
    "schema": {"type": "integer", "minimum": 0},
    "description": "voxel along that axis, of the level asked for",
}
OCTETS: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
VOXEL_HEADERS = {
    "X-Emporter-Revision": "the revision these voxels are of",
    "X-Emporter-Shape": "voxels z,y,x",
    "X-Emporter-Dtype": "numpy's name; little-endian",
    "X-Emporter-Origin": "first voxel z,y,x, of the level asked for",
    "X-Emporter-Voxel-Size-Nm": "of the level asked for, z,y,x; `null` where nobody knows",
    "X-Emporter-Caveats": "what a user of the voxels must know, by code; the volume's page has the evidence",
}


def _answers(description: str, *media_types: str) -> dict[int | str, dict[str, Any]]:
    headers = {name: {"description": text, "schema": {"type": "string"}} for name, text in VOXEL_HEADERS.items()}
    return {
        200: {"description": description, "headers": headers, "content": dict.fromkeys(media_types, OCTETS)},
        304: {"description": "The client has it already (If-None-Match)"},
        **problems(400, 404, 409, 410, 413, 415, 416, 502, 503),
    }


@router.get(
    "/v1/volumes/{v}/block",  # noqa: FAST003  # `find` takes it
    response_class=Response,
    responses=_answers("The voxels of the box, C order z,y,x, little-endian", *MEDIA_TYPES.values()),
    openapi_extra=documented(BlockQuery, VOLUME),
)
async def block(request: Request) -> Response:
    """A box of voxels at any offset. What it is made of is in the X-Emporter headers."""
    query, rooms = asked(request, BlockQuery), rooms_of(request)
    found = await find(request)
    level = found.volume.level(query.level)
    place = Asked(query.origin, query.shape, query.origin_nm, query.shape_nm, query.frame)
    wanted = crop(found.volume, level, place.box(found.volume, level), query.outside)
    encoding = query.format or _accepted(request)
    tag = etag(found.volume, "block", query.level, wanted.box.start, wanted.box.stop, query.outside, encoding)
    headers = _headers(found, wanted, tag) | ({} if query.format else {"vary": "accept"})
    if unchanged(request, tag):
        return not_modified(headers)
    hold = await rooms.decoding.hold(wanted.needed_bytes)
    try:
        voxels = await _read(rooms, found, wanted)
        pieces: list[bytes | memoryview] = [raw(voxels)] if encoding == "raw" else [npy_header(voxels), raw(voxels)]
        hold.shrink(wanted.bytes)
    except BaseException:
        hold.shrink(0)
        raise
    return PiecewiseResponse(pieces, sum(map(len, pieces)), headers=headers, media_type=MEDIA_TYPES[encoding], hold=hold)


@router.get(
    "/v1/volumes/{v}/slice/{axis}/{index}",  # noqa: FAST003  # read from the request
    response_class=Response,
    responses=_answers("A grey picture: rows and columns are the two axes left, in the order z, y, x", "image/png"),
    openapi_extra=documented(SliceQuery, VOLUME, AXIS, INDEX),
)
async def picture(request: Request) -> Response:
    """One slice as an 8-bit picture."""
    query, rooms = asked(request, SliceQuery), rooms_of(request)
    cut, index = _plane(request)
    found = await find(request)
    level = found.volume.level(query.level)
    if index >= level.shape[cut]:
        raise OutsideVolumeError(
            f"{found.volume.ref} level {level.number} has {level.shape[cut]} voxels along {AXES[cut]}, no slice {index}",
            hint=f"slices are 0 to {level.shape[cut] - 1}",
        )
    shown = window_of(query.window, level.dtype, found.volume.record)
    start, stop = [0, 0, 0], list(level.shape)
    start[cut], stop[cut] = index, index + 1
    wanted = crop(found.volume, level, Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2])), "error")
    tag = etag(found.volume, "slice", level.number, cut, index, query.format, shown)
    headers = _headers(found, wanted, tag) | {"x-emporter-window": "as stored" if shown is None else str(shown)}
    if unchanged(request, tag):
        return not_modified(headers)
    # Beside the voxels: the 8-bit plane and its PNG.
    with await rooms.decoding.hold(wanted.needed_bytes + 2 * wanted.box.size):
        voxels = await _read(rooms, found, wanted)
        body = await asyncio.to_thread(lambda: png(grey(np.squeeze(voxels, cut), shown)))
    return Response(body, headers=headers, media_type="image/png")


async def _read(rooms: Rooms, found: Found, wanted: Crop) -> Any:
    try:
        return await wanted.read(found.volume)
    except DamagedVolumeError as error:
        raise await removed_or_damaged(rooms, found.volume, error) from error


def _headers(found: Found, wanted: Crop, tag: str) -> dict[str, str]:
    return voxel_headers(found, wanted.level) | {
        "etag": tag,
        "cache-control": cache_rule(found.asked),
        "x-emporter-shape": ",".join(map(str, wanted.box.shape)),
        "x-emporter-origin": ",".join(map(str, wanted.box.start)),
    }


def _accepted(request: Request) -> BlockFormat:
    """Npy for whoever asks for it by name, raw for all others."""
    return "npy" if MEDIA_TYPES["npy"] in request.headers.get("accept", "") else "raw"


def _plane(request: Request) -> tuple[int, int]:
    """The number of the axis that is cut across, and the index along it."""
    axis, index = request.path_params["axis"], request.path_params["index"]
    if axis not in AXES:
        raise InvalidValueError(f"{axis[:20]!r} is no axis", hint="slice/z/…, slice/y/… or slice/x/…")
    if not (index.isascii() and index.isdigit() and len(index) < 12):
        raise InvalidValueError(f"{index[:20]!r} is no slice", hint="slices are counted from 0")
    return AXES.index(axis), int(index)
