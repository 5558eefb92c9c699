"""Revisions that show the arrays of another one: what of a removed revision must stay for them (decisions/0016)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from emporter_contracts import storage
from emporter_contracts.ids import VolumeRef, job_of
from emporter_contracts.plans import StoredRequest
from emporter_runtime.commits import committed, read_commit, removed
from emporter_runtime.jobstore import now
from emporter_runtime.objects import Objects

PENDING = timedelta(hours=24)
"""How long a claim without its commit keeps the arrays it would show. Nobody commits one that is older than a few minutes."""

COMMITTABLE = timedelta(hours=1)
"""How long a claim is taken for one that is about to be committed. Whoever commits has ten minutes; clocks may differ."""


@dataclass(frozen=True, slots=True)
class Leavings:
    """What of a removed revision can be taken away: all below `prefixes`, and the objects `keys`, in VOLUMES."""

    prefixes: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


async def claims_of(objects: Objects, job: str) -> dict[int, StoredRequest]:
    """What claimed the revisions of a job: requests, and changes of metadata."""
    found = {}
    for folder in await objects.folders(storage.RAW, storage.job_prefix(job)):
        revision = storage.run_revision(folder)
        body = await objects.find(storage.RAW, storage.request(job, revision)) if revision else None
        if revision is not None and body is not None:
            found[revision] = StoredRequest.model_validate_json(body)
    return found


async def corrected_since(objects: Objects, job: str, revision: int) -> VolumeRef | None:
    """A correction, committed or about to be, that the voxels a run of `revision` has yet to commit would come below.

    Current is the highest number: such voxels would be there, and nobody would be shown them.
    """
    for number, claim in sorted((await claims_of(objects, job)).items()):
        change = claim.revising
        if number <= revision or change is None or await read_commit(objects, change.volume, revision) is not None:
            continue
        if number in await removed(objects, change.volume):
            continue
        if now() - claim.received_at < COMMITTABLE or await read_commit(objects, change.volume, number) is not None:
            return VolumeRef(change.volume, number)
    return None


async def arrays_of(objects: Objects, volume: str, revision: int) -> int:
    """The revision whose arrays a committed one shows, which is mostly itself."""
    commit = await read_commit(objects, volume, revision)
    return revision if commit is None else commit.arrays_of


async def leavings(objects: Objects, volume: str, revision: int) -> Leavings:
    """What can be taken away of a revision whose tombstone is written: not the arrays that others show, or are about to."""
    if await _is_shown(objects, volume, revision):
        root = storage.zarr_root(volume, revision) + "zarr.json"
        return Leavings(keys=(root, storage.record(volume, revision), storage.provenance(volume, revision)))
    return Leavings(prefixes=folders_of(volume, revision))


def folders_of(volume: str, revision: int) -> tuple[str, str]:
    """The folders of one revision in VOLUMES, each with its slash."""
    return storage.zarr_root(volume, revision), storage.revision_folder(volume, revision)


async def _is_shown(objects: Objects, volume: str, revision: int) -> bool:
    """Whether another revision that stands, or a claim that may yet be committed, shows these arrays.

    Claims first: one that is committed in between is then seen among the commits.
    """
    claims = await claims_of(objects, job_of(volume))
    known = await committed(objects, volume)
    gone = await removed(objects, volume)
    for number, claim in claims.items():
        change = claim.revising
        if change is None or (change.volume, change.arrays) != (volume, revision):
            continue
        if number not in known | gone and now() - claim.received_at < PENDING:
            return True
    for number in sorted(known - gone - {revision}, reverse=True):
        if await arrays_of(objects, volume, number) == revision:
            return True
    return False
