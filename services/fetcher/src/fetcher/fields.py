"""Which field of a record comes from where, by source: the table docs/METADATA_SUMMARY.md is written from.

python -m fetcher.fields            prints the page
python -m fetcher.fields --check F  exit 1 where F is not this page
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from emporter_contracts.plans import Licence
from fetcher.settings import FetcherSettings
from fetcher.sources import empiar, epfl, hemibrain, idr_studies, openorganelle

FILES = "inbox, file-root, url"
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "idr": ("idr",),
    "empiar": ("empiar",),
    "epfl": ("epfl",),
    "openorganelle": ("openorganelle",),
    "hemibrain": ("hemibrain",),
    FILES: ("inbox", "file-root", "url"),
}
"""Sources by column; `url` reads arrays by their own metadata as the two archives of arrays do."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the record, and how each source fills it, in the order of COLUMNS; an empty cell: not filled."""

    name: str
    unit: str
    cells: tuple[str, str, str, str, str, str]


def _terms(licence: Licence) -> str:
    known = "" if licence.known else " (not stated with the data)"
    return (licence.spdx or licence.text or "unknown") + known


COMMON = (
    Field("core.description", "", (
        "API `Description`, else `Name`", "API `title`", "table", "array name", "name of the volume", "file name",
    )),
    Field("core.volume_shape", "voxels z, y, x", (
        "file; API `SizeZ/Y/X` compared", "files; API `image_width/height`, `num_images_or_tilt_series` compared", "file",
        "array metadata of the level", "`info` (x, y, z there) or DVID `Extended`", "file",
    )),
    Field("core.voxel_size_nm", "nm, from", (
        "file (ImageJ `unit`, `spacing`, resolution), else API `PhysicalSize*` by its `Unit`",
        "file (DM calibration; z from the microtome's tags), else API `pixel_width/height` in angstrom; z never from text",
        "the page: 5 x 5 x 5 nm, the files say none", "`multiscales` scale, by axis unit", "`info` resolution in nm",
        "file",
    )),
    Field("core.data_type", "", (
        "file; API `Type` compared", "file; API `voxel_type` compared", "file", "array metadata", "`info` data_type", "file",
    )),
    Field("core.modality", "", (
        "study annotation `Imaging Method`, else table", "API `experiment_type`", "FIB-SEM", "name of the array", "FIB-SEM", "",
    )),
    Field("core.role, core.labels_of", "", (
        "guessed", "guessed", "table: groundtruth is the labels of its image", "guessed", "kind of volume",
        "guessed, or the user",
    )),
    Field("core.axes, core.source_origin", "z, y, x", ("always zyx; where a region was cut, in the archive's voxels",) * 6),
    Field("acquisition.*", "UTC or as the file has it; s; by whom", (
        "OME-XML in the file (`Instrument`, `Objective`, `Detector`, `Channel`, `Plane`), else API `AcquisitionDate`, `Channels`",
        "DM tags verbatim only", "", "", "", "OME-XML in the file",
    )),
    Field("licence", "", (
        f"study annotation `License`, else table ({_terms(idr_studies.KNOWN['idr0086'].licence)} for idr0086), else unknown",
        _terms(empiar.LICENCE), _terms(epfl.LICENCE), _terms(openorganelle.LICENCE), _terms(hemibrain.LICENCE), "unknown",
    )),
    Field("citation", "", (
        "repository; study from annotations `Publication *`, `Data DOI`, else table", "repository; authors, title, `entry_doi`",
        "table", "bucket; data set from table", "table", "",
    )),
    Field("provenance.objects", "bytes, sha256", (
        "file by its `client` path through a prefix map", "each image file listed in the folders of the image sets",
        "file, its published md5 where known", "each chunk of the region", "each chunk's span of its shard", "each file",
    )),
    Field("additional_metadata", "verbatim", (
        "answers of the API; map annotations as ordered pairs; page", "the entry; files passed over, with the reason",
        "page, table", "array metadata", "`info`", "HTTP headers; members of unpacked archives",
    )),
)  # fmt: skip
"""What every record has."""

UNIQUE: Mapping[str, tuple[str, ...]] = {
    "idr": ("map_annotations (pairs, keys repeat)", "study", "file_by", "original_file_paths", "imgData", "page"),
    "empiar": ("entry (imagesets, authors, dates, dataset_size)", "skipped"),
    "epfl": ("page", "labels_of"),
    "openorganelle": ("multiscale scale and translation of every level", "array counts"),
    "hemibrain": ("seed, origin and fill test of a random crop", "DVID node"),
    FILES: ("http (etag, last_modified, accepts_ranges)", "unpacked (members, left_out)"),
}
WRONG: Mapping[str, tuple[str, ...]] = {
    "idr": (
        "null fields are left out of JSON, `PhysicalSizeZ` among them: the file is asked, else it is unknown",
        "a single image is an object under `data`, where the API's manual shows a list",
        "`.tif` in the reference study is ImageJ's, big-endian, with the micro sign as six characters; not OME-TIFF",
        "voxels of the reference image were rescaled along one axis (caveat `resampled`)",
        "busy and failed answers come with status 200 (`ConcurrencyException`, `Exception`)",
    ),
    "empiar": (
        "pixel sizes are angstrom, numbers are often texts, the answer is keyed by accession even when asked by number",
        "there is no z spacing but in free text, which is kept and never parsed",
        "image sizes of EMPIAR-11759 (5628 x 5632) are not those of its files (5496 x 5500): caveat `archive_disagrees`",
        "`reconstructed volumes` may be raw slices: caveat `unaligned`",
    ),
    "epfl": ("the page gives the volume as z, x, y; the files say no voxel size",),
    "openorganelle": ("physical sizes on the portal are mistaken for voxel counts; group metadata may hold null types",),
    "hemibrain": ("published figures are last indices of blocks, not sizes; EM is JPEG: caveat `lossy`",),
    FILES: ("resolution without a unit, as printers need it, is no voxel size",),
}
"""What archives get wrong, or are often taken wrongly for, and what is done."""


def page() -> str:
    """The page, as Markdown."""
    settings = FetcherSettings.model_fields
    hosts = [f"`{settings[f'{name}_base_url'].default}`" for name in ("idr", "empiar", "epfl")]
    lines = [
        "# Metadata, by archive",
        "",
        "Written by `python -m fetcher.fields`; change the table there. Every value keeps who said it: the user, else the file,",
        "else the archive's API or page. Where two of them differ, the record has caveat `archive_disagrees` with both. Axes are",
        "z, y, x, lengths nanometres. What nobody says is unknown, and said to be.",
        "",
        f"Asked by default: idr {hosts[0]}, empiar {hosts[1]}, epfl {hosts[2]}.",
        "",
        "## Fields every record has",
        "",
        *_table(("field", "unit", *COLUMNS), [(f"`{field.name}`", field.unit, *field.cells) for field in COMMON]),
        "",
        "## What only one has",
        "",
        *(f"- **{column}**: {'; '.join(unique)}" for column, unique in UNIQUE.items()),
        "",
        "## What is often wrong, and what is done",
        "",
        *(f"- **{column}**: {'; '.join(wrong)}" for column, wrong in WRONG.items()),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Exit status."""
    if arguments[:1] == ["--check"] and len(arguments) == 2:
        if Path(arguments[1]).read_text() == page():
            return 0
        sys.stderr.write(f"{arguments[1]} differs from the table: python -m fetcher.fields > {arguments[1]}\n")
        return 1
    sys.stdout.write(page())
    return 0


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, tuple("---" for _ in head), *rows)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
