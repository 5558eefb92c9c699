"""Real replies of the archives as records of a catalog, and what is looked for in them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cataloger.testing_builders import a_record
from emporter_contracts.records import MetadataRecord

EMPIAR = "empiar-EMPIAR-11759"
CRYO = "empiar-EMPIAR-10934"
CHROMATIN = "idr-idr0086"
PLATE = "idr-9762957"
ACCUMBENS = "openorganelle-jrc_mus-nacc-2"
HEMIBRAIN = "hemibrain-grayscale"

LOOKED_FOR: tuple[tuple[str, str], ...] = (
    ("zebrafish retina", EMPIAR),
    ("retinas of a larval eye", EMPIAR),
    ("Wilsch-Bräuninger", EMPIAR),
    ("10.6019/EMPIAR-11759", EMPIAR),
    ("pol kappa pcna", CRYO),
    ("ubiquitylated", CRYO),
    ("chromatin mesoscale domains", CHROMATIN),
    ("cohesin schermelleh", CHROMATIN),
    ("10.1126/sciadv.aba8811", CHROMATIN),
    ("gamma-tubulin centrosome", PLATE),
    ("mus-nacc", ACCUMBENS),
    ("dvid grayscale lz4", HEMIBRAIN),
)
"""Words somebody would type, and the volume that must come first."""


def records(folder: Path) -> Iterator[MetadataRecord]:
    """One record for each reply below `folder`: what the archive said is kept verbatim, its title is the description."""
    entry = _json(folder / "empiar" / "api_entry_EMPIAR-11759.json")["EMPIAR-11759"]
    yield _record(EMPIAR, entry["title"], entry)
    header = (folder / "empiar" / "entry_10934_header.xml").read_text()
    title = header.partition("<title>")[2].partition("</title>")[0]
    yield _record(CRYO, title, {"entry": header})
    study = _study((folder / "idr" / "idr0086-study.txt").read_text())
    yield _record(CHROMATIN, str(dict(study)["Study Title"]), study)
    image = _json(folder / "idr" / "imgData_9762957.json")
    yield _record(PLATE, image["meta"]["imageName"], image)
    array = _json(folder / "openorganelle" / "jrc_mus-nacc-2_recon-2_em_fibsem-int16_group_and_arrays.json")
    yield _record(ACCUMBENS, "jrc_mus-nacc-2 recon-2 fibsem-int16", array)
    yield _record(HEMIBRAIN, "hemibrain grayscale", _json(folder / "hemibrain" / "dvid_grayscale_info.json"))


def _record(volume: str, title: str, said: Any) -> MetadataRecord:
    source = volume.split("-", 1)[0]
    return a_record(volume, description=title).model_copy(update={"additional_metadata": {f"{source}_metadata": said}})


def _json(path: Path) -> Any:
    return json.loads(path.read_text())


def _study(text: str) -> list[list[str]]:
    """Its lines as key and value, as IDR's annotations have them."""
    lines = (line.split("\t") for line in text.splitlines() if "\t" in line and not line.startswith("#"))
    return [[line[0], " ".join(part for part in line[1:] if part)] for line in lines]
