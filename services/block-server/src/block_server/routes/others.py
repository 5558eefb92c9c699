"""Reads as BossDB and DVID have them, thinly: their clients' cutouts, of pinned revisions. Their coordinates are x, y, z.

Sources: https://api.bossdb.io (cutout), https://github.com/janelia-flyem/dvid/blob/master/datatype/imageblk/imageblk.go (raw,
specificblocks). Bytes are C order z, y, x in both. A box that leaves the volume is refused: neither says what lies there.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import Field

from block_server.answers import FOR_EVER
from block_server.arrays import Level, OpenVolume
from block_server.cropping import Outside, crop
from block_server.delivering import Form, Timing, cut, deliver
from block_server.errors import NotAcceptableError, TooLargeError, UnsuitableViewError
from block_server.faults import problems
from block_server.formats import BlockFormat, accepted
from block_server.queries import Query, asked, documented
from block_server.rooms import find_pinned, rooms_of
from emporter_contracts.errors import InvalidValueError
from emporter_contracts.geometry import Box, Index3

router = APIRouter(tags=["others"])

BOSS_TYPES: dict[BlockFormat, str] = {"blosc": "application/blosc", "raw": "application/octet-stream"}
"""What a cutout is given as; without Accept, as theirs, blosc. Pickled arrays (blosc-python) are not."""
BLOCK = 64
"""Voxels along each axis of a DVID block."""
MOST_BLOCKS = 4096
"""Of one request: a gigabyte of bytes."""

_RANGE = re.compile(r"(\d{1,13}):(\d{1,13})\Z", re.ASCII)
_TRIPLE = re.compile(r"(\d{1,13})_(\d{1,13})_(\d{1,13})\Z", re.ASCII)


class BlocksQuery(Query):
    blocks: Annotated[str, Field(max_length=200_000, description="x,y,z,x,y,z,… of blocks")] = ""
    compression: Annotated[str, Field(max_length=20, description="`uncompressed`; there is no other")] = ""


def _path(*names: str) -> list[dict[str, object]]:
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


@router.get(
    "/v1/cutout/{collection}/{experiment}/{v}/{resolution}/{x}/{y}/{z}",  # noqa: FAST003  # read from the request
    response_class=Response,
    responses={
        200: {"description": "z,y,x", "content": {one: {} for one in BOSS_TYPES.values()}},
        **problems(400, 404, 406, 409, 410, 413, 416, 502, 503),
    },
    openapi_extra=documented(None, *_path("collection", "experiment", "v", "resolution", "x", "y", "z")),
)
async def boss_cutout(request: Request) -> Response:
    """`x0:x1/y0:y1/z0:z1` of a volume, at a resolution (level). The channel is a volume, the names above it are free."""
    timing = Timing()
    given = request.path_params
    volume = await find_pinned(request, lambda ref: f"v1/cutout/any/any/{ref}/0/0:1/0:1/0:1")
    level = _level(volume, given["resolution"])
    x, y, z = (_bounds(given[name]) for name in "xyz")
    box = Box((z[0], y[0], x[0]), (z[1], y[1], x[1]))
    accept = request.headers.get("accept")
    if accept is not None and "application/blosc-python" in accept:
        raise NotAcceptableError("pickled arrays run code where they are opened", hint="accept application/blosc")
    encoding = accepted(accept, BOSS_TYPES)
    answer = await _answer(request, [box], level, volume, Form(box.shape, level.dtype, encoding), timing)
    answer.headers["content-type"] = BOSS_TYPES[encoding]
    return answer


@router.get(
    "/api/node/{uuid}/{v}/raw/0_1_2/{size}/{offset}",  # noqa: FAST003  # read from the request
    response_class=Response,
    responses={
        200: {"description": "z,y,x", "content": {"application/octet-stream": {}}},
        **problems(400, 404, 409, 410, 413, 416, 502, 503),
    },
    openapi_extra=documented(None, *_path("uuid", "v", "size", "offset")),
)
async def dvid_raw(request: Request) -> Response:
    """`sx_sy_sz/ox_oy_oz` of a volume at full resolution. The uuid may be anything: the name is pinned."""
    timing = Timing()
    given = request.path_params
    volume = await find_pinned(request, lambda ref: f"api/node/any/{ref}/raw/0_1_2/1_1_1/0_0_0")
    size, offset = _triple(given["size"]), _triple(given["offset"])
    if not all(size):
        raise InvalidValueError("a size of 0 holds no voxel", hint="write sx_sy_sz, each 1 or more")
    box, level = Box.at(offset, size), volume.levels[0]
    return await _answer(request, [box], level, volume, Form(box.shape, level.dtype, "raw"), timing)


@router.get(
    "/api/node/{uuid}/{v}/specificblocks",  # noqa: FAST003  # read from the request
    response_class=Response,
    responses={
        200: {
            "description": "of each block x, y, z, bytes (int32, little-endian) and its voxels",
            "content": {"application/octet-stream": {}},
        },
        **problems(400, 404, 409, 410, 413, 415, 502, 503),
    },
    openapi_extra=documented(BlocksQuery, *_path("uuid", "v")),
)
async def dvid_blocks(request: Request) -> Response:
    """Blocks of 64³ voxels, `?compression=uncompressed&blocks=x,y,z,x,y,z,…`. Those outside are left out; what of a block
    lies outside is 0, as DVID has it.
    """
    timing = Timing()
    query = asked(request, BlocksQuery)
    volume = await find_pinned(request, lambda ref: f"api/node/any/{ref}/specificblocks")
    if query.compression != "uncompressed":
        raise UnsuitableViewError("blocks are given as they are only", hint="say compression=uncompressed")
    level = volume.levels[0]
    places = [at for at in _places(query.blocks) if all(i * BLOCK < n for i, n in zip(at, level.shape, strict=True))]
    boxes = [Box.at((z * BLOCK, y * BLOCK, x * BLOCK), (BLOCK, BLOCK, BLOCK)) for z, y, x in places]
    if not boxes:
        return Response(b"", media_type="application/octet-stream", headers={"cache-control": FOR_EVER})
    size = BLOCK**3 * level.dtype.itemsize
    frames = tuple(struct.pack("<4i", x, y, z, size) for z, y, x in places)
    form = Form((len(boxes), BLOCK, BLOCK, BLOCK), level.dtype, "raw", frames=frames)
    return await _answer(request, boxes, level, volume, form, timing)


async def _answer(
    request: Request, boxes: Sequence[Box], level: Level, volume: OpenVolume, form: Form, timing: Timing
) -> Response:
    rooms = rooms_of(request)
    outside: Outside = "constant" if form.frames else "error"
    parts = [part for box in boxes for part in cut(rooms, crop(volume, level, box, outside))]
    timing.over("find")
    return await deliver(request, parts, form, {"cache-control": FOR_EVER}, timing, together=len(boxes) > 1)


def _level(volume: OpenVolume, text: str) -> Level:
    if not (text.isascii() and text.isdigit() and len(text) < 3):
        raise InvalidValueError(f"{text[:20]!r} is no resolution", hint="resolutions are levels, from 0")
    return volume.level(int(text))


def _bounds(text: str) -> tuple[int, int]:
    match = _RANGE.match(text)
    if match is None or int(match[1]) >= int(match[2]):
        raise InvalidValueError(f"{text[:40]!r} is no range", hint="write first:last+1, such as 0:64, for x, y and z")
    return int(match[1]), int(match[2])


def _triple(text: str) -> Index3:
    """`x_y_z`, as z, y, x."""
    match = _TRIPLE.match(text)
    if match is None:
        raise InvalidValueError(f"{text[:40]!r} is not x_y_z", hint="write three whole numbers, such as 64_64_64")
    return (int(match[3]), int(match[2]), int(match[1]))


def _places(text: str) -> list[Index3]:
    """`x,y,z,x,y,z,…`, as z, y, x."""
    numbers = text.split(",") if text else []
    if not all(n.isascii() and n.isdigit() and len(n) < 9 for n in numbers) or len(numbers) % 3:
        raise InvalidValueError("blocks are x,y,z,x,y,z,…, whole numbers", hint="write blocks=0,0,0,1,0,0")
    if len(numbers) > 3 * MOST_BLOCKS:
        raise TooLargeError(f"{len(numbers) // 3} blocks at once", hint=f"ask for {MOST_BLOCKS} at most")
    values = iter(map(int, numbers))
    return [(z, y, x) for x, y, z in zip(values, values, values, strict=True)]
