"""Pages for people: all volumes, and one volume in Neuroglancer or as three plain slices. They need nothing from elsewhere."""

from __future__ import annotations

import html
import json
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import urlencode, urlsplit

from fastapi import APIRouter, Request, Response
from starlette.responses import RedirectResponse

from block_server.access import grant_of, granted_labels, granted_page
from block_server.answers import ASK_AGAIN
from block_server.arrays import Level, OpenVolume
from block_server.encoding import window_of
from block_server.errors import UnsuitableViewError
from block_server.faults import problems
from block_server.judging import held_table, verdict_block, verdict_cell
from block_server.queries import VOLUME, IndexQuery, ViewQuery, asked, documented
from block_server.rooms import find, find_named, rooms_of
from block_server.routes import neuroglancer
from block_server.viewing import showable, state_of
from emporter_contracts.errors import EmporterError, InvalidValueError
from emporter_contracts.ids import VolumeRef, is_volume_id
from emporter_contracts.records import MetadataRecord
from emporter_runtime.logging import get_logger

log = get_logger(__name__)
router = APIRouter(tags=["pages"])

ROWS = 200
"""Volumes on one page."""
THUMBNAIL = 160
"""Pixels of the longer side that a thumbnail needs not exceed where a level is small enough."""
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src 'self' data:; "
    "frame-src 'self'; form-action 'none'"
)
HTML: dict[int | str, dict[str, Any]] = {200: {"description": "A page", "content": {"text/html": {}}}}


@router.get("/", response_class=Response, responses=HTML | problems(400, 503), openapi_extra=documented(IndexQuery))
async def index(request: Request) -> Response:
    """Every volume, with a link to look at it."""
    rooms, after = rooms_of(request), asked(request, IndexQuery).after
    if after and not is_volume_id(after):
        raise InvalidValueError(f"{after!r} is no volume", hint="begin at /")
    page = await granted_page(rooms.volumes, grant_of(request), ROWS, after)
    records = await rooms.volumes.records(page.refs)
    rows = "\n".join(_row(ref, record) for ref, record in zip(page.refs, records, strict=True))
    further = "" if page.cursor is None else f'<a href="?after={page.cursor}">more</a> ·'
    empty = '<tr><td colspan="9">no volume is committed yet</td></tr>'
    catalog = rooms.settings.catalog_url.rstrip("/")
    told = json.dumps({"catalog": catalog}).replace("<", "\\u003c")
    grant = grant_of(request)
    waiting = [ref for ref in await rooms.volumes.waiting(after, page.cursor, grant.sees) if grant.allows(ref)]
    held = held_table(list(zip(waiting, await rooms.volumes.records(waiting), strict=True)))
    return _page("index.html", _origin(catalog), rows=rows or empty, next=further, settings=told, held=held)


@router.get(
    "/view/{v}",  # noqa: FAST003  # `find` takes it
    response_class=Response,
    responses=HTML | problems(400, 404, 409, 410, 502, 503),
    openapi_extra=documented(ViewQuery, VOLUME),
)
async def view(request: Request) -> Response:
    """One revision in Neuroglancer, with its labels; `?plain`, or where Neuroglancer can't show it: three orthogonal slices.

    Where one looks is in the link: `#z=…&y=…&x=…`, or Neuroglancer's state.
    """
    plain = asked(request, ViewQuery).plain is not None
    volume = (await find(request)).volume
    title = html.escape(str(volume.ref))
    quality = verdict_block(volume.record, held=await rooms_of(request).volumes.is_held(volume.ref))
    if plain or not showable(volume) or neuroglancer.installed() is None:
        return _page("view.html", title=title, volume=_in_script(_shown(volume)), quality=quality)
    return _page("neuroglancer.html", title=title, volume=_in_script(await _viewed(request, volume)), quality=quality)


@router.get(
    "/view/{v}/thumbnail",  # noqa: FAST003  # `find` takes it
    response_class=Response,
    responses={307: {"description": "Where the picture is"}, **problems(400, 404, 409, 410, 502, 503)},
    openapi_extra=documented(None, VOLUME),
)
async def thumbnail(request: Request) -> Response:
    """The middle slice of the first level that is small enough, or the last."""
    volume = (await find(request)).volume
    level = next((level for level in volume.levels if max(level.shape[1:]) <= THUMBNAIL), volume.levels[-1])
    asking = urlencode({"level": level.number, "window": _first_window(volume)})
    where = f"../../v1/volumes/{volume.ref}/slice/z/{level.shape[0] // 2}?{asking}"
    return RedirectResponse(where, 307, headers={"cache-control": ASK_AGAIN})


