"""From the root of a remote array to its metadata: which documents to ask for, where nothing can be listed.

A root is asked for its documents by name, and what is there is followed from document to document.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from emporter_readers.chunked import n5, precomputed, zarr2, zarr3
from emporter_readers.chunked.images import dataset_paths, multiscales_of
from emporter_readers.chunked.tree import Document, under

MOST_SERIES = 1000
"""Images looked for below one root: a plate has a few hundred."""
MOST_LEVELS = 32
"""Of one pyramid: the coarsest would be one voxel of 2^31."""
ZARR_DOCUMENTS = (zarr3.NODE, zarr2.ATTRIBUTES, zarr2.ARRAY, zarr2.GROUP, zarr2.CONSOLIDATED)
KINDS = ("precomputed", "zarr", "zarr2", "zarr3", "n5")
"""What may stand before the URL of a root, as Neuroglancer writes it: `precomputed://https://…`."""
MARKS = frozenset({*ZARR_DOCUMENTS, n5.ATTRIBUTES, precomputed.INFO})

_IN_ARRAY = re.compile(r"\.(zarr|n5)(/|\Z)", re.IGNORECASE)
_FILE = re.compile(r"\.(zip|tar|tgz|gz|bz2|tiff?|dm[34]|mrc|h5|hdf5?|png|jpe?g)\Z", re.IGNORECASE)

Fetch = Callable[[str], Awaitable[bytes | None]]
"""A small object by its name below the root, None where there is none."""


def root_of(url: str) -> str | None:
    """The root of the array that `url` names, None where it looks like the URL of a file.

    Roots are known by a kind in front (`precomputed://https://…`), by a slash at their end, by naming one of the metadata
    documents, and by a folder `….zarr` or `….n5` on the way.
    """
    kind, _, rest = url.partition("://")
    if kind in KINDS and "://" in rest:
        return rest.rstrip("/")
    parts = urlsplit(url)
    folder, _, last = parts.path.rpartition("/")
    if last in MARKS:
        return urlunsplit(parts._replace(path=folder, fragment=""))
    if not last or (_IN_ARRAY.search(parts.path) and not _FILE.search(last)):
        return urlunsplit(parts._replace(path=parts.path.rstrip("/"), fragment=""))
    return None


async def followed_documents(fetch: Fetch, *, level: int | None = 0) -> dict[str, bytes]:
    """Bodies by name of all metadata that the level asked for (None: every level) needs, of every image; empty where there is no
    array.
    """
    return await _Following(fetch, level).documents()


class _Following:
    def __init__(self, fetch: Fetch, level: int | None) -> None:
        self._fetch = fetch
        self._level = level
        self._bodies: dict[str, bytes] = {}

    async def documents(self) -> dict[str, bytes]:
        await self._get([*ZARR_DOCUMENTS, n5.ATTRIBUTES, precomputed.INFO])
        if any(name in self._bodies for name in ZARR_DOCUMENTS):
            await self._zarr("")
        elif precomputed.INFO not in self._bodies and not n5.is_dataset(self._said(n5.ATTRIBUTES)):
            await self._n5()
        return self._bodies

    async def _zarr(self, folder: str) -> None:
        attributes = self._said(under(folder, zarr2.ATTRIBUTES)) or _part(self._said(under(folder, zarr3.NODE)), "attributes")
        known = self._consolidated(folder)
        wanted = []
        for multiscale in multiscales_of(attributes):
            paths = dataset_paths(folder, multiscale)
            wanted += paths if self._level is None else paths[self._level : self._level + 1]
        if "bioformats2raw.layout" in {*attributes, *_part(attributes, "ome")}:
            await self._all_series(folder)
        names = (zarr3.NODE,) if under(folder, zarr3.NODE) in self._bodies else (zarr2.ARRAY, zarr2.ATTRIBUTES)
        await self._get([under(path, name) for path in wanted if path not in known for name in names])

    async def _all_series(self, folder: str) -> None:
        """Images named 0, 1, … until there is none."""
        for number in range(MOST_SERIES):
            inside = under(folder, str(number))
            await self._get([under(inside, name) for name in ZARR_DOCUMENTS])
            if not any(under(inside, name) in self._bodies for name in ZARR_DOCUMENTS):
                return
            await self._zarr(inside)

    async def _n5(self) -> None:
        """Levels named s0, s1, …, or by multiscales."""
        named = [path for one in multiscales_of(self._said(n5.ATTRIBUTES)) for path in dataset_paths("", one)]
        if self._level is None and not named:
            await self._n5_until_none()
            return
        levels = named if self._level is None else named[: self._level + 1] or [f"s{k}" for k in range(self._level + 1)]
        await self._get([under(path, n5.ATTRIBUTES) for path in levels])

    async def _n5_until_none(self) -> None:
        for k in range(MOST_LEVELS):
            name = under(f"s{k}", n5.ATTRIBUTES)
            await self._get([name])
            if name not in self._bodies:
                return

    async def _get(self, names: list[str]) -> None:
        bodies = await asyncio.gather(*(self._fetch(name) for name in names))
        # A server that answers every name with a page has none of them.
        self._bodies.update((name, body) for name, body in zip(names, bodies, strict=True) if body and _is_object(body))

    def _consolidated(self, folder: str) -> set[str]:
        """Folders whose metadata a document of `folder` holds already."""
        older = _part(self._said(under(folder, zarr2.CONSOLIDATED)), "metadata")
        newer = _part(_part(self._said(under(folder, zarr3.NODE)), "consolidated_metadata"), "metadata")
        return {under(folder, path.rpartition("/")[0]) for path in older if path.endswith(zarr2.ARRAY)} | {
            under(folder, path) for path in newer
        }

    def _said(self, name: str) -> Document:
        body = self._bodies.get(name)
        said = json.loads(body) if body is not None else {}
        return said if isinstance(said, dict) else {}


def _part(document: Document, key: str) -> Document:
    part: Any = document.get(key)
    return part if isinstance(part, dict) else {}


def _is_object(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body), dict)
    except (ValueError, RecursionError):
        return False
