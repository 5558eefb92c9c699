"""What the catalog reads from the object store: plans, final records, tombstones."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from emporter_contracts import storage
from emporter_contracts.plans import FetchPlan, Manifest, Tombstone
from emporter_contracts.records import MetadataRecord
from emporter_runtime.commits import removed
from emporter_runtime.objects import Objects


@dataclass(frozen=True, slots=True)
class Final:
    """What the store holds of a committed revision. `record` is None where it is gone, with its tombstone or without."""

    volume: str
    revision: int
    record: dict[str, Any] | None
    removed_at: datetime | None
    held: bool = False


async def read_final(objects: Objects, volume: str, revision: int) -> Final:
    """Record, tombstone and hold of one revision. Raises pydantic.ValidationError where the record is none of ours."""
    body, tombstone, held = await asyncio.gather(
        objects.find(storage.VOLUMES, storage.record(volume, revision)),
        objects.find(storage.VOLUMES, storage.tombstone(volume, revision)),
        objects.exists(storage.VOLUMES, storage.hold(volume, revision)),
    )
    record = None
    if body is not None:
        MetadataRecord.model_validate_json(body)
        record = json.loads(body)
    elif tombstone is not None:
        record = _buried(tombstone)
    return Final(volume, revision, record, None if tombstone is None else removed_at(tombstone), held)


def _buried(tombstone: bytes) -> dict[str, Any] | None:
    """The record a tombstone keeps of what was removed. Older ones keep none."""
    try:
        record: dict[str, Any] | None = json.loads(tombstone).get("record")
    except (ValueError, AttributeError):
        return None
    if record is not None:
        MetadataRecord.model_validate(record)
    return record


async def read_plan(objects: Objects, job: str, revision: int) -> FetchPlan | None:
    """The plan of a run, None where it is gone. Raises pydantic.ValidationError."""
    body = await objects.find(storage.RAW, storage.plan(job, revision))
    return None if body is None else FetchPlan.model_validate_json(body)


async def read_manifest(objects: Objects, job: str, revision: int) -> Manifest | None:
    """The manifest of a run, None where it is not there (yet, or any more). Raises pydantic.ValidationError."""
    body = await objects.find(storage.RAW, storage.manifest(job, revision))
    return None if body is None else Manifest.model_validate_json(body)


async def removed_revisions(objects: Objects, volume: str) -> dict[int, datetime]:
    """Every tombstone of a volume: revision and when it was removed."""
    found = {}
    for revision in await removed(objects, volume):
        found[revision] = removed_at(await objects.get(storage.VOLUMES, storage.tombstone(volume, revision)))
    return found


def removed_at(tombstone: bytes) -> datetime:
    """When a revision was removed; now where the tombstone does not say. That it exists is what counts."""
    try:
        return Tombstone.model_validate_json(tombstone).removed_at
    except ValidationError:
        return datetime.now(UTC)
