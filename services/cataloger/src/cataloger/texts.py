"""What a volume can be found by: the words that name it, and every text that is said of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from emporter_contracts.plans import Licence
from emporter_contracts.records import MetadataRecord

SEARCH_CHARACTERS = 16_384
"""Of one volume's searchable text: all an archive's description needs, well under what one full-text document may hold."""
TITLE_CHARACTERS = 1024
MAX_DEPTH = 32
"""Of nested metadata that is looked into; what is deeper is no description."""
ORGANISM_KEYS = frozenset(
    {"organism", "organisms", "species", "scientific_name", "scientificname", "organism_name", "organism (ncbi taxonomy)"}
)
"""How archives name the field that says what the sample was taken from, in lower case."""
NAMED_BY = ("name", "value", "ncbi_name", "scientific_name", "label")
"""Where the text lies in an organism that is an object."""


def title(record: MetadataRecord) -> str:
    """What names a volume, in lower case: a search finds these words first."""
    core = record.metadata.core
    named = [record.volume, record.source_id, core.description.split("\n", 1)[0], organism(record) or "", core.modality]
    return "\n".join(named).lower()[:TITLE_CHARACTERS]


def search_text(record: MetadataRecord, annotations: Mapping[str, str]) -> str:
    """All a user may look for, in lower case: names, description, annotations, and every text the archive said."""
    core = record.metadata.core
    own = [record.volume, record.source, record.source_id, core.description, core.modality, core.data_type or "", core.role]
    named = [*own, licence_label(record.licence) or "", *record.citation, *(c.code for c in record.caveats)]
    tags = [part for pair in annotations.items() for part in pair]
    return "\n".join([*named, *tags, *_texts(record.additional_metadata)]).lower()[:SEARCH_CHARACTERS]


def licence_label(licence: Licence) -> str | None:
    """The licence in one line, None where nobody says it."""
    if not licence.known:
        return None
    return licence.spdx or licence.url or (licence.text or "").strip().split("\n", 1)[0][:200] or None


def organism(record: MetadataRecord) -> str | None:
    """What the archive says the sample was taken from, None where it does not say."""
    found = next(_organisms(record.additional_metadata), None)
    return found[:200] if found else None


def _organisms(value: Any, depth: int = 0) -> Iterator[str]:
    """Every text under a key that names an organism, also in lists of {"key", "value"} and [key, value] pairs."""
    if depth > MAX_DEPTH:
        return
    if isinstance(value, dict):
        if str(value.get("key", "")).lower() in ORGANISM_KEYS:
            yield from _names(value.get("value"))
        for key, item in value.items():
            if key.lower() in ORGANISM_KEYS:
                yield from _names(item)
            elif isinstance(item, dict | list):
                yield from _organisms(item, depth + 1)
    elif isinstance(value, list):
        if len(value) == 2 and isinstance(value[0], str) and value[0].lower() in ORGANISM_KEYS:
            yield from _names(value[1])
        for item in value:
            yield from _organisms(item, depth + 1)


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, str) and value.strip():
        yield " ".join(value.split())
    elif isinstance(value, list):
        for item in value:
            yield from _names(item)
    elif isinstance(value, dict):
        yield from _names(next((value[k] for k in NAMED_BY if k in value), None))


def _texts(value: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif depth < MAX_DEPTH and isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item, depth + 1)
