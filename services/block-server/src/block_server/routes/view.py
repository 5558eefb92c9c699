"""Two pages for people: all volumes, and one volume as three orthogonal slices. They need nothing from elsewhere."""

from __future__ import annotations

import html
import json
from functools import cache
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Request, Response

from block_server.answers import ASK_AGAIN
from block_server.arrays import Level, OpenVolume
from block_server.encoding import window_of
from block_server.errors import UnsuitableViewError
from block_server.faults import problems
from block_server.queries import VOLUME, IndexQuery, asked, documented
from block_server.rooms import find, rooms_of
from emporter_contracts.errors import InvalidValueError
from emporter_contracts.ids import VolumeRef, is_volume_id
from emporter_contracts.records import MetadataRecord

router = APIRouter(tags=["pages"])

ROWS = 200
"""Volumes on one page."""
HEADERS = {
    "cache-control": ASK_AGAIN,
    "content-security-policy": (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src 'self' data:"
    ),
    "x-content-type-options": "nosniff",
}
HTML: dict[int | str, dict[str, Any]] = {200: {"description": "A page", "content": {"text/html": {}}}}


@router.get("/", response_class=Response, responses=HTML | problems(400, 503), openapi_extra=documented(IndexQuery))
async def index(request: Request) -> Response:
    """Every volume, with a link to look at it."""
    rooms, after = rooms_of(request), asked(request, IndexQuery).after
    if after and not is_volume_id(after):
        raise InvalidValueError(f"{after!r} is no volume", hint="begin at /")
    page = await rooms.volumes.page(ROWS, after)
    records = await rooms.volumes.records(page.refs)
    rows = "\n".join(_row(ref, record) for ref, record in zip(page.refs, records, strict=True))
    further = "" if page.cursor is None else f'<a href="?after={page.cursor}">more</a> ·'
    empty = '<tr><td colspan="5">no volume is committed yet</td></tr>'
    return _page("index.html", rows=rows or empty, next=further)


@router.get(
    "/view/{v}",  # noqa: FAST003  # `find` takes it
    response_class=Response,
    responses=HTML | problems(400, 404, 410, 502, 503),
    openapi_extra=documented(None, VOLUME),
)
async def view(request: Request) -> Response:
    """Three orthogonal slices of one revision; where one looks is in the link."""
    found = await find(request)
    # `<` written so can't end the script element the volume stands in.
    shown = json.dumps(_shown(found.volume)).replace("<", "\\u003c")
    return _page("view.html", title=html.escape(str(found.volume.ref)), volume=shown)


def _shown(volume: OpenVolume) -> dict[str, Any]:
    """What the page needs to know of a volume."""
    finest, core = volume.levels[0], volume.record.metadata.core
    size = volume.voxel_size_nm(finest)
    facts = [finest.dtype.name, core.role, f"{_nm(size)} nm/voxel", ", ".join(caveat.code for caveat in volume.record.caveats)]
    return {
        "ref": str(volume.ref),
        "facts": " · ".join(fact for fact in facts if fact),
        "voxel_size_nm": size,
        "translation_nm": finest.translation,
        "levels": [{"shape": level.shape, "factor": level.factor, "spacing": _spacing(level, finest)} for level in volume.levels],
        "window": _first_window(volume),
        "range": _range(volume.record),
    }


def _spacing(level: Level, finest: Level) -> tuple[float, ...]:
    """How far apart voxels are shown, by axis: nm, or as isotropic at level 0 where nobody knows."""
    return tuple(s * f for s, f in zip(finest.scale, level.factor, strict=True))


def _first_window(volume: OpenVolume) -> str:
    """`auto`, or for voxels that have no grey values of their own all there is."""
    try:
        window_of("auto", volume.levels[0].dtype, volume.record)
    except UnsuitableViewError:
        return _range(volume.record)
    return "auto"


def _range(record: MetadataRecord) -> str:
    statistics = record.metadata.technical.statistics
    if statistics is None or statistics.minimum is None or statistics.maximum is None:
        return "0,255"
    low, high = float(statistics.minimum), float(statistics.maximum)
    return f"{low:.17g},{high if high > low else low + 1:.17g}"


def _row(ref: VolumeRef, record: MetadataRecord | None) -> str:
    name = html.escape(str(ref))
    if record is None:
        return f'<tr><td>{name}</td><td colspan="4">its record can\'t be read</td></tr>'
    core = record.metadata.core
    shape = ", ".join(map(str, core.volume_shape or ()))
    cells = (shape, core.data_type or "", _nm(core.voxel_size_nm), core.description)
    return f'<tr><td><a href="view/{name}">{name}</a></td>' + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"


def _nm(size: tuple[float | None, float | None, float | None]) -> str:
    return ", ".join("?" if nm is None else f"{nm:g}" for nm in size)


def _page(name: str, **parts: str) -> Response:
    text = _template(name)
    for part, value in parts.items():
        text = text.replace(f"@@{part}@@", value)
    return Response(text, headers=HEADERS, media_type="text/html; charset=utf-8")


@cache
def _template(name: str) -> str:
    return (files("block_server") / "pages" / name).read_text(encoding="utf-8")
