"""What lies in a folder of an archive: index pages as web servers write them, and names that may be trusted."""

from __future__ import annotations

import html
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote, urljoin, urlsplit

from fetcher.errors import ArchiveMisbehavesError

MAX_PAGE_BYTES = 32 * 2**20
"""Of one index page: a hundred thousand names."""
MAX_ENTRIES = 100_000
"""Names of one folder, and files of one tree."""
MAX_DEPTH = 8
"""Folders below the one that is listed."""
MAX_FOLDERS = 1000

# An attribute's value may hold no < or >, which a name in a link never does: so every attempt ends at the next one.
_HREF = re.compile(r"""<a\s(?:[^<>]{0,2000}?\s)?href\s{0,9}=\s{0,9}(?:"([^"<>]*)"|'([^'<>]*)'|([^\s"'<>]+))""", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a folder, as it is, not as a URL writes it."""

    name: str
    folder: bool


@dataclass(frozen=True, slots=True)
class Tree:
    """Files below a folder by their paths, and what was passed over with the reason."""

    files: tuple[str, ...]
    skipped: dict[str, str]


def is_plain_name(name: str) -> bool:
    """Whether a name is one step of a path, nothing that leads elsewhere."""
    return bool(name) and name not in (".", "..") and "/" not in name and "\\" not in name and name.isprintable()


def index_entries(url: str, page: bytes) -> list[Entry]:
    """The names an index page of the folder `url` (with its slash) links to.

    Only links one step below the folder count: `../`, the links that sort a column (`?C=N;O=D`), absolute ones to a parent or to
    another server are how the page is furnished, not what lies in the folder.
    """
    here = urlsplit(url)
    folder = unquote(here.path)
    found: dict[str, Entry] = {}
    for link in _links(page.decode("utf-8", "replace")):
        entry = _entry(url, folder, here.netloc, link)
        if entry is not None:
            found.setdefault(entry.name, entry)
    if len(found) > MAX_ENTRIES:
        raise ArchiveMisbehavesError(f"{url}: more than {MAX_ENTRIES} names in a folder")
    return list(found.values())


async def walk(list_folder: Callable[[str], Awaitable[list[Entry]]], skip: Callable[[str, bool], str | None]) -> Tree:
    """Every file below a folder. `list_folder` takes a path from it (empty: itself); `skip` says why a path (and whether it is a
    folder) is passed over, and what it skips is never opened. Depth and number are bounded.
    """
    files: list[str] = []
    skipped: dict[str, str] = {}
    waiting, listed = [""], 0
    while waiting:
        at = waiting.pop()
        listed += 1
        if listed > MAX_FOLDERS or at.count("/") >= MAX_DEPTH:
            raise ArchiveMisbehavesError(
                f"{at or 'the folder'}: the tree is deeper than {MAX_DEPTH} or has over {MAX_FOLDERS} folders"
            )
        for entry in await list_folder(at):
            path = f"{at}/{entry.name}" if at else entry.name
            reason = skip(path, entry.folder)
            if reason is not None:
                skipped[f"{path}/" if entry.folder else path] = reason
            elif entry.folder:
                waiting.append(path)
            else:
                files.append(path)
        if len(files) > MAX_ENTRIES:
            raise ArchiveMisbehavesError(f"more than {MAX_ENTRIES} files in a tree")
    return Tree(tuple(files), skipped)


def _entry(url: str, folder: str, server: str, link: str) -> Entry | None:
    try:
        there = urlsplit(urljoin(url, link))
        path = unquote(there.path, errors="strict")
    except ValueError:
        return None
    if there.query or there.fragment or there.netloc != server or not path.startswith(folder):
        return None
    name = path[len(folder) :]
    plain = name.removesuffix("/")
    return Entry(plain, folder=name.endswith("/")) if is_plain_name(plain) else None


def _links(page: str) -> Iterator[str]:
    """The targets of every `<a href>` outside comments. In one pass whatever the page: html.parser takes the square of its length
    for some pages of nothing but openings.
    """
    start = 0
    while start < len(page):
        comment = page.find("<!--", start)
        stop = comment if comment >= 0 else len(page)
        for match in _HREF.finditer(page, start, stop):
            yield html.unescape(next(value for value in match.groups() if value is not None)).strip()
        end = page.find("-->", stop)
        if end < 0:
            return
        start = end
