"""Metadata-only revisions: another voxel size, licence or name of voxels that stay as they are (decisions/0016).

The claim of the revision is written first and holds all that makes it; then the documents, create-only; the commit last.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
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
from emporter_runtime.policy.errors import PolicyDeniedError
from emporter_runtime.policy.judging import Policy
from emporter_runtime.policy.publishing import hold_of_correction, require_allowed, under_rules
from emporter_runtime.runs import last_generation
from emporter_runtime.sharing import claims_of

FRESH = timedelta(minutes=10)
"""How long a claim may still be committed. Removal counts on a claim for a day, so that clocks may differ by hours."""

Claims = Mapping[int, StoredRequest]
NO_RULES = Policy()
Tell = Callable[[MetadataRecord, StoredRequest], Awaitable[None]]
"""Who is told of each revision that was committed here, or refused by rules: its record with their decisions, and the claim."""

log = get_logger(__name__)


async def to_nobody(record: MetadataRecord, claim: StoredRequest) -> None:
    """Where no catalog listens."""


async def revise(
    objects: Objects, command: ReviseVolume, policy: QualityPolicy, rules: Policy = NO_RULES, tell: Tell = to_nobody
) -> Revised:
    """Commit what `command` says as a revision that shows the arrays of an earlier one, unless the volume says it already.

    Raises RefusedError: `unknown_volume`, `conflict` where somebody else was faster, `running`, `removed`, `read_in_place`;
    PolicyDeniedError where one of `rules` refuses: then nothing is written.
    """
    ref = VolumeRef.parse(command.volume)
    job = job_of(ref.volume)
    claims = await claims_of(objects, job)
    known, gone, holds = await asyncio.gather(
        committed(objects, ref.volume), removed(objects, ref.volume), held(objects, ref.volume)
    )
    _check_known(ref, known, gone)
    await _finish_others(objects, ref.volume, claims, known | gone, policy, rules, tell)
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
    after = corrected(before, change, number, policy, held=base in holds)
    if after is None:
        return await _said(objects, Revised(volume=ref.volume, revision=base, revises=base, existing=True))
    claim = _claim_for(change, before, claims.get(base))
    await _require_allowed(after.record, claim, rules, tell)
    await _claim(objects, job, number, claim)
    await finish(objects, number, claim, policy, rules)
    await tell((await _described(objects, ref.volume, number)).record, claim)
    log.info("revised", volume=ref.volume, revision=number, revises=base, by=command.by)
    return await _said(objects, Revised(volume=ref.volume, revision=number, revises=base))


async def finish(objects: Objects, number: int, claim: StoredRequest, policy: QualityPolicy, rules: Policy = NO_RULES) -> Commit:
    """Write and commit what a claim says; whoever does it again, or at the same time, commits the same.

    Raises RefusedError where the claim is too old, or what it changes was removed meanwhile; PolicyDeniedError.
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
    # A run that was retried meanwhile would make voxels that are never current; of the two, one sees the other.
    claims = await claims_of(objects, base.job)
    await _check_not_running(objects, base, {n: c for n, c in claims.items() if n < number})
    before, hold = await _described(objects, volume, change.revises), await _held(objects, volume, change.revises)
    after = corrected(before, change, number, policy, held=hold is not None)
    assert after is not None
    judged = replace(after, record=under_rules(after.record, claim.request, rules, claim.purpose))
    kept = await _written(objects, volume, number, judged)
    record = MetadataRecord.model_validate_json(kept[storage.record(volume, number)])
    await _hold(objects, hold_of_correction(record, before.record, hold, rules, claim.purpose))
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


async def _finish_others(
    objects: Objects, volume: str, claims: Claims, ended: set[int], policy: QualityPolicy, rules: Policy, tell: Tell
) -> None:
    """A change that somebody else has begun is finished before anything is built upon the volume."""
    for number, claim in sorted(claims.items()):
        change = claim.revising
        if change is None or change.volume != volume or number in ended or now() - claim.received_at > FRESH:
            continue
        try:
            await finish(objects, number, claim, policy, rules)
        except (RefusedError, PolicyDeniedError) as error:
            log.info("claim_left", volume=volume, revision=number, reason=error.message)
            continue
        await tell((await _described(objects, volume, number)).record, claim)
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
    await _check_not_running(objects, commit, claims)


async def _check_not_running(objects: Objects, commit: Commit, claims: Claims) -> None:
    latest = max((number for number, claim in claims.items() if claim.revising is None), default=0)
    if latest > commit.arrays_of and (await last_generation(objects, commit.job, latest))[1] is None:
        raise RefusedError(
            f"job {commit.job} is making r{latest} of it", code="running", hint="wait for it, then look what it says"
        )


async def _require_allowed(record: MetadataRecord, claim: StoredRequest, rules: Policy, tell: Tell) -> None:
    """Before anything is written. Raises PolicyDeniedError."""
    try:
        require_allowed(record, claim.request, rules, claim.purpose)
    except PolicyDeniedError as denied:
        await tell(record.model_copy(update={"decisions": (denied.decision,)}), claim)
        raise


def _claim_for(change: Revising, before: Described, claimed: StoredRequest | None) -> StoredRequest:
    """The claim of a correction: for the purpose that what it changes was claimed for."""
    return StoredRequest(
        request=IngestRequest.model_validate(before.provenance["request"]),
        event_id=uuid.uuid4().hex,
        received_at=change.at,
        purpose=claimed.purpose if claimed is not None else "",
        revising=change,
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


async def _hold(objects: Objects, hold: Hold | None) -> None:
    """Before the commit, so that a correction that is held is current at no time."""
    if hold is not None:
        await objects.put_json(storage.VOLUMES, storage.hold(hold.volume, hold.revision), hold)


async def _held(objects: Objects, volume: str, revision: int) -> Hold | None:
    body = await objects.find(storage.VOLUMES, storage.hold(volume, revision))
    return None if body is None else Hold.model_validate_json(body)


async def _said(objects: Objects, made: Revised) -> Revised:
    """With what keeps it from becoming current."""
    hold = await _held(objects, made.volume, made.revision)
    return made if hold is None else made.model_copy(update={"held_by": (*hold.gates, *hold.rules)})


def _conflict(volume: str, what: str) -> RefusedError:
    return RefusedError(
        f"{volume}: {what}", code="conflict", hint=f"look at what it says now (emporter show {volume}) and set it again"
    )
