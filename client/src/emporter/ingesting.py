"""What the words after `emporter ingest` mean: entries of an archive, a link to one, a URL, or files."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue

from emporter.errors import MistakeError
from emporter.links import entry_of
from emporter_contracts.ids import is_volume_id
from emporter_contracts.registrations import PREFIX
from emporter_contracts.topology import SOURCES

DEFAULT_ENTRIES = {"hemibrain": "em"}
"""What an archive means by itself, where it is one thing above all."""
REGISTERED = "registered"
"""Stands as source where a volume that is read where it lies is to be copied in."""
SCHEMES = ("http://", "https://", "ftp://", "s3://", "gs://", "precomputed://", "zarr://", "zarr2://", "zarr3://", "n5://")
"""What a URL begins with, on the command line and in a file of requests."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be ingested; `source_id` is empty where files must be uploaded first, and `paths` says which."""

    source: str
    source_id: str = ""
    paths: tuple[Path, ...] = ()
    parameters: Mapping[str, JsonValue] = field(default_factory=dict)
    """What a link said besides, such as one of the arrays of an entry."""


def targets_of(words: Sequence[str]) -> list[Target]:
    """One target, or one for each id after the name of an archive. Raises MistakeError in one line that says what to write."""
    first = words[0]
    if len(words) > 2 and first in SOURCES and not any(Path(word).exists() for word in words):
        return [Target(first, word) for word in words[1:]]
    return [target_of(words)]


def target_of(words: Sequence[str]) -> Target:
    """Raises MistakeError in one line that says what to write instead."""
    first = words[0]
    if first.startswith(SCHEMES):
        if len(words) > 1:
            raise MistakeError("one URL at a time", hint="call emporter ingest once for each, or list them in a file: -f")
        return linked(first)
    if len(words) == 1:
        return _one_word(first)
    if len(words) == 2 and first in SOURCES and not Path(first).exists():
        return Target(first, words[1])
    return _files(words)


def linked(link: str) -> Target:
    """What a URL is about: an entry of an archive whose page, viewer or bucket it names, else itself. Raises MistakeError."""
    entry = entry_of(link)
    if entry is None:
        return Target("url", link)
    return Target(entry.source, entry.source_id, parameters=entry.parameters)


def _one_word(word: str) -> Target:
    source, colon, source_id = word.partition(":")
    if Path(word).exists():
        return Target("inbox", paths=(Path(word),))
    if word.startswith(PREFIX) and is_volume_id(word.partition("@")[0]):
        return Target(REGISTERED, word)
    if colon and source in SOURCES and source_id:
        return Target(source, source_id)
    if word in DEFAULT_ENTRIES:
        return Target(word, DEFAULT_ENTRIES[word])
    if word in SOURCES:
        raise MistakeError(f"{word} is an archive: which of its entries?", hint=f"emporter ingest {word} ID")
    return _files([word])


def _files(words: Sequence[str]) -> Target:
    paths = tuple(Path(word).expanduser() for word in words)
    missing = [path for path in paths if not path.exists()]
    if not missing:
        return Target("inbox", paths=paths)
    if len(words) == 2 and missing == list(paths):
        raise MistakeError(f"there is no archive {words[0]!r}", hint=_archives(words[0]))
    raise MistakeError(
        f"there is no file {missing[0]}", hint=f"{_archives(str(missing[0]))}; a URL begins with http:// or https://"
    )


def _archives(word: str) -> str:
    close = difflib.get_close_matches(word, SOURCES, n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    return f"{meant}archives are {', '.join(sorted(SOURCES))}"
