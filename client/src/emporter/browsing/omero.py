"""An OMERO.web as its JSON API and its web client answer: IDR, or any server named by EMPORTER_IDR_BASE_URL.

https://omero.readthedocs.io/en/stable/developers/json-api.html. A single object comes as an object under `data`, lists come by
pages, null fields are left out, lengths come with a unit. Nothing is logged in to: only what is public is seen.
"""

from __future__ import annotations

import json
import time
from typing import Any, Self

from pydantic import JsonValue

from emporter.archive_settings import ArchiveSettings
from emporter.browsing.things import Pair, Request, Thing
from emporter.errors import MistakeError, UnreachableError
from emporter.remote import NotThereError, Web
from emporter_contracts.geometry import to_nm

CHILDREN = {"screen": "plates", "plate": "wells", "well": "", "project": "datasets", "dataset": "images", "image": ""}
"""What each kind holds, as the JSON API names it below; empty where nothing is listed there."""
PAGE = 200
"""Objects asked for at once: OMERO's own default."""
MOST = 20_000
"""Objects listed below one: a screen of IDR has hundreds of plates, a plate at most 1536 wells."""
BUSY_TRIES = 4
ROWS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

Object = dict[str, Any]


class Omero:
    """One server. Use it as a context manager."""

    def __init__(self, settings: ArchiveSettings | None = None) -> None:
        self.base = (settings or ArchiveSettings()).idr_base_url.rstrip("/")
        self._web = Web()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of connections."""
        self._web.close()

    def look(self, kind: str, number: int, *, annotations: bool = False) -> Thing:
        """One object and what is directly in it; wells come with their images.

        Raises MistakeError for a kind there is not, NotThereError, UnreachableError.
        """
        if kind not in CHILDREN:
            raise MistakeError(f"idr has no {kind!r} to browse", hint=f"one of {', '.join(CHILDREN)}")
        said = self._json(f"/api/v0/m/{kind}s/{number}/").get("data")
        if not isinstance(said, dict):
            raise UnreachableError(f"{self.base} answered without {kind} {number}", hint="is it an OMERO.web?")
        listed = self._listed(f"/api/v0/m/{kind}s/{number}/{CHILDREN[kind]}/") if CHILDREN[kind] else []
        thing = _thing(kind, said)
        inside = [_thing(CHILDREN[kind].removesuffix("s"), one) for one in listed]
        found = self.annotations(kind, number) if annotations else None
        return thing.model_copy(update={"children": tuple(inside) or thing.children, "annotations": found})

    def annotations(self, kind: str, number: int) -> tuple[Pair, ...]:
        """Map annotations as pairs, in their order; keys may come more than once."""
        said = self._json(f"/webclient/api/annotations/?type=map&{kind}={number}")
        pairs = [pair for one in said.get("annotations") or [] for pair in (one.get("values") or [])]
        return tuple((str(pair[0]), str(pair[1])) for pair in pairs if isinstance(pair, list) and len(pair) == 2)

    def thumbnail(self, image: int) -> bytes:
        """A small rendered picture: JPEG, or PNG. Never data."""
        return self._picture(f"/webclient/render_thumbnail/{image}/")

    def rendered(self, image: int, z: int, time_point: int = 0) -> bytes:
        """One plane as the server renders it, after contrast settings, 8 bits. Never data."""
        return self._picture(f"/webgateway/render_image/{image}/{z}/{time_point}/")

    def _picture(self, path: str) -> bytes:
        body = self._web.document(self.base + path)
        if body is None:
            raise NotThereError(f"{self.base}{path} is not there", hint="does the image exist, and is it public?")
        return body

    def _listed(self, path: str) -> list[Object]:
        found: list[Object] = []
        while True:
            said = self._json(f"{path}?limit={PAGE}&offset={len(found)}")
            page, meta = said.get("data"), said.get("meta")
            if not isinstance(page, list) or not isinstance(meta, dict):
                raise UnreachableError(f"{self.base}{path} answered without a list", hint="is it an OMERO.web?")
            found += [one for one in page if isinstance(one, dict)]
            if not page or len(found) >= int(meta.get("totalCount") or 0) or len(found) >= MOST:
                return found

    def _json(self, path: str) -> Object:
        """An answer that is an object, asked again while the server says that it is busy."""
        for attempt in range(BUSY_TRIES):
            body = self._web.document(self.base + path)
            if body is None:
                raise NotThereError(f"{self.base}{path} is not there", hint="check the number; is it public?")
            said = _object(body, self.base + path)
            busy = said.get("ConcurrencyException")
            if not isinstance(busy, dict):
                break
            time.sleep(min(2.0, float(busy.get("backOff") or 500) / 1000 * (attempt + 1)))
        else:
            raise UnreachableError(f"{self.base}{path} is busy", hint="try again later")
        if "Exception" in said:
            raise UnreachableError(f"{self.base}{path} failed: {str(said['Exception'])[:200]}", hint="try again later")
        return said


def _object(body: bytes, url: str) -> Object:
    try:
        said = json.loads(body)
    except ValueError as error:
        raise UnreachableError(f"{url} answered no JSON", hint="is it an OMERO.web?") from error
    if not isinstance(said, dict):
        raise UnreachableError(f"{url} answered JSON, but no object", hint="is it an OMERO.web?")
    return said


def _thing(kind: str, said: Object) -> Thing:
    number = str(said.get("@id", ""))
    details: dict[str, JsonValue] = {}
    if said.get("Description"):
        details["description"] = str(said["Description"])
    if isinstance(said.get("omero:childCount"), int):
        details["holds"] = said["omero:childCount"]
    if kind == "image":
        request = Request(source="idr", source_id=number)
        return Thing(kind=kind, id=number, name=str(said.get("Name", "")), details=details | _pixels(said), request=request)
    if kind == "well":
        name = _well_name(said)
        images = [sample.get("Image") for sample in said.get("WellSamples") or [] if isinstance(sample, dict)]
        fields = tuple(_thing("image", image) for image in images if isinstance(image, dict))
        return Thing(kind=kind, id=number, name=name, details=details, children=fields)
    whole = Request(source="idr", source_id=f"dataset:{number}") if kind == "dataset" else None
    return Thing(kind=kind, id=number, name=str(said.get("Name", "")), details=details, request=whole)


def _well_name(said: Object) -> str:
    """`B3`: rows are letters, columns are numbers from 1. Of 27 rows and more the 27th is AA."""
    row, column = said.get("Row"), said.get("Column")
    if not isinstance(row, int) or not isinstance(column, int) or row < 0:
        return ""
    letters = ROWS[row % 26] if row < 26 else ROWS[row // 26 - 1] + ROWS[row % 26]
    return f"{letters}{column + 1}"


def _pixels(said: Object) -> dict[str, JsonValue]:
    """Shape z, y, x and the rest, as far as it is said; a dataset's list says less than the image itself."""
    pixels = said.get("Pixels")
    if not isinstance(pixels, dict):
        return {}
    shape: list[JsonValue] = [pixels.get(f"Size{axis}") for axis in "ZYX"]
    kind = pixels.get("Type")
    nm: list[JsonValue] = [_nm(pixels.get(f"PhysicalSize{axis}")) for axis in "ZYX"]
    return {
        "shape": shape,
        "channels": pixels.get("SizeC"),
        "times": pixels.get("SizeT"),
        "pixel_type": kind.get("value") if isinstance(kind, dict) else None,
        "voxel_size_nm": nm,
        "acquired_ms": said.get("AcquisitionDate"),
    }


def _nm(length: object) -> float | None:
    if not isinstance(length, dict) or not isinstance(length.get("Value"), int | float):
        return None
    nm = to_nm(float(length["Value"]), str(length.get("Unit", "")))
    return None if nm is None else round(nm, 9)
