"""Five small archives side by side, for `emporter demo`: what to ask of them, and the voxels that must come out.

`emporter` finds this by its entry point and knows only what is in `Exhibit` and `Archives`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emporter_archives import arrays, empiar, epfl, omero, openorganelle
from emporter_archives.ftp import FtpArchive
from emporter_archives.hemibrain import HemibrainServer
from emporter_archives.omero import IMAGE, Image
from emporter_archives.s3 import S3Server
from emporter_archives.server import FileServer
from emporter_contracts.commands import IngestRequest, RandomRegion

IDR_SHAPE = (64, 180, 210)
EMPIAR_SHAPE = (16, 190, 230)
EPFL_SHAPE = (65, 160, 220)
OPENORGANELLE_SHAPE = (90, 150, 170)
HEMIBRAIN_SHAPE = (160, 176, 208)
"""Voxels z, y, x: no two axes of one length, so that an exchange of axes would show."""
CROP = (64, 64, 64)


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One request, and what an archive holds for it."""

    request: IngestRequest
    speaks: str
    """The protocols, for people."""
    voxels: NDArray[Any]
    """The whole array of the archive, z y x; a region is cut from it."""
    voxel_size_nm: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Archives:
    """Archives that answer: the settings that lead to them, and what they show."""

    environment: Mapping[str, str]
    exhibits: tuple[Exhibit, ...]


@contextmanager
def archives() -> Iterator[Archives]:
    """All five, while inside."""
    with ExitStack() as up:
        web, bucket = up.enter_context(FileServer()), up.enter_context(S3Server())
        flyem = up.enter_context(HemibrainServer(tissue(HEMIBRAIN_SHAPE, 5), chunk=(32, 32, 32)))
        ftp = up.enter_context(FtpArchive(Path(up.enter_context(TemporaryDirectory()))))
        served = [_idr(web), _empiar(web, ftp), _epfl(web), _openorganelle(bucket), _hemibrain(flyem)]
        settings = {name: value for told, _ in served for name, value in told.items()}
        environment = {f"EMPORTER_{name.upper()}": value for name, value in settings.items()}
        yield Archives(environment, tuple(exhibit for _, exhibit in served))


def tissue(shape: tuple[int, int, int], seed: int) -> NDArray[np.uint8]:
    """Folded membranes and noise, by a formula; z y x."""
    z, y, x = (np.arange(n, dtype=np.float32)[(..., *(None,) * (2 - axis))] for axis, n in enumerate(shape))
    shift = np.float32(7 * seed)
    gyroid = np.sin((z + shift) / 9) * np.cos(y / 14) + np.sin(y / 14) * np.cos(x / 17) + np.sin(x / 17) * np.cos((z + shift) / 9)
    grey = np.where(np.abs(gyroid) < 0.18, 60, 170).astype(np.int16)
    noise = np.random.default_rng(seed).integers(-12, 13, shape, dtype=np.int16)
    return np.asarray(grey + noise, np.uint8)


def _idr(web: FileServer) -> tuple[dict[str, str], Exhibit]:
    voxels = tissue(IDR_SHAPE, 1)
    settings = omero.serve(web, [Image(IMAGE, voxels)])
    request = IngestRequest(source="idr", source_id=str(IMAGE))
    return settings, Exhibit(request, "OMERO JSON, ImageJ TIFF over HTTP", voxels, (20.0, 20.0, 20.0))


def _empiar(web: FileServer, ftp: FtpArchive) -> tuple[dict[str, str], Exhibit]:
    """Its index pages are not there, so that the files come over FTP."""
    voxels = tissue(EMPIAR_SHAPE, 2)
    z, y, x = map(str, EMPIAR_SHAPE)
    empiar.put_entry(web, empiar.entry(empiar.image_set(num_images_or_tilt_series=int(z), image_width=x, image_height=y)))
    for path, content in empiar.tree(voxels).items():
        ftp.put(f"{empiar.FILES}/{empiar.NUMBER}/{path}", content)
    folder = ftp.url(empiar.FILES)
    settings = {"empiar_base_url": web.url("/empiar"), "empiar_files_url": folder, "empiar_ftp_url": ""}
    request = IngestRequest(source="empiar", source_id=f"EMPIAR-{empiar.NUMBER}")
    return settings, Exhibit(request, "EMPIAR JSON, DM3 slices over FTP", voxels, (50.0, 7.998, 7.998))


def _epfl(web: FileServer) -> tuple[dict[str, str], Exhibit]:
    voxels = tissue(EPFL_SHAPE, 3)
    base = epfl.serve(web)
    web.put(f"{epfl.FOLDER}volumedata.tif", epfl.multipage(voxels))
    request = IngestRequest(source="epfl", source_id="volumedata")
    return {"epfl_base_url": base}, Exhibit(request, "multipage TIFF over HTTP", voxels, (5.0, 5.0, 5.0))


def _openorganelle(bucket: S3Server) -> tuple[dict[str, str], Exhibit]:
    voxels = np.asarray(tissue(OPENORGANELLE_SHAPE, 4), np.int16) * 200 - 20_000
    openorganelle.serve(bucket, voxels)
    request = IngestRequest(source="openorganelle", source_id=openorganelle.DATASET)
    settings = {"openorganelle_endpoint": bucket.url("")}
    return settings, Exhibit(request, "anonymous S3, OME-Zarr 0.4", voxels, (2.96, 4.0, 4.0))


def _hemibrain(flyem: HemibrainServer) -> tuple[dict[str, str], Exhibit]:
    decoded = arrays.decoded(flyem.em, "neuroglancer_precomputed")[..., 0].T
    request = IngestRequest(source="hemibrain", source_id="em", random_region=RandomRegion(shape=CROP, seed=7))
    settings = {"hemibrain_base_url": flyem.base, "hemibrain_dvid_url": flyem.dvid}
    return settings, Exhibit(request, "precomputed, sharded JPEG", np.ascontiguousarray(decoded), (8.0, 8.0, 8.0))
