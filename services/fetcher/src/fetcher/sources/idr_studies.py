"""What is known of IDR's studies: from the map annotations IDR shows with them, and a small table where those are not had."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from emporter_contracts.plans import Caveat, Licence
from fetcher.sources.omero import Pairs

REPOSITORY = (
    "E. Williams, J. Moore, S. W. Li et al.: Image Data Resource: a bioimage data integration and publication platform. "
    "Nature Methods 14, 775-781, 2017. doi:10.1038/nmeth.4326"
)
STUDY_FILE = "the study's own metadata file, as IDR published it"
UNSTATED = Licence(text="IDR did not say under which licence this study is", known=False)

_STUDY = re.compile(r"idr\d{4}")
_CC = re.compile(r"\bCC[ -]?(BY(?:-NC)?(?:-SA|-ND)?|0)(?:[ -](\d\.\d))?\b", re.IGNORECASE)
_URL = re.compile(r"https?://\S+")


@dataclass(frozen=True, slots=True)
class Study:
    """Terms, papers and warnings of one study."""

    licence: Licence = UNSTATED
    citation: tuple[str, ...] = ()
    modality: str = "unknown"
    caveats: tuple[Caveat, ...] = ()
    said_by: str = ""

    def said(self) -> dict[str, JsonValue]:
        """For the record."""
        return {"citation": list(self.citation), "modality": self.modality, "said_by": self.said_by}


MIRON = (
    "E. Miron, R. Oldenkamp, J. M. Brown et al.: Chromatin arranges in chains of mesoscale domains with nanoscale functional "
    "topography independent of cohesin. Science Advances, 2020. doi:10.1126/sciadv.aba8811, PMID 32967822"
)
KNOWN: Mapping[str, Study] = {
    "idr0086": Study(
        licence=Licence(spdx="CC-BY-4.0", url="https://creativecommons.org/licenses/by/4.0/", known=True),
        citation=(
            MIRON,
            "data: doi:10.17867/10000141d",
        ),
        modality="FIB-SEM",
        said_by=STUDY_FILE,
    ),
}
"""By study. The modality is of the study's electron microscopy (experiment D)."""
RESAMPLED: Mapping[str, str] = {
    "Figure_S3B_FIB-SEM_U2OS_20x20x20nm": "the study says that voxels were rescaled along the milling axis (125 % for U2OS) "
    "to be isotropic; they were acquired at 8 nm along x and y",
}
"""By the beginning of a file's name."""


def study_of(text: str) -> str | None:
    """`idr0086` of a path or a project's name."""
    match = _STUDY.search(text)
    return match[0] if match else None


def described(study: str | None, pairs: Pairs, path: str) -> Study:
    """What the study's annotations say, and the table where they are silent. `path` is of one of its files."""
    known = KNOWN.get(study or "", Study())
    if study == "idr0086" and "experimentD" not in path:
        known = Study(known.licence, known.citation[:1], said_by=known.said_by)
    said = {key.lower(): value for key, value in reversed(pairs)}
    licence = licence_of(said["license"]) if said.get("license") else known.licence
    citation = _papers(said) or known.citation
    modality = said.get("imaging method", "") or known.modality
    evidence = next((why for start, why in RESAMPLED.items() if path.rsplit("/", 1)[-1].startswith(start)), None)
    caveats = (Caveat(code="resampled", evidence=evidence),) if evidence else ()
    by = "the study's annotations" if said else known.said_by
    return Study(licence, citation, modality, caveats, by)


def licence_of(text: str) -> Licence:
    """`CC BY 4.0 https://…` as IDR writes it; any other text is kept as it stands."""
    match, url = _CC.search(text), _URL.search(text)
    if match is None:
        return Licence(text=text, url=url[0] if url else None, known=True)
    kind, number = match[1].upper(), match[2] or ("1.0" if match[1] == "0" else None)
    spdx = f"CC{kind}-{number}" if kind == "0" else f"CC-{kind}-{number}"
    return Licence(spdx=spdx if number else None, url=url[0] if url else None, text=text, known=True)


def _papers(said: Mapping[str, str]) -> tuple[str, ...]:
    title, doi = said.get("publication title"), said.get("publication doi")
    if not title and not doi:
        return ()
    parts = [said.get("publication authors", ""), title or ""]
    paper = ": ".join(filter(None, parts))
    marks = [f"doi:{_bare(doi)}" if doi else "", f"PMID {said['pubmed id']}" if said.get("pubmed id") else ""]
    data = said.get("data doi")
    return (". ".join(filter(None, [paper, ", ".join(filter(None, marks))])), *([f"data: doi:{_bare(data)}"] if data else []))


def _bare(doi: str) -> str:
    """Without the address of the resolver, and without a second copy of itself that IDR puts behind it."""
    return doi.split(maxsplit=1)[0].removeprefix("https://doi.org/").removeprefix("http://dx.doi.org/")
