"""What an OMERO server says of its images: the JSON API, and the web client's answers where that API is silent.

https://omero.readthedocs.io/en/stable/developers/json-api.html. A single object comes as an object under `data`, null fields are
left out, lengths come with a unit. Rendered pictures are never asked for: they are 8-bit views, not voxels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pydantic import JsonValue

from emporter_contracts.acquisition import Acquisition
from emporter_contracts.geometry import VoxelSize, to_nm
from emporter_runtime.errors import TransientError
from fetcher.errors import ArchiveMisbehavesError, FetcherError, ForbiddenError, NotInArchiveError, TooManyVolumesError
from fetcher.sources.omero_login import Login, Session
from fetcher.sources.protocol import Claims
from fetcher.transports.documents import json_object
from fetcher.transports.http import HttpClient

DTYPES = {
    "bit": "bool", "int8": "int8", "uint8": "uint8", "int16": "int16", "uint16": "uint16", "int32": "int32", "uint32": "uint32",
    "float": "float32", "double": "float64",
}  # fmt: skip
"""numpy names by OMERO's PixelsType."""
LATEST_MS = 4_102_444_800_000
"""2100-01-01: a later date of an acquisition is none."""
PAGE = 200
"""Images asked for at once of a dataset: OMERO's own default."""

Pairs = tuple[tuple[str, str], ...]
"""Of map annotations, in their order: keys may come more than once."""


@dataclass(frozen=True, slots=True)
class ImageSaid:
    """One image as OMERO describes it."""

    name: str = ""
    description: str = ""
    voxel_size: VoxelSize = VoxelSize()
    claims: Claims = Claims()
    series: int | None = None
    """Which image of its file it is, as Bio-Formats counts."""
    acquisition: Acquisition = Acquisition()
    answers: Mapping[str, JsonValue] = field(default_factory=dict)
    """Verbatim, by what was asked."""


class Omero:
    """One server. `base` is its address without a path of ours; `login` is None where everybody may ask."""

    def __init__(self, client: HttpClient, base: str, login: Login | None = None) -> None:
        self._client = client
        self._base = base.rstrip("/")
        self._session = Session(client, self._base, login) if login is not None else None

    def page(self, image: int) -> str:
        """Where a browser shows an image."""
        return f"{self._base}/webclient/?show=image-{image}"

    async def image(self, image: int) -> ImageSaid:
        """An image by the JSON API, by the web client's data where that gives none.

        Raises NotInArchiveError, and what either of them raises where neither answers.
        """
        try:
            return image_by_api(await self._asked(f"/api/v0/m/images/{image}/"))
        except (FetcherError, TransientError) as error:
            try:
                return image_by_web(await self.web_data(image))
            except (FetcherError, TransientError) as second:
                raise error from second

    async def web_data(self, image: int) -> dict[str, JsonValue]:
        """The web client's description, which also names dataset and project."""
        return await self._asked(f"/webclient/imgData/{image}/")

    async def client_paths(self, image: int) -> tuple[str, ...]:
        """The files an image was imported from, as its importer named them."""
        said = await self._asked(f"/webgateway/original_file_paths/{image}/")
        paths = said.get("client")
        if not isinstance(paths, list) or not paths or not all(isinstance(path, str) and path for path in paths):
            raise NotInArchiveError(f"the archive does not say which files image {image} was made of")
        return tuple(str(path) for path in paths)

    async def dataset_images(self, dataset: int, most: int) -> tuple[int, ...]:
        """Ids of the images of a dataset, in the archive's order. Raises TooManyVolumesError with the count."""
        found: list[int] = []
        while True:
            said = await self._asked(f"/api/v0/m/datasets/{dataset}/images/?limit={PAGE}&offset={len(found)}")
            images, meta = said.get("data"), said.get("meta")
            if not isinstance(images, list) or not isinstance(meta, dict):
                raise ArchiveMisbehavesError(f"dataset {dataset}: answered without a list of images")
            total = meta.get("totalCount")
            if isinstance(total, int) and total > most:
                raise TooManyVolumesError(
                    f"dataset {dataset} has {total} images, one job may hold {most} volumes", hint="name some of them: 1,2,3"
                )
            page = [entry["@id"] for entry in images if isinstance(entry, dict) and isinstance(entry.get("@id"), int)]
            found += [number for number in page if isinstance(number, int) and number not in found]
            if not page or not isinstance(total, int) or len(found) >= total:
                return tuple(found)

    async def map_annotations(self, kind: str, number: int) -> tuple[Pairs, JsonValue]:
        """Pairs of every map annotation of an `image`, `dataset` or `project`, and the answer itself."""
        said = await self._asked(f"/webclient/api/annotations/?type=map&{kind}={number}")
        return pairs_of(said), said

    async def _asked(self, path: str) -> dict[str, JsonValue]:
        """An answer; after another login where the session has run out in the meantime."""
        if self._session is None:
            return await json_object(self._client, self._base + path)
        headers = await self._session.headers()
        try:
            return await json_object(self._client, self._base + path, headers)
        except ForbiddenError:
            again = await self._session.renewed(headers)
            return await json_object(self._client, self._base + path, again)


