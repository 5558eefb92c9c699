"""From the record of a revision to the rows about it: what it came from, and what the quality gates found in it.

Pure, and the one place that derives them: live writes, a rebuild and an upgrade all make the same rows.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import TypeAdapter

from emporter_contracts.errors import InvalidValueError
from emporter_contracts.ids import VolumeRef
from emporter_contracts.records import GateResult, Quality
from emporter_contracts.revisions import Correction

MADE, CORRECTED_AS, LABELLED_BY = "made", "corrected_as", "labelled_by"
"""Kinds of edges. The fourth, `read_by`, is a row of `raw_objects`."""
LONGEST = 100
"""Characters of a gate's name. A record from outside may hold any, and no index entry may be longer than 2,700 bytes."""
WORST = ("pass", "warn", "fail")

_TIME = TypeAdapter(datetime)
Row = dict[str, Any]


def edges_of(job: str, record: dict[str, Any], *, external: bool) -> list[Row]:
    """The edges that end at a revision: from its run or from what it corrects, and from the image it labels."""
    metadata = record.get("metadata", {})
    end = {"volume": record["volume"], "revision": record["revision"]}
    edges = []
    image = _volume(metadata.get("core", {}).get("labels_of"))
    if image is not None:
        edges.append({**end, "kind": LABELLED_BY, "start": image.volume, "start_revision": image.revision})
    if external:
        return edges
    corrections = metadata.get("provenance", {}).get("corrections") or ()
    if corrections:
        revises = Correction.model_validate(corrections[-1]).revises
        return [*edges, {**end, "kind": CORRECTED_AS, "start": record["volume"], "start_revision": revises}]
    return [*edges, {**end, "kind": MADE, "start": job, "start_revision": record["revision"]}]


def results_of(record: dict[str, Any]) -> list[Row]:
    """What every gate said; the worst, where a record from outside holds one twice."""
    quality = Quality.model_validate(record.get("metadata", {}).get("quality") or {})
    results: dict[str, GateResult] = {}
    for result in sorted(quality.gates, key=lambda found: WORST.index(found.verdict)):
        if len(result.gate) <= LONGEST:
            results[result.gate] = result
    at = _TIME.validate_python(record["updated_at"]) if results else None
    about = {"volume": record["volume"], "revision": record["revision"], "at": at}
    return [{**about, **_said(result)} for result in results.values()]


def _said(result: GateResult) -> Row:
    """A result as a row has it. What explains a pass is left to the record: most rows are passes."""
    said = {**result.model_dump(), "slices": list(result.slices)}
    return {**said, "slices": [], "evidence": ""} if result.verdict == "pass" else said


def _volume(name: Any) -> VolumeRef | None:
    """What `labels_of` names, None where it is no volume's name."""
    try:
        return VolumeRef.parse(name) if name else None
    except InvalidValueError:
        return None
