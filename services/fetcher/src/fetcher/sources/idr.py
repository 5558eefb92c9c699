"""Source `idr`: images of the Image Data Resource, or of any OMERO server whose files lie in a public folder.

source_id is `9846137`, `1,2,3` or `dataset:10740`; each image is a volume of the job. OMERO's API says what an image is and by
which files it was imported; the bytes come from the public folder of these files. Where file and API differ the file counts.
Where the API does not answer, an image whose file is known by other means is ingested all the same, with caveat `api_down`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from pydantic import JsonValue

from emporter_contracts.commands import IngestRequest, Select
from emporter_contracts.errors import RefusedError
from emporter_contracts.plans import MAX_VOLUMES, Caveat, Licence, PlannedObject
from emporter_readers.ordering import natural_order
from emporter_runtime.errors import RateLimitedError, TransientError
from fetcher.errors import ArchiveUnreachableError, FetcherError, NotInArchiveError, TooManyVolumesError
from fetcher.gate import Gate
from fetcher.settings import FetcherSettings
from fetcher.sources.idr_files import FALLBACK, PREFIXES, FileMap
from fetcher.sources.idr_studies import REPOSITORY, Study, described, study_of
from fetcher.sources.omero import ImageSaid, Omero, Pairs
from fetcher.sources.omero_login import Login
from fetcher.sources.over_files import FileObjects
from fetcher.sources.protocol import Context, Listing, Part
from fetcher.transports.addresses import HostPolicy
from fetcher.transports.http import HttpLimits

IMAGES_AT_ONCE = 4
"""Images asked about at once; the client's own limit by host holds beside it."""
MAX_FILES = 10_000
"""Of one image: a plate's fileset has more, and is no volume."""

T = TypeVar("T")

_IMAGES = re.compile(r"(?:image:)?(\d{1,18}(?:,\d{1,18})*)\Z")
_DATASET = re.compile(r"dataset:(\d{1,18})\Z")


@dataclass(slots=True)
class _Image:
    """One image of a request, as far as it could be learnt."""

    number: int
    said: ImageSaid = field(default_factory=ImageSaid)
    files: tuple[tuple[str, str], ...] = ()
    """(path, URL)."""
    study: Study = field(default_factory=Study)
    archive: dict[str, JsonValue] = field(default_factory=dict)
    down: list[str] = field(default_factory=list)
    """What the API did not answer, with the reason."""