def image_by_api(said: Mapping[str, JsonValue]) -> ImageSaid:
    """From `/api/v0/m/images/ID/`. Raises ArchiveMisbehavesError for another shape of answer."""
    data = said.get("data")
    if not isinstance(data, dict):
        raise ArchiveMisbehavesError("the archive's API describes no single image", hint="open the image's page in a browser")
    pixels = _object(data, "Pixels")
    series = data.get("omero:series")
    z, y, x = (_length(pixels.get(f"PhysicalSize{axis}")) for axis in "ZYX")
    return ImageSaid(
        name=_text(data, "Name"),
        description=_text(data, "Description"),
        voxel_size=VoxelSize.said("api", (z, y, x)),
        claims=_claims(pixels, ("SizeZ", "SizeY", "SizeX"), _text(_object(pixels, "Type"), "value")),
        series=series if isinstance(series, int) and series >= 0 else None,
        acquisition=_acquisition(data, pixels),
        answers={"image": dict(said)},
    )


def image_by_web(said: Mapping[str, JsonValue]) -> ImageSaid:
    """From `/webclient/imgData/ID/`: sizes in micrometres, null where not known; nothing about series."""
    meta, sizes = _object(said, "meta"), _object(said, "pixel_size")
    if not meta:
        raise ArchiveMisbehavesError("the archive's web client describes no image", hint="open the image's page in a browser")
    z, y, x = (_micrometres(sizes.get(axis)) for axis in "zyx")
    return ImageSaid(
        name=_text(meta, "imageName"),
        description=_text(meta, "imageDescription"),
        voxel_size=VoxelSize.said("api", (z, y, x)),
        claims=_claims(_object(said, "size"), ("z", "height", "width"), _text(meta, "pixelsType")),
        answers={"imgData": dict(said)},
    )


def pairs_of(said: Mapping[str, JsonValue]) -> Pairs:
    """The pairs of all map annotations of an answer, in order; what is no pair of texts is left out."""
    annotations = said.get("annotations")
    if not isinstance(annotations, list):
        return ()
    values = [a.get("values") for a in annotations if isinstance(a, dict)]
    pairs = [pair for one in values if isinstance(one, list) for pair in one]
    return tuple((str(p[0]), str(p[1])) for p in pairs if isinstance(p, list) and len(p) == 2)


def _claims(said: Mapping[str, JsonValue], names: tuple[str, str, str], kind: str) -> Claims:
    z, y, x = (n if isinstance(n := said.get(name), int) and n > 0 else None for name in names)
    return Claims((z, y, x), DTYPES.get(kind))


def _acquisition(data: Mapping[str, JsonValue], pixels: Mapping[str, JsonValue]) -> Acquisition:
    """OMERO counts time in milliseconds since 1970, UTC."""
    when, bits = data.get("AcquisitionDate"), pixels.get("SignificantBits")
    sane = isinstance(when, int) and not isinstance(when, bool) and 0 < when < LATEST_MS
    channels = pixels.get("Channels")
    first = channels[0] if isinstance(channels, list) and len(channels) == 1 else None
    return Acquisition.said(
        "api",
        acquired_at=datetime.fromtimestamp(when / 1000, UTC) if sane and isinstance(when, int) else None,
        channel=_text(first, "Name")[:500] if isinstance(first, dict) else None,
        significant_bits=bits if isinstance(bits, int) and 1 <= bits <= 64 else None,
    )


def _length(said: JsonValue) -> float | None:
    """A length in nanometres by its unit; None without one, or in units of no length, such as PIXEL."""
    if not isinstance(said, dict):
        return None
    value, unit = said.get("Value"), said.get("Unit") or said.get("Symbol")
    if isinstance(value, bool) or not isinstance(value, int | float) or not isinstance(unit, str):
        return None
    return to_nm(float(value), unit)


def _micrometres(said: JsonValue) -> float | None:
    return to_nm(float(said), "um") if isinstance(said, int | float) and not isinstance(said, bool) else None


def _object(said: Mapping[str, JsonValue], name: str) -> dict[str, JsonValue]:
    value = said.get(name)
    return value if isinstance(value, dict) else {}


def _text(said: Mapping[str, JsonValue], name: str) -> str:
    value = said.get(name)
    return value if isinstance(value, str) else ""
