"""How to cite volumes: the dataset, and every publication its archive names; as BibTeX and as CSL-JSON (citationstyles.org).

Nothing is made up: what an archive gives is one line of text, so a publication's entry holds that line and the DOI found in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Literal

from emporter_contracts.ids import short_hash

Format = Literal["bibtex", "csl"]
MEDIA_TYPES: dict[Format, str] = {
    "bibtex": "application/x-bibtex; charset=utf-8",
    "csl": "application/vnd.citationstyles.csl+json",
}
_DOI = re.compile(r"\b10\.[0-9]{4,9}/[^\s\"'<>{}\\]+")
_YEAR = re.compile(r"\b(?:19|20)[0-9]{2}\b")
_ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip
Item = dict[str, Any]


def items(records: Iterable[Item]) -> list[Item]:
    """CSL items: each volume's dataset, then each publication once."""
    datasets: list[Item] = []
    publications: dict[str, Item] = {}
    for record in records:
        datasets.append(_dataset(record))
        for line in record.get("citation") or ():
            text = " ".join(line.split())
            publications.setdefault(text, _publication(text))
    return [*datasets, *publications.values()]


def merged(entries: Iterable[Item]) -> list[Item]:
    """Items of several calls: each once, data sets first, otherwise in their order."""
    once = {entry["id"]: entry for entry in entries}
    return sorted(once.values(), key=lambda entry: entry["type"] != "dataset")


def written(entries: list[Item], form: Format) -> str:
    """The items in a format."""
    if form == "csl":
        return json.dumps(entries, indent=1, ensure_ascii=False) + "\n"
    return "\n".join(_bibtex(entry) for entry in entries)


def doi_in(text: str) -> str | None:
    """The DOI a text holds, without the punctuation around it."""
    found = _DOI.search(text)
    return found.group().rstrip(".,;:)]") if found else None


def _dataset(record: Item) -> Item:
    core, provenance = record["metadata"]["core"], record["metadata"]["provenance"]
    title = core["description"].split("\n", 1)[0].strip() or record["volume"]
    item = {
        "id": f"{record['volume']}-r{record['revision']}",
        "type": "dataset",
        "title": title,
        "publisher": record["source"],
        "number": record["source_id"],
        "version": f"r{record['revision']}",
        "URL": provenance["download_url"],
        "DOI": doi_in(f"{record['source_id']} {provenance['download_url']}"),
        "note": _note(record),
    }
    return {name: value for name, value in item.items() if value}


def _publication(text: str) -> Item:
    year = _YEAR.search(_DOI.sub("", text))
    item: Item = {"id": f"publication-{short_hash(text)}", "type": "article-journal", "title": text, "DOI": doi_in(text)}
    if year:
        item["issued"] = {"date-parts": [[int(year.group())]]}
    return {name: value for name, value in item.items() if value}


def _note(record: Item) -> str:
    licence, sha256 = record["licence"], record["metadata"]["technical"]["sha256"]
    terms = licence["spdx"] or licence["url"] or "licence unknown"
    return f"{terms}; sha256 {sha256}" if sha256 else str(terms)


def _bibtex(entry: Item) -> str:
    kind = "misc" if entry["type"] == "dataset" else "article"
    issued = entry.get("issued", {}).get("date-parts", [[None]])[0][0]
    fields = {
        "title": entry["title"],
        "publisher": entry.get("publisher"),
        "number": entry.get("number"),
        "version": entry.get("version"),
        "year": issued,
        "note": entry.get("note"),
    }
    lines = [f"  {name} = {{{_escaped(str(value))}}}" for name, value in fields.items() if value]
    # Addresses are given as they are: BibTeX's url and doi fields are verbatim, only braces would break out.
    verbatim = {"doi": entry.get("DOI"), "url": entry.get("URL")}
    lines += [f"  {name} = {{{re.sub(r'[{}]', '', value)}}}" for name, value in verbatim.items() if value]
    return f"@{kind}{{{entry['id']},\n" + ",\n".join(lines) + "\n}\n"


def _escaped(text: str) -> str:
    return "".join(_ESCAPES.get(character, character) for character in " ".join(text.split()))
