"""What the words after `emporter ingest` mean: an archive and an id, a URL, or files."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emporter.errors import MistakeError
from emporter_contracts.topology import SOURCES

DEFAULT_ENTRIES = {"hemibrain": "em"}
"""What an archive means by itself, where it is one thing above all."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be ingested; `source_id` is empty where files must be uploaded first, and `paths` says which."""

    source: str
    source_id: str = ""
    paths: tuple[Path, ...] = ()


def target_of(words: Sequence[str]) -> Target:
    """Raises MistakeError in one line that says what to write instead."""
    first = words[0]
    if first.startswith(("http://", "https://")):
        if len(words) > 1:
            raise MistakeError("one URL at a time", hint="call emporter ingest once for each")
        return Target("url", first)
    if len(words) == 1:
        return _one_word(first)
    if len(words) == 2 and first in SOURCES and not Path(first).exists():
        return Target(first, words[1])
    return _files(words)


def _one_word(word: str) -> Target:
    source, colon, source_id = word.partition(":")
    if Path(word).exists():
        return Target("inbox", paths=(Path(word),))
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
