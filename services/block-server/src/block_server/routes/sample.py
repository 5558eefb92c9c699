"""Boxes for training, drawn here: the same for the same seed and revision on any replica; and where a volume came from."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response

from block_server.answers import cache_rule, etag, while_wanted
from block_server.arrays import Level, OpenVolume
from block_server.cropping import crop
from block_server.delivering import Timing, check_size, deliver
from block_server.errors import NoSuchKeyError
from block_server.faults import problems
from block_server.formats import accepted
from block_server.queries import VOLUME, asked_body, documented
from block_server.reading import Part
from block_server.rooms import Rooms, find, find_named, rooms_of, voxel_headers
from block_server.routes.batch import described_body
from block_server.sampling import Rules, in_order, needed, rules
from block_server.sampling_drawing import Drawn, drawn
from block_server.sampling_errors import UnsatisfiableSampleError
from block_server.sampling_foreground import Foreground, Uncounted
from block_server.sampling_labels import aligned, room
from block_server.sampling_occupancy import background_of
from emporter_contracts import storage
from emporter_contracts.fills import Fill
from emporter_contracts.geometry import Box, Index3
from emporter_contracts.training import SAMPLER_VERSION, LabelGrid, SamplePlaces, SampleRequest
from emporter_readers.filling import foreground as is_foreground

router = APIRouter(tags=["training"])

SampleFormat = Literal["raw", "places"]

ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "format=raw: the first voxel of each box, (n,3) int64 z,y,x, and after them the voxels, (n,z,y,x), both "
        "in C order, little-endian. format=places: where the boxes lie, as JSON",
        "headers": {
            "X-Emporter-Shape": {"description": "n,z,y,x of the voxels", "schema": {"type": "string"}},
            "X-Emporter-Dtype": {"description": "of the voxels", "schema": {"type": "string"}},
        },
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}, "application/json": {}},
    },
    **problems(400, 404, 406, 409, 410, 413, 416, 422, 502, 503),
}
FORMATS: dict[SampleFormat, str] = {"raw": "application/octet-stream", "places": "application/json"}
"""What is given, and by what Accept chooses it where the body does not say `format`."""

NO_LABEL = 0
"""What voxels of labels are that carry none."""
COUNTED_TOGETHER = (256, 256, 256)
"""Voxels of a box read at once to count them, so that a box of any size is counted in bounded memory."""


@dataclass(frozen=True, slots=True)
class Counted:
    """The volume whose voxels are foreground where they are not `empty`, at the level and offset that match the image's."""

    volume: OpenVolume
    level: Level
    offset: Index3
    empty: Fill


@dataclass(frozen=True, slots=True)
class WithOrigins:
    """Voxels as stored, behind the places they are of."""

    origins: Sequence[Index3]
    media_type: str = FORMATS["raw"]
    conversion: None = None
    frames: tuple[bytes, ...] = ()

    @property
    def head(self) -> bytes:
        return np.array(self.origins, "<i8").tobytes()

    def bytes_of(self, parts: Iterable[Part]) -> int:
        return sum(part.bytes for part in parts)


@router.post(
    "/v1/volumes/{v}/sample",  # noqa: FAST003  # `find` takes it
    response_class=Response,
    responses=ANSWER,
    openapi_extra=described_body(SampleRequest, VOLUME),
)
async def sample(request: Request) -> Response:
    """Boxes drawn at random, with a share of foreground, regions left out, or from one part of a split."""
    timing = Timing()
    wanted = await asked_body(request, SampleRequest)
    form = wanted.format if "format" in wanted.model_fields_set else accepted(request.headers.get("accept"), FORMATS)
    found, rooms = await find(request), rooms_of(request)
    level = found.volume.level(wanted.level)
    grid, counted = await _foreground_of(request, found.volume, level, wanted)
    if form == "raw" or wanted.min_foreground:
        check_size(rooms, wanted.n * math.prod(wanted.shape) * level.dtype.itemsize)
    timing.over("find")
    sampled = await while_wanted(request.receive, _draw(rooms, found.volume, level, wanted, counted))
    timing.over("draw")
    headers = {"cache-control": "no-store"}
    if form == "places":
        body = _places(found.volume, level, wanted, grid, sampled).model_dump_json()
        return Response(body, headers=headers | timing.header, media_type=FORMATS[form])
    origins = _ordered(level, wanted, sampled)
    parts = [crop(found.volume, level, Box.at(place, wanted.shape), "error") for place in origins]
    headers |= voxel_headers(found, level)
    headers |= {"x-emporter-shape": ",".join(map(str, (wanted.n, *wanted.shape))), "x-emporter-level": str(level.number)}
    return await deliver(request, parts, WithOrigins(origins), headers, timing, together=True)


