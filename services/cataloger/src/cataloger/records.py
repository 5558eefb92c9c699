"""From what is said and stored to what the catalog shows: pure functions, no database, no store."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cataloger.texts import licence_label, organism, search_text, title
from emporter_contracts.ids import record_uuid
from emporter_contracts.jobs import JobState, JobStatus
from emporter_contracts.plans import FetchPlan, PlannedVolume
from emporter_contracts.records import Core, Metadata, MetadataRecord, Provenance, Technical, exact

REMOVED = "removed"
"""Status of a row whose revision was taken out of the store. Its record says what was there."""
DERIVATION = 5
"""Raised whenever `columns` or `derived` makes other rows of the same record: those of an older one are made anew at start."""
MAX_COLUMN = 2**63 - 1
"""Largest value of a BIGINT."""
NAME_CHARACTERS = 500
"""Of a text that is looked up: an entry of PostgreSQL's indexes holds 2,700 bytes, and records may hold any text."""
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_BITS = re.compile(r"[0-9]+\Z")


def storable(value: Any) -> Any:
    """JSON that PostgreSQL takes: it refuses NUL and lone surrogates in text, and archives' metadata hold both."""
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {storable(str(k)): storable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [storable(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def document(record: MetadataRecord) -> dict[str, Any]:
    """A record as JSON."""
    body: dict[str, Any] = storable(record.model_dump(mode="json"))
    return body


def rank(revision: int, generation: int, state: str, version: int) -> tuple[int, int, bool, int]:
    """Newer states of a job compare greater: by (revision, generation, version), but an end beats all else of its run.

    A run that ended begins again only as another generation. A bus that was wiped counts versions from 1 again, and its word that
    a run ended must not be taken for older than what was heard before.
    """
    return (revision, generation, not JobState(state).running, version)


def rank_of(status: JobStatus) -> tuple[int, int, bool, int]:
    """`rank` of a state as it was said."""
    return rank(status.revision, status.generation, status.state, status.version)


def draft_state(state: JobState) -> JobState:
    """The state of a volume that is not committed: never `complete`, whatever its job says."""
    return JobState.SAVING if state == JobState.COMPLETE else state


def placeholder(job: str, source: str, source_id: str, run: tuple[int, int], at: datetime) -> JobStatus:
    """A state for a job of which something was heard before its own first state."""
    revision, generation = run
    return JobStatus(
        job=job,
        source=source,
        source_id=source_id,
        revision=revision,
        generation=generation,
        version=1,
        state=JobState.PENDING,
        created_at=at,
        updated_at=at,
    )


def stub(status: JobStatus, volume: str) -> MetadataRecord:
    """What is known of a volume before its plan: whose it is, and how its job stands."""
    return MetadataRecord(
        id=record_uuid(volume),
        volume=volume,
        revision=status.revision,
        source=status.source,
        source_id=status.source_id,
        status=draft_state(status.state),
        created_at=status.created_at,
        updated_at=status.updated_at,
    )


def planned(plan: FetchPlan, volume: PlannedVolume, status: JobStatus) -> MetadataRecord:
    """What the headers and the archive say of a volume, before its voxels are there."""
    objects = [plan.objects[i] for i in volume.objects]
    voxel_bytes = bytes_of(volume.dtype)
    size = exact(math.prod(volume.shape) * voxel_bytes) if voxel_bytes else None
    said: dict[str, Any] = {f"{plan.source}_metadata": plan.archive} if plan.archive else {}
    return MetadataRecord(
        id=record_uuid(volume.volume),
        volume=volume.volume,
        revision=plan.revision,
        source=plan.source,
        source_id=plan.source_id,
        status=draft_state(status.state),
        created_at=status.created_at,
        updated_at=max(status.updated_at, plan.planned_at),
        metadata=Metadata(
            core=Core(
                description=plan.description or volume.name,
                volume_shape=volume.shape,
                voxel_size_nm=volume.voxel_size.nm,
                data_type=volume.dtype,
                modality=plan.modality,
                role=volume.role,
                labels_of=volume.labels_of,
                source_origin=volume.source_origin,
            ),
            acquisition=volume.acquisition,
            technical=Technical(file_size_bytes=size),
            provenance=Provenance(download_url=plan.download_url, software=plan.software, voxel_size=volume.voxel_size),
        ),
        licence=plan.licence,
        citation=plan.citation,
        caveats=(*plan.caveats, *volume.caveats),
        files=tuple(o.path for o in objects),
        additional_metadata=said | ({"file_metadata": volume.said} if volume.said else {}),
    )


def moved(record: dict[str, Any], status: JobStatus) -> dict[str, Any]:
    """A draft after its job went on. A plan may have been heard before its job was: then only now is known when that began."""
    stub_of_now = document(stub(status, record["volume"]))
    return record | {name: stub_of_now[name] for name in ("status", "created_at", "updated_at")}


def bytes_of(dtype: str) -> int | None:
    """Bytes per voxel of a dtype by name (`uint16`, `float32`, `bool`), None where the name says none."""
    if dtype == "bool":
        return 1
    bits = _BITS.search(dtype)
    return int(bits.group()) // 8 if bits else None


@dataclass(frozen=True, slots=True)
class State:
    """Which states of a volume there are, without their records."""

    revision: int
    committed: bool
    removed: bool
    held: bool = False


def current(states: Sequence[State]) -> State:
    """The one a plain volume id shows: the newest commit neither removed nor held, else one that is held, else the draft of the
    newest run, else what was removed.
    """
    kept = [s for s in states if not s.removed]
    committed = [s for s in kept if s.committed]
    free = [s for s in committed if not s.held]
    return max(free or committed or kept or states, key=lambda s: s.revision)


def waiting(states: Sequence[State]) -> int | None:
    """The newest revision that is held and would be shown if it were released; None where none waits."""
    held = [s.revision for s in states if s.held and s.committed and not s.removed]
    return max(held) if held and max(held) >= current(states).revision else None


def columns(
    record: dict[str, Any], removed_at: datetime | None, annotations: Mapping[str, str], held_revision: int | None = None
) -> dict[str, Any]:
    """The typed columns and the summary of a record's row. Fields a foreign record lacks are taken as unknown."""
    known = MetadataRecord.model_validate(record)
    core, technical = known.metadata.core, known.metadata.technical
    return {
        **_measures(known),
        "revision": known.revision,
        "status": REMOVED if removed_at else str(known.status),
        "source": _name(known.source),
        "source_id": known.source_id,
        "modality": _name(core.modality),
        "role": core.role,
        "dtype": _name(core.data_type),
        "labels_of": _name(core.labels_of),
        "image": _name(core.labels_of.partition("@")[0]) if core.labels_of else None,
        "licence": _name(licence_label(known.licence)),
        "organism": organism(known),
        "caveats": sorted({c.code for c in known.caveats}),
        "bytes": _column(technical.file_size_bytes),
        "stored_bytes": _column(technical.stored_bytes),
        "verified": known.metadata.quality.verified,
        "verdict": known.metadata.quality.verdict,
        "held": held_revision is not None,
        "managed": known.managed,
        "title": title(known),
        "search": search_text(known, annotations),
        "created_at": known.created_at,
        "updated_at": removed_at or known.updated_at,
        "summary": {
            **summary(known, annotations, removed=removed_at is not None),
            "held": held_revision is not None,
            "held_revision": held_revision,
        },
        "derivation": DERIVATION,
    }


def _measures(record: MetadataRecord) -> dict[str, Any]:
    """Numbers by axis, and those of the voxels themselves; None where not known."""
    core, statistics = record.metadata.core, record.metadata.technical.statistics
    measures: dict[str, Any] = {"min_voxel_nm": finest(core.voxel_size_nm), "max_voxel_nm": coarsest(core.voxel_size_nm)}
    for n, axis in enumerate("zyx"):
        measures[f"shape_{axis}"] = _column(core.volume_shape[n]) if core.volume_shape else None
        measures[f"voxel_nm_{axis}"] = core.voxel_size_nm[n]
    for name in ("mean", "std", "zero_share", "saturated_share", "nan_share"):
        measures[name] = getattr(statistics, name) if statistics else None
    return measures


def summary(record: MetadataRecord, annotations: Mapping[str, str], *, removed: bool) -> dict[str, Any]:
    """The row of a list. Shape in voxels and voxel size in nm, both z, y, x."""
    core, technical = record.metadata.core, record.metadata.technical
    body: dict[str, Any] = record.model_dump(
        mode="json", include={"volume", "revision", "source", "source_id", "created_at", "updated_at"}
    )
    return body | {
        "status": REMOVED if removed else str(record.status),
        "removed": removed,
        "managed": record.managed,
        "description": core.description,
        "shape": core.volume_shape,
        "dtype": core.data_type,
        "voxel_size_nm": core.voxel_size_nm,
        "axes": core.axes,
        "modality": core.modality,
        "role": core.role,
        "labels_of": core.labels_of,
        "levels": len(technical.levels) or None,
        "bytes": technical.file_size_bytes,
        "stored_bytes": technical.stored_bytes,
        "sha256": technical.sha256,
        "licence": licence_label(record.licence),
        "citation": list(record.citation),
        "caveats": [c.code for c in record.caveats],
        "organism": organism(record),
        "verdict": record.metadata.quality.verdict,
        "annotations": dict(annotations),
    }


def coarsest(voxel_size_nm: tuple[float | None, float | None, float | None]) -> float | None:
    """The largest of the three, None where one is unknown."""
    sizes = [v for v in voxel_size_nm if v is not None]
    return max(sizes) if len(sizes) == len(voxel_size_nm) else None


def finest(voxel_size_nm: tuple[float | None, float | None, float | None]) -> float | None:
    """The smallest of the three, None where one is unknown."""
    sizes = [v for v in voxel_size_nm if v is not None]
    return min(sizes) if len(sizes) == len(voxel_size_nm) else None


def _name(text: str | None) -> str | None:
    """A text as an index takes it."""
    return None if text is None else text[:NAME_CHARACTERS]


def _column(size: int | str | None) -> int | None:
    """An exact integer as a BIGINT takes it, None where it is unknown or too large."""
    number = None if size is None else int(size)
    return number if number is not None and abs(number) <= MAX_COLUMN else None
