"""Many boxes in one request: of one volume, or of several at the same places."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from block_server.bodies import BlocksBody, PlacesBody
from block_server.bundling import MEDIA_TYPE, Bundle
from block_server.bundling import Member as Tensor
from block_server.cropping import Crop, crop
from block_server.delivering import Form, Timing, check_size, cut, deliver
from block_server.faults import problems
from block_server.formats import MEDIA_TYPES, accepted
from block_server.placing import Grid, placed
from block_server.queries import VOLUME, asked_body
from block_server.reading import Part
from block_server.rooms import Found, Rooms, find, find_named, rooms_of, voxel_headers
from block_server.routes.blocks import OCTETS, asked_conversion
from emporter_contracts.errors import InvalidValueError

router = APIRouter(tags=["blocks"])


def described_body(model: type[BaseModel], *path: dict[str, Any]) -> dict[str, Any]:
    """What FastAPI adds to a route's OpenAPI: `path` parameters, and the body."""
    return {
        "parameters": list(path),
        "requestBody": {"required": True, "content": {"application/json": {"schema": _inlined(model)}}},
    }


def _inlined(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of a model, without references."""
    schema = model.model_json_schema()
    parts = schema.pop("$defs", {})

    def resolved(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return resolved(parts[node["$ref"].rsplit("/", 1)[-1]])
            return {key: resolved(value) for key, value in node.items()}
        return [resolved(one) for one in node] if isinstance(node, list) else node

    found: dict[str, Any] = resolved(schema)
    return found


def _answers(description: str, *media_types: str) -> dict[int | str, dict[str, Any]]:
    return {
        200: {"description": description, "content": dict.fromkeys(media_types, OCTETS)},
        **problems(400, 404, 406, 409, 410, 413, 415, 416, 502, 503),
    }


@router.post(
    "/v1/volumes/{v}/blocks",  # noqa: FAST003  # `find` takes it
    response_class=Response,
    responses=_answers("The boxes, one contiguous (N,z,y,x) array, C order, little-endian", *MEDIA_TYPES.values()),
    openapi_extra=described_body(BlocksBody, VOLUME),
)
async def blocks(request: Request) -> Response:
    """Many boxes of one shape, in the order of their origins. Chunks that several of them share are read and decoded once."""
    timing = Timing()
    body, rooms = await asked_body(request, BlocksBody), rooms_of(request)
    found = await find(request)
    volume = found.volume
    level = body.level_of(volume) or volume.levels[0]
    crops = [crop(volume, level, place.box(volume, level), body.outside) for place in body.places(body.frame)]
    shape = crops[0].box.shape
    if any(one.box.shape != shape for one in crops):  # source voxels, of a coarser level
        raise InvalidValueError(
            "the boxes cover different numbers of voxels of that level", hint="take origins that are multiples of its factor"
        )
    form = Form(
        (len(crops), *shape),
        level.dtype,
        body.format or accepted(request.headers.get("accept"), MEDIA_TYPES),
        asked_conversion(volume, level, body.dtype, body.window),
    )
    headers = voxel_headers(found, level) | {
        "cache-control": "no-store",
        "x-emporter-dtype": form.dtype.name,
        "x-emporter-shape": ",".join(map(str, form.shape)),
        "x-emporter-level": str(level.number),
    }
    parts = _cut(rooms, crops)
    timing.over("find")
    return await deliver(request, parts, form, headers, timing, together=True)


@router.post(
    "/v1/blocks",
    response_class=Response,
    responses=_answers("One (N,z,y,x) tensor of each volume, by name, in the safetensors format", MEDIA_TYPE),
    openapi_extra=described_body(PlacesBody),
)
async def places(request: Request) -> Response:
    """Boxes of several volumes at the same places in the world, such as an image and its labels.

    All are given on one grid, that of the first volume's level: of the others, the voxel nearest to each point of it, never a
    mixture of several. In the index, `__metadata__.volumes` tells revision, level, voxel size and transform of each.
    """
    timing = Timing()
    accepted(request.headers.get("accept"), {"safetensors": MEDIA_TYPE})
    body, rooms = await asked_body(request, PlacesBody), rooms_of(request)
    founds = [await find_named(request, member.volume) for member in body.volumes]
    first = founds[0].volume
    level = body.volumes[0].level_of(first) or first.levels[0]
    crops = [crop(first, level, place.box(first, level), body.outside) for place in body.places()]
    parts: list[Part] = [*_cut(rooms, crops)]
    levels = [level]
    for found, member in zip(founds[1:], body.volumes[1:], strict=True):
        first.check_voxel_size()
        levels.append(member.level_of(found.volume) or found.volume.fitting_level(level.scale))
        grids = (Grid.of(level, one.box) for one in crops)
        parts.extend(placed(found.volume, levels[-1], grid, body.outside) for grid in grids)
    check_size(rooms, sum(part.bytes for part in parts))
    shape = (len(crops), *crops[0].box.shape)
    names = [member.name or member.volume for member in body.volumes]
    tensors = [Tensor(name, one.dtype, shape) for name, one in zip(names, levels, strict=True)]
    about = {
        "grid": names[0],
        "origins": json.dumps([one.box.start for one in crops]),
        "volumes": json.dumps(_about(founds, levels, names)),
    }
    timing.over("find")
    headers = {"cache-control": "no-store", "x-emporter-shape": ",".join(map(str, shape))}
    return await deliver(request, parts, Bundle(tensors, about), headers, timing, together=True)


def _cut(rooms: Rooms, crops: Sequence[Crop]) -> Sequence[Crop]:
    """Boxes as parts that follow each other in C order. Raises TooLargeError."""
    check_size(rooms, sum(one.bytes for one in crops))
    return [part for one in crops for part in cut(rooms, one)]


def _about(founds: Sequence[Found], levels: Sequence[Any], names: Sequence[str]) -> Mapping[str, Any]:
    return {
        name: {
            "volume": str(found.volume.ref),
            "level": level.number,
            "role": found.volume.record.metadata.core.role,
            "voxel_size_nm": found.volume.voxel_size_nm(level),
            "translation_nm": level.translation,
            "caveats": [caveat.code for caveat in found.volume.record.caveats],
        }
        for name, found, level in zip(names, founds, levels, strict=True)
    }
