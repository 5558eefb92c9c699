"""Any stored volume as neuroglancer precomputed, made as it is asked for.

Source: https://neuroglancer-docs.web.app/datasource/precomputed/volume.html. Its coordinates are x, y, z. Raw chunks are in
Fortran order x, y, z, c: the same bytes as our C order z, y, x.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from block_server.answers import FOR_EVER, etag, not_modified, unchanged
from block_server.arrays import Level, OpenVolume
from block_server.cropping import crop
from block_server.delivering import Form, Timing, cut, deliver
from block_server.errors import NoSuchKeyError, UnsuitableViewError
from block_server.faults import problems
from block_server.queries import VOLUME, documented
from block_server.rooms import find_pinned, rooms_of
from emporter_contracts.geometry import Box, Index3
from emporter_contracts.records import Core

router = APIRouter(tags=["precomputed"])

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "float32")
"""`data_type` of a precomputed volume."""
SCALE = {
    "name": "scale",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "description": "key of a scale: the level",
}
CHUNK = {
    "name": "chunk",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "description": "`x0-x1_y0-y1_z0-z1`, of the grid in `info`",
}
_CHUNK = re.compile(r"(\d{1,13})-(\d{1,13})_(\d{1,13})-(\d{1,13})_(\d{1,13})-(\d{1,13})\Z", re.ASCII)


@router.get(
    "/precomputed/{v}/info",  # noqa: FAST003  # `find` takes it
    responses={200: {"description": "The description of the volume"}, **problems(400, 404, 409, 410, 415, 502, 503)},
    openapi_extra=documented(None, VOLUME),
)
async def info(request: Request) -> Response:
    """Scales, x, y, z, in nm. Labels are a segmentation."""
    volume = await find_pinned(request, lambda ref: f"precomputed/{ref}/info")
    _check(volume)
    tag = etag(volume, "precomputed", "info")
    headers = {"etag": tag, "cache-control": FOR_EVER}
    if unchanged(request, tag):
        return not_modified(headers)
    labels = volume.record.metadata.core.role == "labels" and volume.levels[0].dtype.kind == "u"
    body = {
        "@type": "neuroglancer_multiscale_volume",
        "type": "segmentation" if labels else "image",
        "data_type": volume.levels[0].dtype.name,
        "num_channels": 1,
        "scales": [_scale(level, offset) for level, offset in scales(volume)],
    }
    return JSONResponse(body, headers=headers)


@router.get(
    "/precomputed/{v}/{scale}/{chunk}",  # noqa: FAST003  # read from the request
    response_class=Response,
    responses={
        200: {"description": "The voxels, x fastest, little-endian", "content": {"application/octet-stream": {}}},
        **problems(400, 404, 409, 410, 413, 415, 502, 503),
    },
    openapi_extra=documented(None, VOLUME, SCALE, CHUNK),
)
async def chunk(request: Request) -> Response:
    """One chunk, encoding raw."""
    timing = Timing()
    scale, key = request.path_params["scale"], request.path_params["chunk"]
    volume = await find_pinned(request, lambda ref: f"precomputed/{ref}/{quote(scale)}/{quote(key)}")
    _check(volume)
    for level, offset in scales(volume):
        box = _box(key, level, offset) if scale == str(level.number) else None
        if box is not None:
            tag = etag(volume, "precomputed", level.number, box.start, box.stop)
            headers = {"etag": tag, "cache-control": FOR_EVER}
            if unchanged(request, tag):
                return not_modified(headers)
            timing.over("find")
            parts = cut(rooms_of(request), crop(volume, level, box, "error"))
            return await deliver(request, parts, Form(box.shape, level.dtype, "raw"), headers, timing, together=False)
    raise NoSuchKeyError(f"{volume.ref} has no chunk {scale[:40]}/{key[:80]}", hint="info names the scales and their grids")


def scales(volume: OpenVolume) -> list[tuple[Level, Index3]]:
    """The levels that can be said, and the index of their first voxel.

    A region that was cut from an archive at a voxel that is no multiple of a level's factor begins between two voxels there, and
    `voxel_offset` holds whole ones: such a level is left out rather than shifted.
    """
    origin = volume.record.metadata.core.source_origin
    found = []
    for level in volume.levels:
        if all(at % factor == 0 for at, factor in zip(origin, level.factor, strict=True)):
            z, y, x = (at // factor for at, factor in zip(origin, level.factor, strict=True))
            found.append((level, (z, y, x)))
    return found


def is_sayable(core: Core) -> bool:
    """Whether a volume can be said in precomputed."""
    return core.data_type in DTYPES and None not in core.voxel_size_nm


def _check(volume: OpenVolume) -> None:
    """Raises VoxelSizeUnknownError, UnsuitableViewError."""
    name = volume.levels[0].dtype.name
    if name not in DTYPES:
        raise UnsuitableViewError(
            f"precomputed has no {name}",
            hint=f"open /zarr/{volume.ref}.ome.zarr, or ask for blocks, there with dtype= if you like",
        )
    volume.check_voxel_size()


def _scale(level: Level, offset: Index3) -> dict[str, Any]:
    return {
        "key": str(level.number),
        "size": list(level.shape[::-1]),
        "resolution": [_number(nm) for nm in level.scale[::-1]],
        "voxel_offset": list(offset[::-1]),
        "chunk_sizes": [list(level.chunk[::-1])],
        "encoding": "raw",
    }


def _number(nm: float) -> float | int:
    return int(nm) if nm == int(nm) else nm


def _box(key: str, level: Level, offset: Index3) -> Box | None:
    """The voxels of a chunk of the grid, None where the key names no such."""
    match = _CHUNK.match(key)
    if match is None:
        return None
    x0, x1, y0, y1, z0, z1 = (int(text) for text in match.groups())
    start = np.array((z0, y0, x0)) - offset
    stop = np.array((z1, y1, x1)) - offset
    whole, cell = np.array(level.shape), np.array(level.chunk)
    if (start < 0).any() or (start >= whole).any() or (start % cell).any() or (stop != np.minimum(start + cell, whole)).any():
        return None
    return Box(tuple(map(int, start)), tuple(map(int, stop)))  # type: ignore[arg-type]
