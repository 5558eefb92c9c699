"""The end of a volume: verified, described, committed. Everything is written once; a finisher that comes late changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from converter.gates import judged
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
    volume_digest,
)
from converter.verifying import Shards, look_through, read_back, read_back_all, require_complete
from emporter_contracts import storage
from emporter_contracts.commands import IngestRequest
from emporter_contracts.plans import Commit, ConversionPlan, FetchPlan, Hold, Manifest, VolumePlan
from emporter_contracts.records import MetadataRecord, Quality
from emporter_readers.protocol import Reader
from emporter_runtime.errors import ConflictError
from emporter_runtime.objects import Objects, json_bytes

STANDARD = QualityPolicy()


def finish_volume(
    objects: Objects,
    fetch_plan: FetchPlan,
    manifest: Manifest,
    conversion_plan: ConversionPlan,
    volume: str,
    request: IngestRequest,
    shards: Shards,
    reader_of: Callable[[], Reader],
    stop: Stop,
    policy: QualityPolicy = STANDARD,
) -> str:
    """Verify a volume whose every task is in the ledger (`shards` by level and task), describe it and commit it; blocking.

    Gives the volume's digest. Written in this order, each create-only: digests, slices, provenance, record, hold (where a gate of
    `policy` says so), group metadata, commit.
    Raises CorruptVolumeError where anything differs from what it should be; then nothing is committed.
    """
    plan, revision = conversion_plan.volume(volume), fetch_plan.revision
    entered = require_complete(objects, plan, revision, shards)
    arrays = array_documents(plan)
    digest = volume_digest(arrays, entered)
    if _committed(objects, volume, revision, digest):
        return digest
    create_arrays(objects, plan, revision)
    memory = working_memory(conversion_plan.memory_bytes)
    seen = look_through(objects, plan, revision, entered, memory, stop)
    quality = _read_back(objects, plan, revision, request, reader_of(), digest, stop)
    stop()
    record = metadata_record(fetch_plan, manifest, plan, seen, quality, entered, datetime.now(UTC))
    digests = document(digests_document(digest, seen, arrays, entered))
    objects.create_same_sync(storage.VOLUMES, storage.digests(volume, revision), digests)
    objects.create_sync(storage.VOLUMES, storage.slices(volume, revision), document(seen.slices.document()))
    provenance = document(provenance_document(fetch_plan, manifest, request, plan))
    objects.create_sync(storage.VOLUMES, storage.provenance(volume, revision), provenance)
    metadata = record.metadata.model_copy(update={"quality": judged(record, seen.slices, policy)})
    record = _recorded(objects, record.model_copy(update={"metadata": metadata}))
    _hold(objects, record)
    planned = next(v for v in fetch_plan.volumes if v.volume == volume)
    statistics = record.metadata.technical.statistics or seen.statistics
    group = group_document(plan, planned, statistics)
    objects.create_sync(storage.VOLUMES, storage.zarr_root(volume, revision) + "zarr.json", group)
    _commit(objects, Commit(volume=volume, revision=revision, digest=digest, job=fetch_plan.job, committed_at=record.updated_at))
    return digest


def _read_back(
    objects: Objects, plan: VolumePlan, revision: int, request: IngestRequest, reader: Reader, seed: str, stop: Stop
) -> Quality:
    if request.output.verify == "full":
        return compared_in_full(read_back_all(objects, plan, revision, reader, stop))
    return sampled(read_back(objects, plan, revision, reader, seed, stop))


def _recorded(objects: Objects, record: MetadataRecord) -> MetadataRecord:
    """Write the record, or give the one that an earlier finisher wrote: it differs in its times and software at most."""
    key = storage.record(record.volume, record.revision)
    if objects.create_sync(storage.VOLUMES, key, json_bytes(record)):
        return record
    earlier = MetadataRecord.model_validate_json(objects.get_sync(storage.VOLUMES, key))
    if earlier.metadata.technical.sha256 != record.metadata.technical.sha256:
        raise ConflictError(f"{key} describes other voxels", hint="remove the revision with `emporter rm` and convert again")
    return earlier


def _hold(objects: Objects, record: MetadataRecord) -> None:
    """Before the commit, so that a revision with a failed gate is current at no time. What the written record says counts."""
    if record.metadata.quality.held:
        gates = tuple(g.gate for g in record.metadata.quality.gates if g.verdict == "fail")
        hold = Hold(volume=record.volume, revision=record.revision, gates=gates, held_at=record.updated_at)
        objects.create_sync(storage.VOLUMES, storage.hold(record.volume, record.revision), json_bytes(hold))


def _committed(objects: Objects, volume: str, revision: int, digest: str) -> bool:
    """Whether this very state is committed already. Raises ConflictError where another one is."""
    body = objects.find_sync(storage.VOLUMES, storage.commit(volume, revision))
    if body is None:
        return False
    held: dict[str, Any] = json.loads(body)
    if held["digest"] != digest:
        raise ConflictError(f"{volume}@r{revision} is committed with another digest", hint="report this: two programs disagree")
    return True


def _commit(objects: Objects, commit: Commit) -> None:
    key = storage.commit(commit.volume, commit.revision)
    if not objects.create_sync(storage.VOLUMES, key, json_bytes(commit)):
        _committed(objects, commit.volume, commit.revision, commit.digest)