@router.get(
    "/v1/volumes/{v}/provenance",  # noqa: FAST003  # `find` takes it
    response_class=Response,
    responses={
        200: {"description": "As it was written", "content": {"application/json": {}}},
        **problems(400, 404, 409, 410, 502, 503),
    },
    openapi_extra=documented(None, VOLUME),
)
async def provenance(request: Request) -> Response:
    """What was asked of the archive, what was fetched with which checksums, and by what it was converted."""
    found = await find(request)
    ref = found.volume.ref
    assert ref.revision is not None
    body = await rooms_of(request).objects.find(storage.VOLUMES, storage.provenance(ref.volume, ref.revision))
    if body is None:
        raise NoSuchKeyError(f"{ref} has no provenance of its own", hint="its record in the catalog says what is known")
    headers = {"etag": etag(found.volume, "provenance"), "cache-control": cache_rule(found.asked)}
    return Response(body, headers=headers, media_type="application/json")


async def _foreground_of(
    request: Request, image: OpenVolume, level: Level, wanted: SampleRequest
) -> tuple[LabelGrid | None, Counted]:
    """What is looked at for foreground: the labels named, else the image itself."""
    if wanted.labels is None:
        return None, Counted(image, level, (0, 0, 0), background_of(image))
    labels = (await find_named(request, wanted.labels)).volume
    grid = aligned(image, level, labels)
    return grid, Counted(labels, labels.level(grid.level), grid.offset, NO_LABEL)


async def _draw(rooms: Rooms, image: OpenVolume, level: Level, wanted: SampleRequest, counted: Counted) -> Drawn:
    where = room(level, counted.level, counted.offset)
    if where is None:
        raise UnsatisfiableSampleError(
            f"{counted.volume.ref} has no labels where {image.ref} has voxels", hint="name the labels of this image"
        )
    allowed = rules(wanted, level.shape, image.levels[0].shape, level.factor, where)
    if not wanted.min_foreground or any(n > m for n, m in zip(wanted.shape, level.shape, strict=True)):
        async with rooms.occupancies.turn:
            ground = await asyncio.to_thread(allowed.ground, wanted.shape)
        return await drawn(wanted, ground, None, _never)
    return await _with_foreground(rooms, wanted, counted, allowed)


async def _with_foreground(rooms: Rooms, wanted: SampleRequest, counted: Counted, allowed: Rules) -> Drawn:
    foreground = await _known(rooms, wanted, counted)

    async def count(place: Index3) -> int:
        found = 0
        for part in Box.at(place, wanted.shape).moved(counted.offset).tiles(COUNTED_TOGETHER):
            asked = crop(counted.volume, counted.level, part, "error")
            with await rooms.decoding.hold(asked.needed_bytes):
                found += int(np.count_nonzero(is_foreground(await asked.read(), counted.empty)))
        return found

    async with rooms.occupancies.turn:
        ground = await asyncio.to_thread(foreground.narrowed, allowed)
    return await drawn(wanted, ground, foreground, count)


async def _known(rooms: Rooms, wanted: SampleRequest, counted: Counted) -> Foreground | Uncounted:
    enough = needed(wanted.min_foreground, math.prod(wanted.shape))
    occupancy = await rooms.occupancies.of(counted.volume.ref, counted.empty)
    if occupancy is not None:
        return Foreground(occupancy, wanted.shape, counted.level.factor, counted.offset, enough)
    volume = counted.volume.ref.volume
    if counted.volume.record.managed:
        remedy = f"convert {volume} again (`emporter ingest … --force convert`): an index then says where its foreground is"
    else:
        remedy = f"`emporter ingest {volume}`: of its copy an index says where foreground is"
    return Uncounted(wanted.shape, enough, remedy)


async def _never(_: Index3) -> int:
    raise AssertionError("nothing is counted where no foreground is asked for")


def _places(volume: OpenVolume, level: Level, wanted: SampleRequest, grid: LabelGrid | None, sampled: Drawn) -> SamplePlaces:
    return SamplePlaces(
        ref=str(volume.ref),
        digest=volume.digest,
        level=level.number,
        shape=wanted.shape,
        voxel_size_nm=volume.voxel_size_nm(level),
        sampler_version=SAMPLER_VERSION,
        seed=wanted.seed,
        origins=tuple(_ordered(level, wanted, sampled)),
        labels=grid,
        possible=sampled.possible,
        tried=sampled.tried,
    )


def _ordered(level: Level, wanted: SampleRequest, sampled: Drawn) -> list[Index3]:
    origins = sampled.origins
    if wanted.order == "shard":
        origins = origins[in_order(origins, level.shard, level.chunk)]
    return [(z, y, x) for z, y, x in origins.tolist()]
