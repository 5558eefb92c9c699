"""Source `epfl`: the electron microscopy dataset of EPFL's CVLab, hippocampus CA1, FIB-SEM.

https://www.epfl.ch/labs/cvlab/data/data-em/ names the five files and says 5 x 5 x 5 nm; the files themselves say no voxel size.
The page gives the volume as 1065 x 2048 x 1536, which is z, x, y: the file is z 1065, y 1536, x 2048.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from emporter_contracts import ids
from emporter_contracts.commands import IngestRequest
from emporter_contracts.errors import RefusedError
from emporter_contracts.geometry import VoxelSize
from emporter_contracts.plans import Caveat, Checksum, Licence, PlannedObject, Role
from fetcher.gate import Gate
from fetcher.settings import FetcherSettings
from fetcher.sources.over_http import HttpObjects, planned_object
from fetcher.sources.protocol import Context, Listing, Part
from fetcher.transports.addresses import HostPolicy
from fetcher.transports.http import HttpLimits

PAGE = "https://www.epfl.ch/labs/cvlab/data/data-em/"
VOXEL_NM = (5.0, 5.0, 5.0)
"""z, y, x, as the page says."""
LICENCE = Licence(
    url=PAGE,
    text="no licence is stated with the files; third parties report that the page allows non-commercial use only",
    known=False,
)
CITATION = (
    "A. Lucchi, K. Smith, R. Achanta, G. Knott, P. Fua: Supervoxel-Based Segmentation of Mitochondria in EM Image Stacks with "
    "Learned Shape Features. IEEE Transactions on Medical Imaging 31(2), 2012. doi:10.1109/TMI.2011.2171705"
)


@dataclass(frozen=True, slots=True)
class KnownFile:
    """One file of the page. The md5 is of the file of just this size, in bytes."""

    description: str
    labels_of: str | None = None
    bytes: int | None = None
    md5: str | None = None


FILES: Mapping[str, KnownFile] = {
    "volumedata": KnownFile("CA1 hippocampus, the whole volume", bytes=3_353_674_357, md5="14fc2fb6a5061ea4ea9b69a090c327c9"),
    "training": KnownFile("CA1 hippocampus, training sub-volume"),
    "training_groundtruth": KnownFile("mitochondria of the training sub-volume", labels_of="training"),
    "testing": KnownFile("CA1 hippocampus, testing sub-volume"),
    "testing_groundtruth": KnownFile("mitochondria of the testing sub-volume", labels_of="testing"),
}


class EpflSource(HttpObjects):
    """source_id is a file's name without `.tif`."""

    name = "epfl"

    def __init__(self, settings: FetcherSettings, gate: Gate, files: Mapping[str, KnownFile] = FILES) -> None:
        self._base = settings.epfl_base_url.rstrip("/") + "/"
        self._files = files
        anywhere = HostPolicy(("*",), setting="EMPORTER_EPFL_BASE_URL")
        hosts = HostPolicy((anywhere.checked(self._base).host,), settings.url_allow_private, anywhere.setting)
        limits = HttpLimits(settings.connections_per_host, settings.http_connect_seconds, settings.http_stall_seconds)
        super().__init__(hosts, limits, gate)

    async def resolve(self, request: IngestRequest, context: Context) -> Listing:
        known = self._files.get(request.source_id)
        if known is None:
            names = ", ".join(self._files)
            raise RefusedError(f"epfl has no {request.source_id[:100]!r}", code="not_found", hint=f"one of: {names}")
        probe = await self.client.probe(f"{self._base}{request.source_id}.tif")
        checksum, caveats = _checksum(known, probe.pinned.size)
        planned = planned_object(probe, context, checksum)
        return Listing(
            objects=(planned,),
            download_url=planned.url,
            parts=(_part(known),),
            description=known.description,
            modality="FIB-SEM",
            licence=LICENCE,
            citation=(CITATION,),
            caveats=caveats,
            archive=_said(known, planned),
        )


def _part(known: KnownFile) -> Part:
    role: Role = "labels" if known.labels_of else "image"
    image = ids.job_id(IngestRequest(source="epfl", source_id=known.labels_of)) if known.labels_of else None
    return Part(objects=(0,), voxel_size=VoxelSize.said("page", VOXEL_NM), role=role, labels_of=image)


def _checksum(known: KnownFile, size: int) -> tuple[Checksum | None, tuple[Caveat, ...]]:
    """The md5 where it is of this file; a caveat where the archive now serves another."""
    if known.md5 is None:
        return None, ()
    if known.bytes is not None and known.bytes != size:
        evidence = f"the file has {size} bytes, its known md5 is of one of {known.bytes} bytes: not checked"
        return None, (Caveat(code="archive_disagrees", evidence=evidence),)
    return Checksum(algorithm="md5", hex=known.md5), ()


def _said(known: KnownFile, planned: PlannedObject) -> dict[str, JsonValue]:
    return {"page": PAGE, "voxel_size_nm_zyx": list(VOXEL_NM), "file": planned.path, "labels_of": known.labels_of}
