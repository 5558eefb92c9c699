"""A small EMPIAR: the entry API, and the folder of an entry with everything that lies about in a real one."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from emporter_archives.server import FileServer
from emporter_readers.testing_dm import dm_file

NUMBER = "11759"
FILES = "/empiar/world_availability"
SHAPE = (5, 44, 36)
"""Voxels z, y, x of the small entry; no two axes of one length."""
MIPMAPS = "trakem2.1528909664283.981147357.856576865"


def voxels(shape: tuple[int, int, int] = SHAPE, seed: int = 11759) -> NDArray[np.uint8]:
    """Grey noise, z y x."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def slice_dm3(plane: NDArray[Any], n: int, nm: tuple[float, float, float] = (50.0, 7.998, 7.998)) -> bytes:
    """One slice as a 3View writes it: a thumbnail first, data at another place in every file, z in two tags."""
    z, y, x = nm
    return dm_file(
        plane,
        junk=1000 * (n % 3),
        scales=[(x / 1000, "µm"), (y / 1000, "µm")],
        **{
            "Meta Data": {"Dimension info": [{}, {}, {"Scale": z, "Units": "nm"}]},
            "SBFSEM": {"Record": {"Slice thickness": z}, "Approach": {"Slice thickness": 200.0}},
        },
    )


def names(count: int) -> list[str]:
    """As the real ones."""
    return [f"F57-8_test1_3VBSED_slice_{n:04}.dm3" for n in range(count)]


def image_set(**fields: Any) -> dict[str, Any]:
    """One image set with numbers as texts, angstrom, and z in free text only."""
    z, y, x = SHAPE
    return {
        "name": "Developing retina", "directory": "data", "category": "reconstructed volumes", "header_format": "DM3",
        "data_format": "DM3", "num_images_or_tilt_series": z, "frames_per_image": 1, "voxel_type": "UNSIGNED BYTE",
        "pixel_width": 80.0, "pixel_height": 80.0, "image_width": str(x), "image_height": str(y), "segmentations": [],
        "details": "The resolution is 8nm/px in xy and 99nm per section (z).",
    } | fields  # fmt: skip


def entry(*sets: Mapping[str, Any], number: str = NUMBER, **fields: Any) -> dict[str, Any]:
    """The answer of the API: keyed by the accession, whatever was asked for."""
    said = {
        "title": "Developing retina in zebrafish larval eye.", "status": "REL", "dataset_size": "1.2 GB", "scale": "tissue",
        "experiment_type": "SBF-SEM", "entry_doi": f"10.6019/EMPIAR-{number}", "release_date": "2024-01-15",
        "authors": [{"author": {"author_orcid": None, "name": "Doe J"}}], "imagesets": list(sets) or [image_set()],
    }  # fmt: skip
    return {f"EMPIAR-{number}": said | fields}


def put_entry(server: FileServer, said: Mapping[str, Any], number: str = NUMBER) -> None:
    server.put(f"/empiar/api/entry/EMPIAR-{number}/", json.dumps(said).encode(), etag=None, modified=None, ranges=False)


def tree(data: NDArray[Any] | None = None, folder: str = "data") -> dict[str, bytes]:
    """Files of the small entry by their paths below it, with what a TrakEM2 project leaves behind."""
    stack = voxels() if data is None else data
    files = {
        f"{folder}/{name}": slice_dm3(plane, n) for n, (name, plane) in enumerate(zip(names(len(stack)), stack, strict=True))
    }
    files[f"{folder}/F57-8_test1.xml.gz"] = gzip.compress(b"<trakem2/>", mtime=0)
    files[f"{folder}/{MIPMAPS}/trakem2.mipmaps/0/1.dm3.jpg"] = b"\xff\xd8\xff\xe0 a picture"
    files[f"{NUMBER}.xml"] = b"<entry/>"
    return files


def serve(server: FileServer, files: Mapping[str, bytes] | None = None, said: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Put an entry on a server, index pages and all; the settings of source `empiar` that lead to it."""
    put_files(server, files if files is not None else tree())
    put_entry(server, said if said is not None else entry())
    return {"empiar_base_url": server.url("/empiar"), "empiar_files_url": server.url(FILES), "empiar_ftp_url": ""}


def put_files(server: FileServer, files: Mapping[str, bytes], number: str = NUMBER) -> None:
    """The files below an entry's folder, and an index page for every folder."""
    folders: dict[str, set[str]] = {"": set()}
    for path, content in files.items():
        server.put(f"{FILES}/{number}/{quote(path)}", content)
        steps = path.split("/")
        for depth, step in enumerate(steps):
            parent = "/".join(steps[:depth])
            folders.setdefault(parent, set()).add(step if depth == len(steps) - 1 else f"{step}/")
    for folder, entries in folders.items():
        at = f"{FILES}/{number}/{quote(folder)}/".replace("//", "/")
        server.put(at, index_page(at, sorted(entries)), etag=None, modified=None, ranges=False)


def index_page(at: str, entries: Sequence[str]) -> bytes:
    """As Apache writes it: links that sort, the parent, and sizes beside the names."""
    rows = "\n".join(
        f'<tr><td><a href="{escape(quote(name))}">{escape(name[:20])}..&gt;</a></td><td>2023-11-01 10:00</td><td>29M</td></tr>'
        for name in entries
    )
    parent = at.rstrip("/").rsplit("/", 1)[0] + "/"
    return f"""<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 3.2 Final//EN"><html><head><title>Index of {at}</title></head><body><h1>Index</h1>
<table><tr><th><a href="?C=N;O=D">Name</a></th><th><a href="?C=M;O=A">Last modified</a></th><th><a href="?C=S;O=A">Size</a></th></tr>
<tr><td><a href="{parent}">Parent Directory</a></td></tr><tr><td><a href="../">../</a></td></tr>
{rows}
</table><address><a href="https://www.ebi.ac.uk/">EMBL-EBI</a> <a href="mailto:x@example.org">mail</a></address></body></html>
""".encode()