class IdrSource(FileObjects):
    """Asks OMERO, fetches from the public folder."""

    name = "idr"

    def __init__(self, settings: FetcherSettings, gate: Gate) -> None:
        self._files = FileMap(
            settings.idr_files_url, {**PREFIXES, **settings.idr_prefixes}, {**FALLBACK, **settings.idr_fallback_files}
        )
        urls = (settings.idr_base_url, *self._files.bases, *filter(None, [settings.idr_ftp_url]))
        anywhere = HostPolicy(("*",), setting="EMPORTER_IDR_BASE_URL", schemes=("http", "https", "ftp"))
        hosts = replace(
            anywhere, allowed=tuple(anywhere.checked(url).host for url in urls), allow_private=settings.url_allow_private
        )
        limits = HttpLimits(settings.connections_per_host, settings.http_connect_seconds, settings.http_stall_seconds)
        super().__init__(hosts, limits, gate, [(settings.idr_files_url, settings.idr_ftp_url)])
        login = Login(settings.idr_user, settings.idr_password, settings.idr_server, over_http=settings.url_allow_private)
        self._api = Omero(self.client, settings.idr_base_url, login if settings.idr_user else None)

    async def resolve(self, request: IngestRequest, context: Context) -> Listing:
        numbers = await self._numbers(request.source_id)
        if len(numbers) > MAX_VOLUMES:
            hint = "ingest them in several requests"
            raise TooManyVolumesError(f"{len(numbers)} images, one job may hold {MAX_VOLUMES} volumes", hint=hint)
        file = request.parameters.get("file")
        if file is not None and (len(numbers) != 1 or not isinstance(file, str)):
            raise RefusedError(
                "parameters.file names the file of one image", hint="name one image, and its path below the archive"
            )
        turns = asyncio.Semaphore(IMAGES_AT_ONCE)

        async def one(number: int) -> _Image:
            async with turns:
                return await self._image(number, file if isinstance(file, str) else None)

        images = await asyncio.gather(*(one(number) for number in numbers))
        places = {url: path for image in images for path, url in image.files}
        objects = await self.planned_all([(path, url) for url, path in places.items()], context)
        return self._listing(images, objects, list(places))

    async def _numbers(self, source_id: str) -> tuple[int, ...]:
        """The images a request names."""
        if match := _IMAGES.match(source_id):
            return tuple(dict.fromkeys(int(number) for number in match[1].split(",")))
        if match := _DATASET.match(source_id):
            found = await self._api.dataset_images(int(match[1]), MAX_VOLUMES)
            if not found:
                raise NotInArchiveError(f"{source_id} holds no image", hint="browse the archive for another one")
            return found
        raise RefusedError(f"{source_id[:100]!r} names no image", hint="write 9846137, or 1,2,3, or dataset:10740")

    async def _image(self, number: int, file: str | None) -> _Image:
        image = _Image(number)
        await self._describe(image, known=file is not None or self._files.known(number) is not None)
        image.files = await self._located(image, file)
        await self._study(image)
        return image

    async def _describe(self, image: _Image, *, known: bool) -> None:
        """What the API says; nothing, noted, where it is down and the file is known without it."""
        try:
            image.said = await self._api.image(image.number)
            image.archive.update(image.said.answers)
        except (TransientError, FetcherError) as error:
            if isinstance(error, NotInArchiveError | RateLimitedError) or not known:
                raise
            image.down.append(f"image: {error.message}")

    async def _located(self, image: _Image, file: str | None) -> tuple[tuple[str, str], ...]:
        """Where the files of an image lie: as the user says, as the API says, as the table says."""
        if file is not None:
            return (self._files.below(file),)
        known = self._files.known(image.number)
        if known is not None and image.down:
            image.archive["file_by"] = "a table of known files"
            return (known,)
        try:
            paths = await self._api.client_paths(image.number)
            if len(paths) > MAX_FILES:
                raise TooManyVolumesError(f"image {image.number} lies in {len(paths)} files", hint="it is of a plate: no volume")
            image.archive["original_file_paths"] = list(paths)
            places = dict(self._files.located(path) for path in paths)
        except (TransientError, FetcherError) as error:
            if isinstance(error, RateLimitedError | TooManyVolumesError) or known is None:
                raise
            image.down.append(f"file paths: {error.message}")
            image.archive["file_by"] = "a table of known files"
            return (known,)
        return tuple((path, places[path]) for path in natural_order(places))

    async def _study(self, image: _Image) -> None:
        """Names, annotations and terms; an API that stays silent about these leaves them unknown, and is noted."""
        web = await self._optional(image, "imgData", self._api.web_data(image.number))
        meta = web.get("meta") if web else None
        image.archive.setdefault("imgData", web)
        project = meta.get("projectId") if isinstance(meta, dict) else None
        own, said = await self._optional(image, "annotations", self._api.map_annotations("image", image.number)) or ((), None)
        image.archive["annotations"] = said
        pairs: Pairs = ()
        if isinstance(project, int):
            asked = self._api.map_annotations("project", project)
            pairs, said = await self._optional(image, "study annotations", asked) or ((), None)
            image.archive["study_annotations"] = said
        path = image.files[0][0]
        image.study = described(study_of(path), (*pairs, *own), path)
        image.archive |= {"map_annotations": [list(pair) for pair in (*own, *pairs)], "study": image.study.said()}
        image.archive["page"] = self._api.page(image.number)

    async def _optional(self, image: _Image, what: str, asked: Coroutine[Any, Any, T]) -> T | None:
        """An answer that an ingest does not need; not asked for once the API was found to be down."""
        if image.down:
            asked.close()
            return None
        try:
            return await asked
        except (TransientError, FetcherError) as error:
            if isinstance(error, ArchiveUnreachableError | RateLimitedError):
                image.down.append(f"{what}: {error.message}")
            return None

    def _listing(self, images: Sequence[_Image], objects: tuple[PlannedObject, ...], urls: list[str]) -> Listing:
        place = {url: n for n, url in enumerate(urls)}
        parts = tuple(_part(image, [place[url] for _, url in image.files], single=len(images) == 1) for image in images)
        down = [f"image {i.number}, {why}" for i in images for why in i.down]
        caveats = [Caveat(code="api_down", evidence="; ".join(down)[:2000])] if down else []
        studies = [image.study for image in images]
        caveats += dict.fromkeys(caveat for study in studies for caveat in study.caveats)
        licences = {study.licence.model_dump_json(): study.licence for study in studies}
        first = images[0]
        return Listing(
            objects=objects,
            download_url=objects[0].url,
            parts=parts,
            description=first.said.description or first.said.name if len(images) == 1 else f"{len(images)} images of IDR",
            modality=_common([study.modality for study in studies]) or "unknown",
            licence=studies[0].licence if len(licences) == 1 else _mixed(images),
            citation=(REPOSITORY, *dict.fromkeys(paper for study in studies for paper in study.citation)),
            caveats=tuple(caveats),
            archive={str(image.number): image.archive for image in images},
        )


def _part(image: _Image, objects: list[int], *, single: bool) -> Part:
    return Part(
        objects=tuple(objects),
        name="" if single else str(image.number),
        voxel_size=image.said.voxel_size,
        select=Select(series=image.said.series),
        claims=image.said.claims,
        acquisition=image.said.acquisition,
    )


def _mixed(images: Sequence[_Image]) -> Licence:
    """Images of several studies under several terms: each one is named."""
    terms = [f"{i.number}: {i.study.licence.spdx or i.study.licence.text or 'unknown'}" for i in images]
    return Licence(text="; ".join(terms), known=all(i.study.licence.known for i in images))


def _common(values: list[str]) -> str | None:
    return values[0] if len(set(values)) == 1 else None
