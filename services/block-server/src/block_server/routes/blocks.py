"""Boxes and slices of voxels."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response

from block_server.answers import cache_rule, etag, not_modified, unchanged, while_wanted
from block_server.arrays import Level, OpenVolume
from block_server.cropping import Asked, Crop, crop
from block_server.delivering import Form, Timing, check_decoding, cut, deliver, held
from block_server.encoding import PICTURE_TYPES, Depth, Window, check_picture, encoded, grey, window_of
from block_server.errors import DamagedVolumeError, OutsideVolumeError
from block_server.faults import problems
from block_server.formats import MEDIA_TYPES, Conversion, Dtype, accepted, conversion
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
    "X-Emporter-Level": "the level they are of",
    "X-Emporter-Voxel-Size-Nm": "of the level asked for, z,y,x; `null` where nobody knows",
    "X-Emporter-Caveats": "what a user of the voxels must know, by code; the volume's page has the evidence",
}


def _answers(description: str, *media_types: str) -> dict[int | str, dict[str, Any]]:
    headers = {name: {"description": text, "schema": {"type": "string"}} for name, text in VOXEL_HEADERS.items()}
    return {
        200: {"description": description, "headers": headers, "content": dict.fromkeys(media_types, OCTETS)},
        304: {"description": "The client has it already (If-None-Match)"},
        **problems(400, 404, 406, 409, 410, 413, 415, 416, 502, 503),
    }


@router.get(
    "/v1/volumes/{v}/block",  # noqa: FAST003  # `find` takes it
    response_class=Response,
    responses=_answers("The voxels of the box, C order z,y,x, little-endian", *MEDIA_TYPES.values()),
    openapi_extra=documented(BlockQuery, VOLUME),
)
async def block(request: Request) -> Response:
    """A box of voxels at any offset. What it is made of is in the X-Emporter headers."""
    timing = Timing()
    query, rooms = asked(request, BlockQuery), rooms_of(request)
    found = await find(request)
    level = query.of(found.volume)
    place = Asked(query.origin, query.shape, query.origin_nm, query.shape_nm, query.frame)
    wanted = crop(found.volume, level, place.box(found.volume, level), query.outside)
    form = Form(
        wanted.box.shape,
        level.dtype,
        query.format or accepted(request.headers.get("accept"), MEDIA_TYPES),
        asked_conversion(found.volume, level, query.dtype, query.window),
    )
    tag = etag(
        found.volume, "block", level.number, wanted.box.start, wanted.box.stop, query.outside, form.encoding, form.conversion
    )
    headers = _headers(found, wanted, tag) | ({} if query.format else {"vary": "accept"})
    headers["x-emporter-dtype"] = form.dtype.name
    if unchanged(request, tag):
        return not_modified(headers)
    parts = cut(rooms, wanted)
    timing.over("find")
    return await deliver(request, parts, form, headers, timing, together=False)


@router.get(
    "/v1/volumes/{v}/slice/{axis}/{index}",  # noqa: FAST003  # read from the request
    response_class=Response,
    responses=_answers("A grey picture: rows and columns are the two axes left, in the order z, y, x", *PICTURE_TYPES.values()),
    openapi_extra=documented(SliceQuery, VOLUME, AXIS, INDEX),
)
async def picture(request: Request) -> Response:
    """One slice as a picture."""
    timing = Timing()
    query, rooms = asked(request, SliceQuery), rooms_of(request)
    cut_axis, index = _plane(request)
    found = await find(request)
    level = query.of(found.volume)
    if index >= level.shape[cut_axis]:
        raise OutsideVolumeError(
            f"{found.volume.ref} level {level.number} has {level.shape[cut_axis]} voxels along {AXES[cut_axis]}: no {index}",
            hint=f"slices are 0 to {level.shape[cut_axis] - 1}",
        )
    depth: Depth = 16 if query.depth == "16" else 8
    shown = window_of(query.window, level.dtype, found.volume.record, depth)
    form = query.format or accepted(request.headers.get("accept"), PICTURE_TYPES)
    start, stop = [0, 0, 0], list(level.shape)
    start[cut_axis], stop[cut_axis] = index, index + 1
    check_picture(max(n for axis, n in enumerate(level.shape) if axis != cut_axis), form, depth)
    wanted = crop(found.volume, level, Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2])), "error")
    tag = etag(found.volume, "slice", level.number, cut_axis, index, form, depth, shown)
    headers = _headers(found, wanted, tag) | {"x-emporter-window": "as stored" if shown is None else str(shown)}
    headers |= {} if query.format else {"vary": "accept"}
    if unchanged(request, tag):
        return not_modified(headers)
    check_decoding(rooms, [wanted])
    timing.over("find")
    # Beside the voxels: the picture, three times for webp's colours, and its encoded form.
    needed = wanted.needed_bytes + 5 * wanted.box.size * depth // 8
    with await held(request, rooms, [wanted], needed):
        timing.over("wait")
        voxels = await while_wanted(request.receive, _read(rooms, found, wanted))
        timing.over("read")
        body = await asyncio.to_thread(lambda: encoded(grey(np.squeeze(voxels, cut_axis), shown, depth), form))
        timing.over("encode")
    return Response(body, headers=headers | timing.header, media_type=PICTURE_TYPES[form])


async def _read(rooms: Rooms, found: Found, wanted: Crop) -> Any:
    try:
        return await wanted.read()
    except DamagedVolumeError as error:
        raise await removed_or_damaged(rooms, found.volume, error) from error


def _headers(found: Found, wanted: Crop, tag: str) -> dict[str, str]:
    return voxel_headers(found, wanted.level) | {
        "etag": tag,
        "cache-control": cache_rule(found.asked),
        "x-emporter-shape": ",".join(map(str, wanted.box.shape)),
        "x-emporter-level": str(wanted.level.number),
        "x-emporter-origin": ",".join(map(str, wanted.box.start)),
    }


def asked_conversion(volume: OpenVolume, level: Level, dtype: Dtype | None, window: str | None) -> Conversion | None:
    """The conversion that a request names; None where it names none. Raises UnsuitableViewError."""
    if dtype is None and window is None:
        return None
    meant = None if window is None else window_of(window, level.dtype, volume.record)
    if window is not None and meant is None:  # 8 bit "as it is"
        meant = Window(0, 255)
    return conversion(level.dtype, dtype, meant, labels=volume.record.metadata.core.role == "labels")


def _plane(request: Request) -> tuple[int, int]:
    """The number of the axis that is cut across, and the index along it."""
    axis, index = request.path_params["axis"], request.path_params["index"]
    if axis not in AXES:
        raise InvalidValueError(f"{axis[:20]!r} is no axis", hint="slice/z/…, slice/y/… or slice/x/…")
    if not (index.isascii() and index.isdigit() and len(index) < 12):
        raise InvalidValueError(f"{index[:20]!r} is no slice", hint="slices are counted from 0")
    return AXES.index(axis), int(index)
