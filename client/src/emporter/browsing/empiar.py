"""An entry of EMPIAR by its API: its image sets, each of which can be ingested by its number."""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import JsonValue

from emporter.archive_settings import ArchiveSettings
from emporter.browsing.things import Request, Thing
from emporter.errors import MistakeError, UnreachableError
from emporter.remote import NotThereError, Web

KEPT = ("title", "experiment_type", "scale", "release_date", "dataset_size", "entry_doi", "status")
SET_KEPT = (
    "category", "data_format", "num_images_or_tilt_series", "frames_per_image", "voxel_type", "pixel_width", "pixel_height",
    "image_width", "image_height", "details",
)  # fmt: skip
"""As the API says them, verbatim: pixel sizes are angstrom, numbers may be text."""
_ID = re.compile(r"(?:EMPIAR-)?([1-9]\d{4,6})\Z", re.IGNORECASE)


def entry(accession: str, settings: ArchiveSettings | None = None) -> Thing:
    """The entry and its image sets. Raises MistakeError, NotThereError, UnreachableError."""
    match = _ID.match(accession)
    if match is None:
        raise MistakeError(f"{accession[:80]!r} is no entry of EMPIAR", hint="such as emporter browse empiar EMPIAR-11759")
    name = f"EMPIAR-{match[1]}"
    url = f"{(settings or ArchiveSettings()).empiar_base_url.rstrip('/')}/api/entry/{name}/"
    with Web() as web:
        body = web.document(url)
    if body is None:
        raise NotThereError(f"EMPIAR has no entry {name}", hint="check the number at https://www.ebi.ac.uk/empiar")
    said = _entry(body, url)
    sets = [one for one in said.get("imagesets") or [] if isinstance(one, dict)]
    authors = [one.get("author", {}).get("name") for one in said.get("authors") or [] if isinstance(one, dict)]
    details: dict[str, JsonValue] = {key: said.get(key) for key in KEPT} | {"authors": [a for a in authors if a]}
    return Thing(
        kind="entry",
        id=name,
        name=str(said.get("title", "")),
        details=details,
        children=tuple(_image_set(name, number, one) for number, one in enumerate(sets)),
        request=Request(source="empiar", source_id=name),
    )


def _entry(body: bytes, url: str) -> dict[str, Any]:
    """Whatever was asked for, the entry lies under its accession."""
    try:
        (said,) = json.loads(body).values()
        return dict(said)
    except (ValueError, AttributeError, TypeError) as error:
        raise UnreachableError(f"{url} answered no entry", hint="open it in a browser") from error


def _image_set(accession: str, number: int, said: dict[str, Any]) -> Thing:
    return Thing(
        kind="image set",
        id=str(number),
        name=str(said.get("name", "")),
        details={key: said.get(key) for key in SET_KEPT},
        request=Request(source="empiar", source_id=accession, parameters={"imageset": number}),
    )
