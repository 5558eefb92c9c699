"""The end of a volume: verified, described, committed. Everything is written once; a finisher that comes late changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from converter.census import empty_of
from converter.digesting import Sums, sum_of, sums_said, volume_digest
from converter.entered import Entered
from converter.gates import judged
from converter.gathering import gather
from converter.memory import working_memory
from converter.ngff import array_documents, create_arrays, document, group_document
from converter.quality_policy import QualityPolicy
from converter.reading import Stop
from converter.recording import (
    compared_in_full,
    digests_document,
    metadata_record,
    provenance_document,
    sampled,
)
from converter.verifying import Seen, look_through, read_back, read_back_all, require_complete
from emporter_contracts import storage
from emporter_contracts.commands import IngestRequest
from emporter_contracts.plans import Commit, ConversionPlan, FetchPlan, Manifest, VolumePlan
from emporter_contracts.records import MetadataRecord, Quality
from emporter_readers.protocol import Reader
from emporter_runtime.errors import ConflictError
from emporter_runtime.objects import Objects, json_bytes
from emporter_runtime.policy.judging import Policy
from emporter_runtime.policy.publishing import hold_of, under_rules

STANDARD = QualityPolicy()
NO_RULES = Policy()


def finish_volume(
    objects: Objects,
    fetch_plan: FetchPlan,
    manifest: Manifest,
    conversion_plan: ConversionPlan,
    volume: str,
    request: IngestRequest,
    entered: Entered,
    reader_of: Callable[[], Reader],
    stop: Stop,
    policy: QualityPolicy = STANDARD,
    rules: Policy = NO_RULES,
    purpose: str = "",
) -> str:
    """Verify a volume whose every task is in the ledger (`entered`), describe it and commit it; blocking.

    Gives the volume's digest. Written in this order, each create-only: slices, provenance, record, hold (where a gate of `policy`
    or one of `rules` says so), digests, group metadata, commit.
    Raises CorruptVolumeError where anything differs from what it should be, PolicyDeniedError where a rule refuses; then nothing
    is committed.
    """
    plan, revision = conversion_plan.volume(volume), fetch_plan.revision
    require_complete(objects, volume, revision, entered)
    arrays = {key: sum_of(data) for key, data in array_documents(plan).items()}
    committed = _committed(objects, volume, revision, entered, arrays)
    if committed is not None:
        return committed
    create_arrays(objects, plan, revision)
    memory = working_memory(conversion_plan.memory_bytes)
    planned = next(v for v in fetch_plan.volumes if v.volume == volume)
    seen = look_through(objects, plan, revision, entered, memory, stop)
    counted = gather(objects, plan, revision, empty_of(fetch_plan, volume), stop)
    quality = _read_back(objects, plan, revision, request, reader_of(), seen.sha256, stop)
    stop()
    record = metadata_record(fetch_plan, manifest, plan, seen, counted, quality, entered, datetime.now(UTC))
    metadata = record.metadata.model_copy(update={"quality": judged(record, seen.slices, policy)})
    record = under_rules(record.model_copy(update={"metadata": metadata}), request, rules, purpose)
    documents = {
        storage.slices(volume, revision): document(seen.slices.document()),
        storage.provenance(volume, revision): document(provenance_document(fetch_plan, manifest, request, plan)),
        storage.record(volume, revision): json_bytes(record),
    }
    kept = {key: _kept(objects, key, data) for key, data in documents.items()}
    record = _recorded(kept[storage.record(volume, revision)], seen)
    _hold(objects, record, purpose)
    group = group_document(plan, planned, record.metadata.technical.statistics or counted.statistics)
    digest = volume_digest(entered, arrays, counted.occupancy)
    digests = digests_document(digest, seen, counted, entered, arrays)
    objects.create_same_sync(storage.VOLUMES, storage.digests(volume, revision), digests)
    root = storage.zarr_root(volume, revision) + "zarr.json"
    kept[root] = _kept(objects, root, group)
    commit = Commit(
        volume=volume,
        revision=revision,
        digest=digest,
        documents={key: sum_of(body).sha256 for key, body in kept.items()},
        job=fetch_plan.job,
        committed_at=record.updated_at,
    )
    _commit(objects, commit)
    return digest


def _read_back(
    objects: Objects, plan: VolumePlan, revision: int, request: IngestRequest, reader: Reader, seed: str, stop: Stop
) -> Quality:
    if request.output.verify == "full":
        return compared_in_full(read_back_all(objects, plan, revision, reader, stop))
    return sampled(read_back(objects, plan, revision, reader, seed, stop))


def _kept(objects: Objects, key: str, data: bytes) -> bytes:
    """Write an object, or give what an earlier finisher wrote there: of two that differ in their times the first one counts."""
    return data if objects.create_sync(storage.VOLUMES, key, data) else objects.get_sync(storage.VOLUMES, key)


def _recorded(kept: bytes, seen: Seen) -> MetadataRecord:
    """The record as it was written first. Raises ConflictError where it is of other voxels."""
    record = MetadataRecord.model_validate_json(kept)
    technical = record.metadata.technical
    if seen.sha256 not in (technical.sha256, technical.planes_sha256):
        key = storage.record(record.volume, record.revision)
        raise ConflictError(f"{key} describes other voxels", hint="remove the revision with `emporter rm` and convert again")
    return record


def _hold(objects: Objects, record: MetadataRecord, purpose: str) -> None:
    """Before the commit, so that a revision that is held is current at no time. What the written record says counts."""
    hold = hold_of(record, purpose)
    if hold is not None:
        objects.create_sync(storage.VOLUMES, storage.hold(record.volume, record.revision), json_bytes(hold))


def _committed(objects: Objects, volume: str, revision: int, entered: Entered, arrays: Sums) -> str | None:
    """The digest of the commit, where these very shards are committed already; None where nothing is.

    Raises ConflictError where others are.
    """
    body = objects.find_sync(storage.VOLUMES, storage.commit(volume, revision))
    if body is None:
        return None
    digest = Commit.model_validate_json(body).digest
    said = json.loads(objects.get_sync(storage.VOLUMES, storage.digests(volume, revision)), object_hook=_without_shards)
    if volume_digest(entered, arrays, sums_said(said, "occupancy")) != digest:
        raise _other(volume, revision)
    return digest


def _without_shards(said: dict[str, Any]) -> dict[str, Any] | None:
    """Millions of them need not be held."""
    return None if said.keys() == {"bytes", "crc32c"} else said


def _commit(objects: Objects, commit: Commit) -> None:
    key = storage.commit(commit.volume, commit.revision)
    if objects.create_sync(storage.VOLUMES, key, json_bytes(commit)):
        return
    if Commit.model_validate_json(objects.get_sync(storage.VOLUMES, key)).digest != commit.digest:
        raise _other(commit.volume, commit.revision)


def _other(volume: str, revision: int) -> ConflictError:
    return ConflictError(f"{volume}@r{revision} is committed with another digest", hint="report this: two programs disagree")
