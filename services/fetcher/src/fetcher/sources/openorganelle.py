"""Source `openorganelle`: Janelia's FIB-SEM data sets, OME-Zarr and N5 in a public bucket.

A data set `jrc_mus-nacc-2` lies in `jrc_mus-nacc-2/jrc_mus-nacc-2.zarr/`, its images in `recon-<n>/em/<array>` (older ones,
in N5, in `em/<array>`), each a pyramid s0, s1, …. There is no API and no catalogue: what there is, is found by listing. The
portal's page is drawn by a browser and says nothing to a program.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from emporter_contracts.commands import IngestRequest
from emporter_contracts.errors import RefusedError
from emporter_contracts.plans import Licence, PlannedObject
from emporter_readers.ordering import natural_order
from fetcher.errors import NotInArchiveError
from fetcher.gate import Gate
from fetcher.settings import FetcherSettings
from fetcher.sources.arrays import RemoteArray, array_objects, remote_array
from fetcher.sources.protocol import Context, Listing, Part
from fetcher.sources.s3_arrays import S3Objects, S3Root
from fetcher.transports.s3 import S3Place

CONTAINERS = (".zarr", ".n5")
"""The better first: what lies in both is taken from Zarr, whose metadata says where its voxels are."""
LICENCE = Licence(
    spdx="CC-BY-4.0",
    url="https://openorganelle.janelia.org/faq",
    text="the bucket states none; third parties report that the portal says CC BY 4.0",
    known=False,
)
BUCKET_CITATION = (
    "L. Heinrich et al.: Whole-cell organelle segmentation in volume electron microscopy. Nature 599, 2021. "
    "doi:10.1038/s41586-021-03977-3"
)
"""Of the archive itself."""

_DATASET = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")
_ARRAY = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*\Z")
_RECON = re.compile(r"recon-\d+\Z")


@dataclass(frozen=True, slots=True)
class KnownDataset:
    """What is known of a data set beside what lies in the bucket, by whom."""

    array: str | None = None
    """Which of its images is meant where a request does not say."""
    citation: tuple[str, ...] = ()
    source: str = ""


KNOWN: Mapping[str, KnownDataset] = {
    "jrc_mus-nacc-2": KnownDataset(
        array="recon-2/em/fibsem-int16",
        citation=("Mouse nucleus accumbens (jrc_mus-nacc-2). doi:10.25378/janelia.24222898",),
        source="the data set's DOI, as third parties report it",
    ),
}


class OpenOrganelleSource(S3Objects):
    """source_id is a data set; `parameters.array` one of its images, such as `recon-1/em/fibsem-uint8`, or labels."""

    name = "openorganelle"

    def __init__(self, settings: FetcherSettings, gate: Gate, known: Mapping[str, KnownDataset] = KNOWN) -> None:
        place = S3Place(
            bucket=settings.openorganelle_bucket,
            endpoint=settings.openorganelle_endpoint.rstrip("/"),
            region=settings.openorganelle_region,
            connections=settings.openorganelle_connections,
            connect_seconds=settings.http_connect_seconds,
            stall_seconds=settings.http_stall_seconds,
        )
        super().__init__(place, gate)
        self._known = known

    async def resolve(self, request: IngestRequest, context: Context) -> Listing:
        dataset = request.source_id
        if not _DATASET.match(dataset):
            raise RefusedError(f"{dataset[:100]!r} is no data set", code="not_found", hint="such as jrc_mus-nacc-2")
        known = self._known.get(dataset, KnownDataset())
        there = await self._images(dataset)
        chosen = _chosen(dataset, request.parameters.get("array"), known, there)
        root = S3Root(self, chosen, context)
        array = await remote_array(root, request)
        region = array.region(request)
        objects, counted = await array_objects(array, region)
        said: dict[str, JsonValue] = {
            "dataset": dataset, "images": [*there], "array": chosen, "known_from": known.source or None, **counted,
        }  # fmt: skip
        return Listing(
            objects=objects,
            download_url=root.url,
            parts=(_part(array, objects),),
            description=f"{dataset}, {chosen.partition('/')[2].partition('/')[2]}",
            modality="FIB-SEM" if "/fibsem" in chosen else "unknown",
            licence=LICENCE,
            citation=(*known.citation, BUCKET_CITATION),
            region=region,
            archive=said,
        )

    async def _images(self, dataset: str) -> list[str]:
        """Every array below an `em` folder of the data set, as a folder of the bucket."""
        inside = await self.bucket.folders(dataset)
        containers = [f"{dataset}/{name}" for name in inside if name.endswith(CONTAINERS)]
        if not containers:
            raise NotInArchiveError(
                f"openorganelle has no data set {dataset}", hint="check its name at https://openorganelle.janelia.org"
            )
        found = await asyncio.gather(*(self._images_of(container) for container in containers))
        return [path for paths in found for path in natural_order(paths)]

    async def _images_of(self, container: str) -> list[str]:
        inside = await self.bucket.folders(container)
        groups = [f"{container}/{name}/em" for name in inside if _RECON.match(name)]
        groups += [f"{container}/em"] if "em" in inside else []
        found = await asyncio.gather(*(self.bucket.folders(group) for group in groups))
        return [f"{group}/{name}" for group, names in zip(groups, found, strict=True) for name in names]


def _part(array: RemoteArray, objects: tuple[PlannedObject, ...]) -> Part:
    labels = "/labels/" in f"/{array.root.url}/"
    return Part(objects=tuple(range(len(objects))), role="labels" if labels else "image")


def _chosen(dataset: str, asked: JsonValue, known: KnownDataset, there: list[str]) -> str:
    """The folder of the image that is meant. Raises RefusedError with those there are."""
    names = list(dict.fromkeys(_inside(path) for path in there))
    shown = ", ".join(names[:20]) or "none below em"
    if asked is not None:
        if not isinstance(asked, str) or not _ARRAY.match(asked) or ".." in asked.split("/"):
            raise RefusedError(f"parameters.array {str(asked)[:100]!r} is no path", hint=f"one of: {shown}")
        here = [path for path in there if _inside(path) == asked]
        # What is not below em, such as labels, is not listed: then the container with the better metadata is asked.
        return here[0] if here else f"{dataset}/{dataset}.zarr/{asked}"
    if known.array in names:
        return next(path for path in there if _inside(path) == known.array)
    if len(names) == 1:
        return there[0]
    raise RefusedError(
        f"openorganelle {dataset} holds {len(names)} images", code="ambiguous_content", hint=f"say parameters.array: {shown}"
    )


def _inside(path: str) -> str:
    """Below the container: `recon-1/em/fibsem-uint8`."""
    return path.split("/", 2)[2]
