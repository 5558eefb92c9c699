"""Metadata-only revisions: another voxel size, licence or name of voxels that stay as they are (decisions/0016).

The claim of the revision is written first and holds all that makes it; then the documents, create-only; the commit last.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from datetime import timedelta

from converter.correcting import Described, corrected, group_bytes, provenance_bytes, read_described
from converter.digesting import sum_of
from converter.quality_policy import QualityPolicy
from emporter_contracts import storage
from emporter_contracts.commands import IngestRequest
from emporter_contracts.errors import RefusedError
from emporter_contracts.ids import VolumeRef, job_of
from emporter_contracts.plans import Commit, Hold, StoredRequest
from emporter_contracts.records import MetadataRecord
from emporter_contracts.revisions import Revised, ReviseVolume, Revising
from emporter_runtime.commits import committed, held, read_commit, removed
from emporter_runtime.errors import ConflictError
from emporter_runtime.jobstore import now
from emporter_runtime.logging import get_logger
from emporter_runtime.objects import Objects, json_bytes
from emporter_runtime.runs import last_generation
from emporter_runtime.sharing import claims_of

FRESH = timedelta(minutes=10)
"""How long a claim may still be committed. Removal counts on a claim for a day, so that clocks may differ by hours."""

Claims = Mapping[int, StoredRequest]
log = get_logger(__name__)


async def revise(objects: Objects, command: ReviseVolume, policy: QualityPolicy) -> Revised:
    """Commit what `command` says as a revision that shows the arrays of an earlier one, unless the volume says it already.

    Raises RefusedError: `unknown_volume`, `conflict` where somebody else was faster, `running`, `removed`, `read_in_place`.
    """
    ref = VolumeRef.parse(command.volume)
    job = job_of(ref.volume)
    claims = await claims_of(objects, job)
    known, gone, holds = await asyncio.gather(
        committed(objects, ref.volume), removed(objects, ref.volume), held(objects, ref.volume)
    )
    _check_known(ref, known, gone)
    await _finish_others(objects, ref.volume, claims, known | gone, policy)
    base = _base(ref, known - gone, holds)
    commit = await read_commit(objects, ref.volume, base)
    assert commit is not None
    await _check_can_change(objects, commit, claims)
    change = Revising(
        volume=ref.volume,
        revises=base,
        arrays=commit.arrays_of,
        changes=command.changes,
        by=command.by,
        reason=command.reason,
        at=now(),
    )
    number = max({*claims, *known, *gone}) + 1
    before = await _described(objects, ref.volume, base)
    if corrected(before, change, number, policy, held=base in holds) is None:
        return Revised(volume=ref.volume, revision=base, revises=base, existing=True)
    claim = StoredRequest(
        request=IngestRequest.model_validate(before.provenance["request"]),
        event_id=uuid.uuid4().hex,
        received_at=change.at,
        revising=change,
    )
    await _claim(objects, job, number, claim)
    await finish(objects, number, claim, policy)
    log.info("revised", volume=ref.volume, revision=number, revises=base, by=command.by)
    return Revised(volume=ref.volume, revision=number, revises=base)


async def finish(objects: Objects, number: int, claim: StoredRequest, policy: QualityPolicy) -> Commit:
    """Write and commit what a claim says; whoever does it again, or at the same time, commits the same.

    Raises RefusedError where the claim is too old, or what it changes was removed meanwhile.
    """
    change = claim.revising
    assert change is not None
    volume = change.volume
    # After the claim was written: a removal that does not see this claim has written its tombstone by now.
    if change.revises in await removed(objects, volume):
        raise RefusedError(f"{volume}@r{change.revises} was removed", code="removed", hint=f"emporter show {volume}")
    base = await read_commit(objects, volume, change.revises)
    if base is None:
        raise RefusedError(f"{volume}@r{change.revises} is not committed", code="unknown_volume", hint=f"emporter show {volume}")
    is_held = change.revises in await held(objects, volume)
    after = corrected(await _described(objects, volume, change.revises), change, number, policy, held=is_held)
    assert after is not None
    kept = await _written(objects, volume, number, after)
    await _hold(objects, MetadataRecord.model_validate_json(kept[storage.record(volume, number)]), change)
    commit = Commit(
        volume=volume,
        revision=number,
        digest=base.digest,
        documents={key: sum_of(body).sha256 for key, body in kept.items()},
        job=base.job,
        committed_at=change.at,
        arrays=change.arrays,
    )
    if now() - claim.received_at > FRESH:
        raise _conflict(volume, f"the change that was begun at {claim.received_at:%H:%M} UTC took too long")
    if not await objects.put_json(storage.VOLUMES, storage.commit(volume, number), commit):
        there = await read_commit(objects, volume, number)
        if there is None or there.documents != commit.documents:
            raise ConflictError(f"{volume}@r{number} is committed as something else", hint="report this: two programs disagree")
    return commit


def _check_known(ref: VolumeRef, known: set[int], gone: set[int]) -> None:
    if not known:
        raise RefusedError(f"there is no volume {ref.volume}", code="unknown_volume", hint="emporter volumes lists them")
    if not known - gone or ref.revision in gone:
        raise RefusedError(f"{ref} was removed", code="removed", hint=f"emporter show {ref.volume}")


async def _finish_others(objects: Objects, volume: str, claims: Claims, ended: set[int], policy: QualityPolicy) -> None:
    """A change that somebody else has begun is finished before anything is built upon the volume."""
    for number, claim in sorted(claims.items()):
        change = claim.revising
        if change is None or change.volume != volume or number in ended or now() - claim.received_at > FRESH:
            continue
        try:
            await finish(objects, number, claim, policy)
        except RefusedError as error:
            log.info("claim_left", volume=volume, revision=number, reason=error.message)
            continue
        raise _conflict(volume, f"{change.by} is just setting it (r{number})")


def _base(ref: VolumeRef, standing: set[int], holds: set[int]) -> int:
    """The revision that is changed: the current one, or one that a gate holds and nothing newer replaced."""
    current = max(standing - holds, default=None)
    if ref.revision is None:
        if current is None:
            raise RefusedError(
                f"{ref.volume} has no current revision: r{max(standing)} is held",
                code="held",
                hint=f"say which one is meant: {ref.volume}@r{max(standing)}",
            )
        return current
    if ref.revision not in standing:
        raise RefusedError(f"{ref} is not committed", code="unknown_volume", hint=f"emporter show {ref.volume}")
    if ref.revision != current and ref.revision != max(standing):
        raise _conflict(ref.volume, f"{ref} is not current any more, r{current} is")
    return ref.revision


async def _check_can_change(objects: Objects, commit: Commit, claims: Claims) -> None:
    volume = commit.volume
    if await objects.exists(storage.VOLUMES, storage.registration(volume, commit.arrays_of)):
        raise RefusedError(
            f"{volume} is read where it lies", code="read_in_place", hint="emporter register --force with what is right"
        )
    latest = max((number for number, claim in claims.items() if claim.revising is None), default=0)
    if latest > commit.arrays_of and (await last_generation(objects, commit.job, latest))[1] is None:
        raise RefusedError(
            f"job {commit.job} is making r{latest} of it", code="running", hint="wait for it, then look what it says"
        )


async def _claim(objects: Objects, job: str, number: int, claim: StoredRequest) -> None:
    key = storage.request(job, number)
    if await objects.put_json(storage.RAW, key, claim):
        return
    there = StoredRequest.model_validate_json(await objects.get(storage.RAW, key))
    # Ours, where a store took the object and its answer was lost.
    if there.event_id != claim.event_id:
        assert claim.revising is not None
        raise _conflict(claim.revising.volume, f"somebody else made r{number} in the same moment")


async def _described(objects: Objects, volume: str, revision: int) -> Described:
    keys = (
        storage.record(volume, revision),
        storage.zarr_root(volume, revision) + "zarr.json",
        storage.provenance(volume, revision),
    )
    record, group, provenance = await asyncio.gather(*(objects.get(storage.VOLUMES, key) for key in keys))
    return read_described(record, group, provenance)


async def _written(objects: Objects, volume: str, number: int, after: Described) -> dict[str, bytes]:
    """The documents by key, as they lie there: of two writers that judge differently the first one counts."""
    documents = {
        storage.provenance(volume, number): provenance_bytes(after),
        storage.record(volume, number): json_bytes(after.record),
        storage.zarr_root(volume, number) + "zarr.json": group_bytes(after),
    }
    for key, body in documents.items():
        if not await objects.create(storage.VOLUMES, key, body):
            documents[key] = await objects.get(storage.VOLUMES, key)
    return documents


async def _hold(objects: Objects, record: MetadataRecord, change: Revising) -> None:
    """Before the commit: a gate that fails now, and every rule that held what is changed. Rules are lifted by people only."""
    body = await objects.find(storage.VOLUMES, storage.hold(record.volume, change.revises))
    rules = Hold.model_validate_json(body).rules if body is not None else ()
    gates = tuple(g.gate for g in record.metadata.quality.gates if g.verdict == "fail") if record.metadata.quality.held else ()
    if gates or rules:
        hold = Hold(volume=record.volume, revision=record.revision, gates=gates, held_at=change.at, rules=rules)
        await objects.put_json(storage.VOLUMES, storage.hold(record.volume, record.revision), hold)


def _conflict(volume: str, what: str) -> RefusedError:
    return RefusedError(
        f"{volume}: {what}", code="conflict", hint=f"look at what it says now (emporter show {volume}) and set it again"
    )
