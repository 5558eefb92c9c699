"""What lies around the images of an OMERO: project and dataset, screen, plate and wells, annotations, and rendered pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import imagecodecs
import numpy as np

from emporter_archives.omero import DATASET, PROJECT, SCHEMA, STUDY_PAIRS, Image, put_json, serve
from emporter_archives.server import FileServer

SCREEN, PLATE, WELL = 2101, 4299, 1046947
SCREEN_PAIRS = [["Organism", "Homo sapiens"], ["Gene Symbol", "PLK1"], ["Gene Symbol", "AURKB"], ["siRNA", ""]]
"""A key that comes twice, and an empty value: both are real."""


def serve_tree(server: FileServer, images: Sequence[Image]) -> dict[str, str]:
    """Images in a dataset of a project, the same in the wells of a plate of a screen; the settings of source `idr`."""
    settings = serve(server, images)
    numbers = [image.number for image in images]
    _single(server, "projects", PROJECT, {"@type": f"{SCHEMA}Project", "Name": "idr0086-miron-micrographs/experimentD"})
    _single(server, "datasets", DATASET, {"@type": f"{SCHEMA}Dataset", "Name": "U2OS_chromatin", "omero:childCount": len(images)})
    _listed(server, f"projects/{PROJECT}/datasets", [{"@id": DATASET, "@type": f"{SCHEMA}Dataset", "Name": "U2OS_chromatin"}])
    _listed(server, f"datasets/{DATASET}/images", [image.api()["data"] for image in images])
    _single(server, "screens", SCREEN, {"@type": f"{SCHEMA}Screen", "Name": "idr0088/screenA", "Description": "siRNA & drugs"})
    _listed(server, f"screens/{SCREEN}/plates", [{"@id": PLATE, "@type": f"{SCHEMA}Plate", "Name": "plate_1"}])
    _single(server, "plates", PLATE, {"@type": f"{SCHEMA}Plate", "Name": "plate_1", "Rows": 2, "Columns": 2})
    wells = [_well(WELL + n, n, image) for n, image in enumerate(images)]
    _listed(server, f"plates/{PLATE}/wells", wells)
    for well in wells:
        _single(server, "wells", well["@id"], well)
    annotated: Mapping[str, list[list[str]]] = {
        f"screen={SCREEN}": SCREEN_PAIRS, f"plate={PLATE}": [], f"well={WELL}": SCREEN_PAIRS[:1], f"dataset={DATASET}": STUDY_PAIRS[:2]
    }  # fmt: skip
    for of, pairs in annotated.items():
        one = {"id": 1, "ns": "openmicroscopy.org/omero/bulk_annotations", "class": "MapAnnotationI", "values": pairs}
        put_json(
            server, f"/webclient/api/annotations/?type=map&{of}", {"annotations": [one] if pairs else [], "experimenters": []}
        )
    for number, image in zip(numbers, images, strict=True):
        _pictures(server, number, image)
    return settings


def _pictures(server: FileServer, number: int, image: Image) -> None:
    """As OMERO renders: 8-bit JPEG, a thumbnail of 96 pixels at most, every plane."""
    small = np.ascontiguousarray(image.voxels[len(image.voxels) // 2][:96, :96])
    put_picture(server, f"/webclient/render_thumbnail/{number}/", imagecodecs.jpeg_encode(small.astype(np.uint8)))
    for z, plane in enumerate(image.voxels):
        put_picture(server, f"/webgateway/render_image/{number}/{z}/0/", imagecodecs.jpeg_encode(plane.astype(np.uint8)))


def put_picture(server: FileServer, path: str, body: bytes) -> None:
    server.put(path, body, etag=None, modified=None, ranges=False)


def _well(number: int, n: int, image: Image) -> dict[str, Any]:
    row, column = divmod(n, 2)
    sample = {"@id": number + 10, "@type": f"{SCHEMA}WellSample", "Image": image.api()["data"]}
    return {"@id": number, "@type": f"{SCHEMA}Well", "Row": row, "Column": column, "WellSamples": [sample]}


def _single(server: FileServer, kind: str, number: int, said: Mapping[str, Any]) -> None:
    put_json(server, f"/api/v0/m/{kind}/{number}/", {"data": {"@id": number, **said}})


def _listed(server: FileServer, path: str, items: Sequence[Mapping[str, Any]]) -> None:
    meta = {"totalCount": len(items), "maxLimit": 500, "limit": 200, "offset": 0}
    put_json(server, f"/api/v0/m/{path}/?limit=200&offset=0", {"data": list(items), "meta": meta})
