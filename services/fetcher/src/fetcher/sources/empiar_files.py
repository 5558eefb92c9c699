"""Which of an entry's files are images, and which of them make one volume."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from emporter_readers.ordering import natural_order

IMAGES = frozenset({
    ".dm3", ".dm4", ".mrc", ".mrcs", ".rec", ".st", ".map", ".ali", ".tif", ".tiff", ".png", ".jpg", ".jpeg",
    ".h5", ".hdf5", ".hdf",
})  # fmt: skip
"""Endings of what a reader here may read."""
VOLUMES = frozenset({".mrc", ".mrcs", ".rec", ".st", ".map", ".ali", ".h5", ".hdf5", ".hdf"})
"""Of these each file is a volume of its own; the others may be slices."""
PACKED = frozenset({".gz", ".bz2"})
"""Endings behind that of a volume: `emd_1.map.gz` is unpacked on the way. A slice is not, for it would be read twice."""

_JUNK_FOLDERS = re.compile(r"trakem2\.|.*mipmap|__macosx\Z|thumb|\.|@eadir\Z|lost\+found\Z", re.IGNORECASE)
_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Group:
    """Files that belong together, in slice order."""

    paths: tuple[str, ...]

    @property
    def name(self) -> str:
        """What tells it from other groups: its folder, and its names up to where they begin to differ."""
        pure = PurePosixPath(self.paths[0])
        stems = [PurePosixPath(path).stem for path in self.paths]
        common = os.path.commonprefix(stems)  # noqa: RUF071  # by characters is what is meant
        stem = common if len(stems) == 1 else common.rstrip("0123456789")
        return "-".join(filter(None, (*pure.parent.parts, stem.strip("_- ."))))


def reason_to_skip(path: str, folder: bool) -> str | None:
    """Why a file or folder is no image data; None where it may be."""
    pure = PurePosixPath(path)
    if folder:
        return "a folder of pictures made by a program" if _JUNK_FOLDERS.match(pure.name) else None
    if pure.name.startswith("."):
        return "hidden"
    if pure.suffix.lower() in PACKED and PurePosixPath(pure.stem).suffix.lower() in IMAGES - VOLUMES:
        return "a compressed slice: unpack all of them and ingest the files"
    return None if ending(path) in IMAGES else "no image of a format that is read here"


def ending(path: str) -> str:
    """What a file is by its name, `.map` also where it is compressed; in lower case."""
    pure = PurePosixPath(path)
    inner = PurePosixPath(pure.stem).suffix.lower()
    return inner if pure.suffix.lower() in PACKED and inner in VOLUMES else pure.suffix.lower()


def of_format(paths: Iterable[str], suffixes: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those with one of these endings, and the others."""
    kept: list[str] = []
    others: list[str] = []
    for path in paths:
        (kept if ending(path) in suffixes else others).append(path)
    return kept, others


def grouped(paths: Iterable[str]) -> list[Group]:
    """Slices by folder and pattern of names, everything else by itself; in natural order."""
    patterns: dict[tuple[str, str], list[str]] = {}
    for path in natural_order(list(paths)):
        pure = PurePosixPath(path)
        alone = ending(path) in VOLUMES
        patterns.setdefault((str(pure.parent), path if alone else _DIGITS.sub("0", pure.name)), []).append(path)
    return [Group(tuple(group)) for same in patterns.values() for group in _series(same)]


def _series(paths: list[str]) -> list[list[str]]:
    """Files whose names differ in numbers only, cut into series: the last number that differs counts the slices, those before it
    (`grid1_slice0001`) tell one series from another, unless every file has one of its own (`slice0001_20180611-2227`).
    """
    numbers = [_DIGITS.findall(PurePosixPath(path).name) for path in paths]
    differing = [n for n, column in enumerate(zip(*numbers, strict=True)) if len({int(text) for text in column}) > 1]
    series: dict[tuple[str, ...], list[str]] = {}
    for path, found in zip(paths, numbers, strict=True):
        series.setdefault(tuple(found[n] for n in differing[:-1]), []).append(path)
    return [paths] if len(series) == len(paths) else list(series.values())
