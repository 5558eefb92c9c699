"""Boxes and slices of voxels."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from fastapi import APIRouter, Path, Query, Request, Response

from block_server.answers import PiecewiseResponse, cache_rule, etag, not_modified, unchanged
from block_server.cropping import Asked, Crop, Frame, Outside, crop
from block_server.encoding import MEDIA_TYPES, BlockFormat, grey, npy_header, png, raw, window_of
from block_server.errors import DamagedVolumeError, OutsideVolumeError
from block_server.faults import problems
from block_server.rooms import Found, FoundHere, Rooms, RoomsHere, removed_or_damaged, voxel_headers
from emporter_contracts.errors import InvalidValueError
from emporter_contracts.geometry import AXES, Box

N = TypeVar("N", int, float)

router = APIRouter(tags=["blocks"])

LevelNumber = Annotated[int, Query(ge=0, le=64, description="level of the pyramid, 0 = full resolution")]

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
    "/v1/volumes/{v}/block",  # noqa: FAST003  # `found` takes it
    response_class=Response,
    responses=_answers("The voxels of the box, C order z,y,x, little-endian", *MEDIA_TYPES.values()),
)
async def block(
    request: Request,
    rooms: RoomsHere,
    found: FoundHere,
    level: LevelNumber = 0,
    origin: Annotated[str | None, Query(max_length=100, description="first voxel z,y,x; 0,0,0 if absent")] = None,
    shape: Annotated[str | None, Query(max_length=100, description="voxels z,y,x; 128,128,128 or the level's, if absent")] = None,
    origin_nm: Annotated[str | None, Query(max_length=100, description="world z,y,x in nm: the voxel nearest to it")] = None,
    shape_nm: Annotated[str | None, Query(max_length=100, description="z,y,x in nm, to whole voxels")] = None,
    frame: Annotated[
        Frame, Query(description="voxel: of the level; source: the archive's own index at full resolution")
    ] = "voxel",
    format: Annotated[BlockFormat | None, Query(description="if absent, by Accept; else raw")] = None,  # noqa: A002
    outside: Annotated[Outside, Query(description="what to give for voxels outside the volume")] = "error",
) -> Response:
    """A box of voxels at any offset. What it is made of is in the X-Emporter headers."""
    asked = Asked(_triple(origin), _triple(shape), _numbers(origin_nm), _numbers(shape_nm), frame)
    chosen = found.volume.level(level)
    wanted = crop(found.volume, chosen, asked.box(found.volume, chosen), outside)
    encoding = format or _accepted(request)
    tag = etag(found.volume, "block", level, wanted.box.start, wanted.box.stop, outside, encoding)
    headers = _headers(found, wanted, tag) | ({} if format else {"vary": "accept"})
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
    "/v1/volumes/{v}/slice/{axis}/{index}",  # noqa: FAST003  # `found` takes it
    response_class=Response,
    responses=_answers("A grey picture: rows and columns are the two axes left, in the order z, y, x", "image/png"),
)
async def picture(
    request: Request,
    rooms: RoomsHere,
    found: FoundHere,
    axis: Annotated[Literal["z", "y", "x"], Path(description="the axis that is cut across")],
    index: Annotated[int, Path(ge=0, description="voxel along that axis, of the level asked for")],
    level: LevelNumber = 0,
    format: Annotated[Literal["png"], Query()] = "png",  # noqa: A002
    window: Annotated[
        str,
        Query(
            max_length=80,
            description="what is black and what white: auto (8 bit as it is, else 0.1 to 99.9 percentile), "
            "full (minimum, maximum), or low,high",
        ),
    ] = "auto",
) -> Response:
    """One slice as an 8-bit picture."""
    chosen = found.volume.level(level)
    cut = AXES.index(axis)
    if index >= chosen.shape[cut]:
        raise OutsideVolumeError(
            f"{found.volume.ref} level {level} has {chosen.shape[cut]} voxels along {axis}, no slice {index}",
            hint=f"slices are 0 to {chosen.shape[cut] - 1}",
        )
    shown = window_of(window, chosen.dtype, found.volume.record)
    start, stop = [0, 0, 0], list(chosen.shape)
    start[cut], stop[cut] = index, index + 1
    wanted = crop(found.volume, chosen, Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2])), "error")
    tag = etag(found.volume, "slice", level, axis, index, format, shown)
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


def _triple(text: str | None) -> tuple[int, int, int] | None:
    return None if text is None else _three(text, int, "write three whole numbers, such as 0,128,128")


def _numbers(text: str | None) -> tuple[float, float, float] | None:
    return None if text is None else _three(text, float, "write three numbers of nm, such as 0,512.5,512.5")


def _three(text: str, kind: Callable[[str], N], hint: str) -> tuple[N, N, N]:
    try:
        z, y, x = (kind(part) for part in text.split(","))
    except ValueError:
        raise InvalidValueError(f"{text!r} is not z,y,x", hint=hint) from None
    return (z, y, x)
