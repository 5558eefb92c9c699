"""A small Image Data Resource: OMERO's JSON answers in their real shape, and the public folder of files beside them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from emporter_archives.server import FileServer

FILES = "/pub/databases/IDR"
STUDY = "idr0086-miron-micrographs/20200610-ftp/experimentD/Miron_FIB-SEM/Miron_FIB-SEM_processed"
REFERENCE = f"{STUDY}/Figure_S3B_FIB-SEM_U2OS_20x20x20nm_xy.tif"
IMAGE, DATASET, PROJECT = 9846137, 10740, 1161
ACQUIRED_MS = 1_528_756_020_000
"""2018-06-11 22:27 UTC, as OMERO counts."""
SCHEMA = "http://www.openmicroscopy.org/Schemas/OME/2016-06#"


@dataclass(slots=True)
class Image:
    """One image and what the server says of it. `nm` z, y, x; None is left out of the answer, as OMERO does."""

    number: int
    voxels: NDArray[Any]
    path: str = REFERENCE
    prefix: str = "uod/idr/filesets"
    nm: tuple[float | None, float | None, float | None] = (20.0, 20.0, 20.0)
    unit: tuple[str, float] = ("MICROMETER", 1e-3)
    """Name, and how many of it a nanometre is."""
    said_shape: tuple[int, int, int] | None = None
    series: int = 0
    annotations: list[list[str]] = field(default_factory=lambda: [["Organism", "Homo sapiens"], ["Cell Line", "U2OS"]])

    def api(self) -> dict[str, Any]:
        """`/api/v0/m/images/ID/`: one object under `data`."""
        z, y, x = self.said_shape or self.voxels.shape
        name, factor = self.unit
        pixels: dict[str, Any] = {
            "@id": self.number + 1, "@type": f"{SCHEMA}Pixels", "SizeX": x, "SizeY": y, "SizeZ": z, "SizeC": 1, "SizeT": 1,
            "SignificantBits": 8, "Type": {"@id": 1, "@type": "TBD#PixelsType", "value": self.voxels.dtype.name},
        }  # fmt: skip
        for axis, nm in zip("ZYX", self.nm, strict=True):
            if nm is not None:
                length = {"@type": "TBD#LengthI", "Unit": name, "Symbol": name.lower(), "Value": nm * factor}
                pixels[f"PhysicalSize{axis}"] = length
        image_name = self.path.rsplit("/", 1)[-1]
        return {
            "data": {
                "@id": self.number, "@type": f"{SCHEMA}Image", "Name": image_name, "AcquisitionDate": ACQUIRED_MS, "Pixels": pixels,
                "omero:series": self.series,
            }
        }  # fmt: skip

    def web(self) -> dict[str, Any]:
        """`/webclient/imgData/ID/`: micrometres, null where not known."""
        z, y, x = self.voxels.shape
        return {
            "id": self.number,
            "meta": {
                "imageName": self.path.rsplit("/", 1)[-1], "imageDescription": "", "pixelsType": self.voxels.dtype.name,
                "datasetName": "U2OS_chromatin", "datasetId": DATASET, "projectName": "idr0086-miron-micrographs/experimentD",
                "projectId": PROJECT,
            },
            "size": {"z": z, "height": y, "width": x, "c": 1, "t": 1},
            "pixel_size": {axis: None if nm is None else nm / 1000 for axis, nm in zip("zyx", self.nm, strict=True)},
            "channels": [], "tiles": False, "pixel_range": [0, 255],
        }  # fmt: skip


def imagej_tiff(voxels: NDArray[Any], *, unit: str = "\\u00B5m", spacing: float = 0.02, pixels_per_unit: int = 50) -> bytes:
    """As ImageJ 1.52 writes it: big-endian, not compressed, the micro sign as six characters."""
    described = f"ImageJ=1.52p\nimages={len(voxels)}\nslices={len(voxels)}\nunit={unit}\nspacing={spacing}\nloop=false\nmin=0.0\nmax=255.0\n"
    file = io.BytesIO()
    with tifffile.TiffWriter(file, byteorder=">") as tiff:
        for n, page in enumerate(voxels):
            tiff.write(
                page, contiguous=False, metadata=None, photometric="minisblack", description=described if n == 0 else None,
                resolution=(pixels_per_unit, pixels_per_unit), resolutionunit=1,
            )  # fmt: skip
    return file.getvalue()


def voxels(shape: tuple[int, int, int] = (9, 31, 47), seed: int = 86) -> NDArray[np.uint8]:
    """Grey noise, z y x; no two axes of one length."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def serve(server: FileServer, images: Sequence[Image], *, files: bool = True, study: bool = True) -> dict[str, str]:
    """Put images on a server; the settings of source `idr` that lead to it."""
    for image in images:
        put_json(server, f"/api/v0/m/images/{image.number}/", image.api())
        put_json(server, f"/webclient/imgData/{image.number}/", image.web())
        paths = {"repo": [f"demo_2/{image.path}"], "client": [f"{image.prefix}/{image.path}"], "fileset": {"id": 7}}
        put_json(server, f"/webgateway/original_file_paths/{image.number}/", paths)
        put_json(server, f"/webclient/api/annotations/?type=map&image={image.number}", _annotations(image.annotations))
        if files:
            server.put(f"{FILES}/{image.path}", imagej_tiff(image.voxels))
    if study:
        put_json(server, f"/webclient/api/annotations/?type=map&project={PROJECT}", _annotations(STUDY_PAIRS))
    return {"idr_base_url": server.url("").rstrip("/"), "idr_files_url": server.url(FILES), "idr_ftp_url": ""}


def put_dataset(server: FileServer, dataset: int, images: Sequence[int], total: int | None = None, page: int = 200) -> None:
    """The images of a dataset, by pages."""
    for offset in range(0, max(1, len(images)), page):
        data = [{"@id": number, "@type": f"{SCHEMA}Image", "Name": str(number)} for number in images[offset : offset + page]]
        meta = {"totalCount": len(images) if total is None else total, "maxLimit": 500, "limit": 200, "offset": offset}
        put_json(server, f"/api/v0/m/datasets/{dataset}/images/?limit=200&offset={offset}", {"data": data, "meta": meta})


def put_json(server: FileServer, path: str, said: Any) -> None:
    server.put(path, json.dumps(said).encode(), etag=None, modified=None, ranges=False)


STUDY_PAIRS = [
    ["Study Type", "micrograph"],
    ["Imaging Method", "focused ion beam scanning electron microscopy (FIB-SEM)"],
    ["Publication Title", "Chromatin arranges in chains of mesoscale domains"],
    ["Publication Authors", "Miron E, Oldenkamp R"],
    ["PubMed ID", "32967822 https://www.ncbi.nlm.nih.gov/pubmed/32967822"],
    ["Publication DOI", "10.1126/sciadv.aba8811 https://doi.org/10.1126/sciadv.aba8811"],
    ["License", "CC BY 4.0 https://creativecommons.org/licenses/by/4.0/"],
    ["Data DOI", "10.17867/10000141d https://doi.org/10.17867/10000141d"],
]


def _annotations(pairs: list[list[str]]) -> dict[str, Any]:
    one = {"id": 1, "ns": "openmicroscopy.org/omero/bulk_annotations", "class": "MapAnnotationI", "values": pairs}
    return {"annotations": [one], "experimenters": []}
