"""Metadata files of the tools before this project, as one catalog: version 2.0 and older (`local_paths`, `error: …`).

Every file is read, converted, validated and reported; none is changed. What has no place in a record stays verbatim under
`additional_metadata`. What a file does not say clearly (the axis order of an old voxel size) stays unknown.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from cataloger.records import document
from cataloger.validation import problems, schema_id
from emporter_contracts.ids import is_volume_id, record_uuid, slug
from emporter_contracts.jobs import JobState
from emporter_contracts.records import MetadataRecord, json_safe

MADE_HERE = ("metadata_catalog_", "validation_report_")
"""How the names of our own files begin; they are not read again."""
FILE_BYTES = 50 * 2**20
STATES = {str(state): state for state in JobState} | {"completed": JobState.COMPLETE, "done": JobState.COMPLETE}
Document = dict[str, Any]


@dataclass(slots=True)
class Consolidated:
    """What was found: records by file, what is wrong with which file, and why others were left out."""

    records: list[Document] = field(default_factory=list)
    invalid: list[Document] = field(default_factory=list)
    skipped: list[Document] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    def refuse(self, file: str, problems: list[str]) -> None:
        """A file that should be a record and is none."""
        self.invalid.append({"file": file, "problems": problems})
        self.note(file, f"invalid: {'; '.join(problems)}")

    def skip(self, file: str, reason: str) -> None:
        """A file that was left out."""
        self.skipped.append({"file": file, "reason": reason})
        self.note(file, f"skipped: {reason}")

    def note(self, file: str, what: str) -> None:
        self.log.append(f"{datetime.now(UTC).isoformat(timespec='seconds')} {file}: {what}")


def consolidate(folder: Path, *, legacy: bool) -> Consolidated:
    """Read every metadata file below `folder`; older than 2.0 only with `legacy`. Of a volume in two files the newest counts."""
    found = Consolidated()
    newest: dict[str, Document] = {}
    for path in sorted(folder.rglob("*.json")):
        name = path.relative_to(folder).as_posix()
        if path.name.startswith(MADE_HERE):
            continue
        record = _read(path, name, found, legacy=legacy)
        if record is None:
            continue
        before = newest.get(record["volume"])
        if before is not None:
            found.note(name, f"{record['volume']} is in more than one file; the newest counts")
        if before is None or before["updated_at"] <= record["updated_at"]:
            newest[record["volume"]] = record
    found.records = [newest[volume] for volume in sorted(newest)]
    return found


def write(found: Consolidated, folder: Path, now: datetime) -> list[Path]:
    """The catalog, the report and the log, with the time in their names."""
    stamp = now.strftime("%Y%m%d_%H%M%S")
    folder.mkdir(parents=True, exist_ok=True)
    generated = now.isoformat().replace("+00:00", "Z")
    catalog = {
        "version": "2.0", "generated_at": generated, "count": len(found.records),
        "sources": Counter(r["source"] for r in found.records), "statuses": Counter(r["status"] for r in found.records),
        "volumes": found.records,
    }  # fmt: skip
    report = {
        "generated_at": generated, "schema": schema_id(), "checked": len(found.records) + len(found.invalid),
        "valid": len(found.records), "invalid": found.invalid, "skipped": found.skipped,
    }  # fmt: skip
    files = {
        f"metadata_catalog_{stamp}.json": json.dumps(catalog, indent=1) + "\n",
        f"validation_report_{stamp}.json": json.dumps(report, indent=1) + "\n",
        f"consolidation_{stamp}.log": "".join(f"{line}\n" for line in found.log),
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    return [folder / name for name in files]


def _read(path: Path, name: str, found: Consolidated, *, legacy: bool) -> Document | None:
    """The record of one file; None where it is none, or not a valid one."""
    try:
        body = from_json(path.read_bytes()) if path.stat().st_size <= FILE_BYTES else None
    except (ValueError, OSError) as error:
        found.refuse(name, [f"can't be read: {error}"[:200]])
        return None
    if not isinstance(body, dict) or not (
        body.get("source") and ("source_id" in body or "local_paths" in body or "metadata" in body)
    ):
        found.skip(name, "no metadata record")
        return None
    old = not isinstance(body.get("metadata"), dict) or "core" not in body["metadata"]
    if old and not legacy:
        found.skip(name, "older than 2.0: read it with --legacy")
        return None
    try:
        record = document(MetadataRecord.model_validate(_upgraded(body, path) if old else _current(body, path)))
    except (ValidationError, ValueError, TypeError, AttributeError) as error:
        found.refuse(name, _lines(error))
        return None
    if wrong := problems(record):
        found.refuse(name, wrong)
        return None
    found.note(name, f"{record['volume']} {record['status']}" + (" (older than 2.0)" if old else ""))
    return record


def _current(body: Document, path: Path) -> Document:
    """A 2.0 file: the same fields, whose `files` are named by what they hold, and whose status may carry an error."""
    files = body.get("files") or ()
    paths = [str(v) for v in files.values()] if isinstance(files, dict) else [str(v) for v in files]
    return {
        **body,
        **_identity(body, path),
        "files": paths,
        "additional_metadata": _additional(body, body.get("additional_metadata")),
    }


def _upgraded(body: Document, path: Path) -> Document:
    """An older, flat file as a record. All of it stays in `additional_metadata`."""
    shape = body.get("volume_shape") or body.get("shape")
    voxel = body.get("voxel_size_nm")
    # Only named axes say their order; a bare list of the old tools was x, y, z in some and z, y, x in others.
    sizes = [voxel.get(axis) for axis in "zyx"] if isinstance(voxel, dict) else [None, None, None]
    core = {"description": str(body.get("description") or ""), "volume_shape": shape, "voxel_size_nm": sizes}
    core["data_type"] = body.get("data_type") or body.get("dtype")
    core["modality"] = body.get("modality") or body.get("imaging_method") or "unknown"
    technical = {"sha256": body.get("sha256"), "file_size_bytes": body.get("file_size_bytes")}
    local = body.get("local_paths") or ()
    return {
        **_identity(body, path),
        "metadata": {"core": core, "technical": technical, "provenance": {"download_url": str(body.get("download_url") or "")}},
        "files": [str(v) for v in (local.values() if isinstance(local, dict) else local) if v],
        "additional_metadata": _additional(body, {f"{slug(str(body['source']))}_metadata": body}),
    }


def _identity(body: Document, path: Path) -> Document:
    source, identity = str(body["source"]), str(body.get("source_id") or body.get("id") or path.stem)
    volume = body.get("volume")
    volume = volume if isinstance(volume, str) and is_volume_id(volume) else slug(f"{source}-{identity}")
    modified = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    created = _time(body.get("created_at") or body.get("timestamp")) or modified
    updated = _time(body.get("updated_at") or body.get("timestamp")) or created
    return {
        "version": "2.0",
        "id": str(record_uuid(volume)),
        "volume": volume,
        "revision": 1,
        "source": source,
        "source_id": identity,
        "status": _status(body.get("status")),
        "created_at": created,
        "updated_at": updated,
    }


def _status(said: Any) -> JobState:
    text = str(said or "complete").strip().lower()
    if text.startswith("error"):
        return JobState.FAILED
    if text not in STATES:
        raise ValueError(f"status {text[:40]!r} is none: one of {', '.join(STATES)} or error: …")
    return STATES[text]


def _additional(body: Document, additional: Any) -> Document:
    found = dict(additional) if isinstance(additional, dict) else {}
    said = str(body.get("status") or "")
    if said.lower().startswith("error"):
        found["error"] = said.partition(":")[2].strip()
    if body.get("id"):
        found["former_id"] = body["id"]
    safe: Any = json_safe(found)
    return dict(safe)


def _time(value: Any) -> datetime | None:
    """A moment in any of the ways the old tools wrote one; without a zone it is UTC."""
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    if not isinstance(value, str):
        return None
    for form in ("%Y%m%d_%H%M%S", "%Y-%m-%d %H:%M:%S"):
        try:
            return datetime.strptime(value, form).replace(tzinfo=UTC)
        except ValueError:
            continue
    moment = datetime.fromisoformat(value)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _lines(error: Exception) -> list[str]:
    if isinstance(error, ValidationError):
        return [f"$.{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors(include_url=False)[:20]]
    return [f"{error}"[:200]]