def _in_script(value: dict[str, Any]) -> str:
    """JSON for a script element: `<` written so can't end the element it stands in."""
    return json.dumps(value).replace("<", "\\u003c")


async def _viewed(request: Request, volume: OpenVolume) -> dict[str, Any]:
    """What the page with Neuroglancer needs to know; `@base@` in its state is replaced by where the page was read from."""
    finest = volume.levels[0]
    return _known(volume) | {
        "origin": [t / s for t, s in zip(finest.translation, finest.scale, strict=True)],
        "state": state_of(volume, await _labels(request, volume), "@base@"),
    }


async def _labels(request: Request, volume: OpenVolume) -> list[OpenVolume]:
    """The label volumes of an image that may be read. One that can't be opened hides nothing of the image."""
    found = []
    for name in await granted_labels(rooms_of(request).volumes, grant_of(request), volume.ref.volume):
        try:
            found.append((await find_named(request, name)).volume)
        except EmporterError as error:
            log.warning("labels_not_shown", volume=name, error=str(error))
    return found


def _known(volume: OpenVolume) -> dict[str, Any]:
    """What both pages say of a volume."""
    finest, core = volume.levels[0], volume.record.metadata.core
    size = volume.voxel_size_nm(finest)
    facts = [finest.dtype.name, core.role, f"{_nm(size)} nm/voxel", ", ".join(caveat.code for caveat in volume.record.caveats)]
    said = " · ".join(fact for fact in facts if fact)
    return {"ref": str(volume.ref), "facts": said, "voxel_size_nm": size, "managed": volume.record.managed}


def _shown(volume: OpenVolume) -> dict[str, Any]:
    """What the page of plain slices needs to know of a volume."""
    finest = volume.levels[0]
    return _known(volume) | {
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
    picture = f'<td><a href="view/{name}"><img loading="lazy" alt="" src="view/{name}/thumbnail"></a></td>'
    link = f'<td><a href="view/{name}">{name}</a></td>'
    if record is None:
        return f'<tr>{picture}<td>{name}</td><td colspan="7">its record can\'t be read</td></tr>'
    core = record.metadata.core
    shape = ", ".join(map(str, core.volume_shape or ()))
    state = "<br>".join(filter(None, (html.escape(str(record.status)), verdict_cell(record))))
    cells = (shape, core.data_type or "", _nm(core.voxel_size_nm), _licence(record), core.description)
    stored = "" if not record.managed else f'<a href="zarr/{name}.ome.zarr/zarr.json">Zarr</a> · '
    links = f'<a href="v1/volumes/{name}">metadata</a> · {stored}<a href="view/{name}?plain">slices</a>'
    return (
        f"<tr>{picture}{link}<td>{state}</td>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        + f"<td>{links}</td></tr>"
    )


def _licence(record: MetadataRecord) -> str:
    licence = record.licence
    return licence.spdx or licence.text or licence.url or "unknown"


def _origin(url: str) -> str:
    """`scheme://host` of a URL, as a content security policy names it; empty where there is none."""
    parts = urlsplit(url)
    plain = parts.scheme in {"http", "https"} and not set(parts.netloc) & set(" ;,'\"")
    return f"{parts.scheme}://{parts.netloc}" if plain else ""


def _nm(size: tuple[float | None, float | None, float | None]) -> str:
    return ", ".join("?" if nm is None else f"{nm:g}" for nm in size)


def _page(name: str, also: str = "", **parts: str) -> Response:
    """A page; its scripts may fetch from this service and, where it is given, from the origin `also`."""
    text = _template(name)
    for part, value in parts.items():
        text = text.replace(f"@@{part}@@", value)
    policy = POLICY.replace("connect-src 'self'", f"connect-src 'self' {also}".rstrip())
    headers = {"cache-control": ASK_AGAIN, "content-security-policy": policy, "x-content-type-options": "nosniff"}
    return Response(text, headers=headers, media_type="text/html; charset=utf-8")


@cache
def _template(name: str) -> str:
    return (files("block_server") / "pages" / name).read_text(encoding="utf-8")
