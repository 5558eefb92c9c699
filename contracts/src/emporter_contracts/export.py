"""JSON Schemas of all that is said and stored, and AsyncAPI of the bus: `python -m emporter_contracts.export [--check]`.

What others send us is described as we read it, what we write as we write it. A field with a default is not required in either:
records live for years, and a field added later must not make an older record invalid.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from emporter_contracts import (
    asyncapi,
    commands,
    events,
    jobs,
    plans,
    policy,
    previews,
    records,
    registrations,
    revisions,
    training,
)

BASE = "https://emporter.invalid/schemas/"
"""`$id`s are names, not addresses: nothing is ever fetched from them."""
DIALECT = "https://json-schema.org/draft/2020-12/schema"
FOLDER = Path(__file__).resolve().parents[2] / "schemas"
"""Where the schemas lie in a checkout."""

READ: tuple[type[BaseModel], ...] = (
    commands.IngestRequest,
    commands.Control,
    commands.CatalogQuery,
    commands.PlanFetch,
    commands.FetchBatch,
    commands.FinishFetch,
    commands.PlanConversion,
    commands.ConvertTask,
    commands.FinishVolume,
    revisions.ReviseVolume,
    previews.PreviewConversion,
    training.SampleRequest,
    training.TrainingSet,
)
"""What may be asked of us."""
WRITTEN: tuple[type[BaseModel], ...] = (
    commands.Accepted,
    commands.Refusal,
    revisions.Revised,
    events.RawPlanReady,
    events.RawObjectStored,
    events.RawManifestComplete,
    events.ConvertDone,
    events.LevelComplete,
    events.VolumeComplete,
    events.Progress,
    events.WebhookDue,
    events.DeadLetter,
    policy.PolicyDecided,
    jobs.JobStatus,
    plans.StoredRequest,
    previews.PlanSummary,
    previews.ConversionPreview,
    plans.FetchPlan,
    plans.Manifest,
    plans.ConversionPlan,
    plans.Commit,
    plans.Tombstone,
    records.MetadataRecord,
    registrations.Registration,
    training.SamplePlaces,
)
"""What we say and store."""

NAMES: dict[type[BaseModel], str] = {records.MetadataRecord: f"metadata-record-{records.RECORD_VERSION}"}
"""Names that are not the class's own."""


def schema_name(model: type[BaseModel]) -> str:
    """The file a model's schema lies in: `IngestRequest` → `ingest-request.json`."""
    kebab = "".join(f"-{c.lower()}" if c.isupper() else c for c in model.__name__).lstrip("-")
    return NAMES.get(model, kebab) + ".json"


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of one model."""
    body = model.model_json_schema(mode="validation" if model in READ else "serialization")
    return {"$schema": DIALECT, "$id": BASE + schema_name(model), **body}


def schemas() -> dict[str, str]:
    """Every file by name, as it must lie in `contracts/schemas`: a schema per model, and the bus as AsyncAPI."""
    files = {schema_name(model): _text(schema_of(model)) for model in (*READ, *WRITTEN)}
    return files | {"asyncapi.json": _text(asyncapi.document())}


def differing(folder: Path) -> list[str]:
    """Names of the files in `folder` that are missing, differ, or belong to no model."""
    wanted = schemas()
    found = {path.name: path.read_text() for path in folder.glob("*.json")}
    return sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))


def write(folder: Path) -> None:
    """Make `folder` hold exactly the schemas."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = schemas()
    for stale in {path.name for path in folder.glob("*.json")} - wanted.keys():
        (folder / stale).unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text)


def _text(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit 0 when the files are as they should be; with --check, 1 and the names of those that are not."""
    parser = argparse.ArgumentParser(prog="python -m emporter_contracts.export", description="Export the JSON Schemas.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 and name the files that differ")
    parser.add_argument("--to", type=Path, default=FOLDER, metavar="DIR", help="default: contracts/schemas of the checkout")
    chosen = parser.parse_args(arguments)
    if not chosen.check:
        write(chosen.to)
        return 0
    wrong = differing(chosen.to)
    for name in wrong:
        sys.stderr.write(f"{name} differs from the models: run `python -m emporter_contracts.export`\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
