"""What EMPIAR's entry API says: one object keyed by the accession, numbers often as texts, pixel sizes in angstrom.

https://www.ebi.ac.uk/empiar/api/documentation/. It names no file and no spacing along z; what its free text says of it is kept,
never parsed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from emporter_contracts.geometry import VoxelSize, to_nm
from fetcher.errors import ArchiveMisbehavesError, ForbiddenError, NotInArchiveError
from fetcher.sources.protocol import Claims

RELEASED = "REL"
DTYPES = {
    "UNSIGNED BYTE": "uint8", "SIGNED BYTE": "int8", "UNSIGNED 16 BIT INTEGER": "uint16", "SIGNED 16 BIT INTEGER": "int16",
    "UNSIGNED 32 BIT INTEGER": "uint32", "SIGNED 32 BIT INTEGER": "int32", "32 BIT FLOAT": "float32",
}  # fmt: skip
"""numpy names by EMPIAR's voxel types."""
SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "DM3": (".dm3",), "DM4": (".dm4",), "MRC": (".mrc", ".rec", ".st", ".map", ".ali"), "MRCS": (".mrcs",),
    "TIFF": (".tif", ".tiff"), "PNG": (".png",), "JPEG": (".jpg", ".jpeg"), "HDF5": (".h5", ".hdf5", ".hdf"),
}  # fmt: skip
"""Endings of files by the words EMPIAR has for formats."""

_NUMBER = re.compile(r"\s*\d{1,9}\s*\Z")


@dataclass(frozen=True, slots=True)
class ImageSet:
    """One image set of an entry."""

    name: str
    directory: str
    """Below the entry's folder; empty where it is that folder."""
    format: str
    images: int | None
    width: int | None
    height: int | None
    dtype: str | None
    voxel_size: VoxelSize
    category: str

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Endings of its files; empty where the format is none we know."""
        return SUFFIXES.get(self.format.upper(), ())

    def claims(self, *, whole: bool) -> Claims:
        """What it says of a volume; of its depth only where that is the whole image set, one file by image."""
        return Claims((self.images if whole else None, self.height, self.width), self.dtype)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry, and the whole answer."""

    accession: str
    title: str = ""
    doi: str = ""
    authors: tuple[str, ...] = ()
    year: str = ""
    experiment: str = ""
    sets: tuple[ImageSet, ...] = ()
    said: Mapping[str, JsonValue] | None = None

    @property
    def citation(self) -> str:
        """As EMPIAR asks for it."""
        who = ", ".join(self.authors[:3]) + (" et al." if len(self.authors) > 3 else "")
        doi = f"doi:{self.doi or f'10.6019/{self.accession}'}"
        return ". ".join(
            filter(None, [f"{who}: {self.title}" if who else self.title, f"{self.accession}, {self.year}".strip(", "), doi])
        )


def entry_of(accession: str, answer: Mapping[str, JsonValue]) -> Entry:
    """The entry `accession` of an answer. Raises NotInArchiveError, ForbiddenError for one that is not released."""
    said = answer.get(accession)
    if not isinstance(said, dict):
        raise NotInArchiveError(f"the archive answers without {accession}", hint="check the number, or browse the archive")
    status = _text(said, "status")
    if status and status != RELEASED:
        raise ForbiddenError(f"{accession} is not released (status {status[:20]})", hint="wait for its release")
    sets = said.get("imagesets")
    if not isinstance(sets, list):
        raise ArchiveMisbehavesError(f"{accession} is described without image sets", hint="open the entry's page in a browser")
    return Entry(
        accession=accession,
        title=_text(said, "title").strip(),
        doi=_text(said, "entry_doi"),
        authors=tuple(_authors(said)),
        year=_text(said, "release_date")[:4],
        experiment=_text(said, "experiment_type"),
        sets=tuple(_set(one) for one in sets if isinstance(one, dict)),
        said=dict(said),
    )


def _set(said: Mapping[str, JsonValue]) -> ImageSet:
    y, x = (_angstrom(said.get(name)) for name in ("pixel_height", "pixel_width"))
    return ImageSet(
        name=_text(said, "name").strip(),
        directory=_text(said, "directory").strip().strip("/"),
        format=_text(said, "data_format") or _text(said, "header_format"),
        images=_count(said.get("num_images_or_tilt_series")),
        width=_count(said.get("image_width")),
        height=_count(said.get("image_height")),
        dtype=DTYPES.get(_text(said, "voxel_type").strip().upper()),
        voxel_size=VoxelSize.said("api", (None, y, x)),
        category=_text(said, "category"),
    )


def _count(said: JsonValue) -> int | None:
    """A number, or a text that is one."""
    if isinstance(said, bool):
        return None
    if isinstance(said, str) and _NUMBER.match(said):
        said = int(said)
    return said if isinstance(said, int) and said > 0 else None


def _angstrom(said: JsonValue) -> float | None:
    if isinstance(said, bool) or not isinstance(said, int | float | str):
        return None
    try:
        return to_nm(float(said), "angstrom")
    except ValueError:
        return None


def _authors(said: Mapping[str, JsonValue]) -> list[str]:
    authors = said.get("authors")
    people = [one.get("author") for one in authors if isinstance(one, dict)] if isinstance(authors, list) else []
    return [name for one in people if isinstance(one, dict) and isinstance(name := one.get("name"), str)]


def _text(said: Mapping[str, JsonValue], name: str) -> str:
    value = said.get(name)
    return value if isinstance(value, str) else ""
