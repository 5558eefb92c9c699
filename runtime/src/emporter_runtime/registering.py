"""Committing volumes that are read where they lie: registration, record and provenance first, then the commit, then the fact."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from emporter_contracts import storage, subjects
from emporter_contracts.commands import IngestRequest
from emporter_contracts.errors import RefusedError
from emporter_contracts.events import VolumeComplete
from emporter_contracts.ids import VolumeRef, job_of
from emporter_contracts.plans import Commit
from emporter_contracts.records import MetadataRecord
from emporter_contracts.registrations import PREFIX, Registration
from emporter_runtime.bus import Bus
from emporter_runtime.commits import committed, removed
from emporter_runtime.jobstore import now
from emporter_runtime.logging import get_logger
from emporter_runtime.objects import Objects, json_bytes

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Registering:
    """One volume to be committed; its revision is chosen when it is. `request` is the ingest that would copy it."""

    registration: Registration
    record: MetadataRecord
    request: IngestRequest


@dataclass(frozen=True, slots=True)
class Registered:
    """One volume that is there; `existing` where it was before, unchanged."""

    ref: VolumeRef
    existing: bool


async def register(objects: Objects, bus: Bus, wanted: Sequence[Registering], *, anew: bool) -> list[Registered]:
    """Commit every one of `wanted`, and say so on the bus. One that is registered as it is now is left as it is, unless `anew`.

    Raises RefusedError where the name is another volume's.
    """
    standing = [await _standing(objects, one.registration) for one in wanted]
    found = []
    for one, (before, revisions) in zip(wanted, standing, strict=True):
        if before is not None and not anew and _same(before, one.registration):
            ref, existing = VolumeRef(before.volume, before.revision), True
        else:
            ref, existing = await commit(objects, one, max(revisions, default=0) + 1), False
        # Said again where it was before: whoever was killed between commit and fact comes here.
        await _say(objects, bus, ref)
        found.append(Registered(ref, existing))
    return found


async def say_again(objects: Objects, bus: Bus) -> int:
    """Say of every registered volume that it is there, for a bus that lost it; how many revisions that were."""
    count = 0
    for volume in await objects.folders(storage.VOLUMES):
        if not volume.startswith(PREFIX):
            continue
        for revision in sorted(await committed(objects, volume)):
            await _say(objects, bus, VolumeRef(volume, revision))
            count += 1
    return count


async def find_registration(objects: Objects, ref: VolumeRef) -> Registration | None:
    """The registration of a revision, None where it is no such volume. Raises pydantic.ValidationError."""
    assert ref.revision is not None
    body = await objects.find(storage.VOLUMES, storage.registration(ref.volume, ref.revision))
    return None if body is None else Registration.model_validate_json(body)


def digest_of(registration: Registration) -> str:
    """What the commit names."""
    return hashlib.sha256(json_bytes(registration)).hexdigest()


async def _standing(objects: Objects, registration: Registration) -> tuple[Registration | None, set[int]]:
    """The current registration of a name, and every revision the name ever had."""
    volume = registration.volume
    revisions, gone = await committed(objects, volume), await removed(objects, volume)
    if not revisions - gone:
        return None, revisions | gone
    before = await find_registration(objects, VolumeRef(volume, max(revisions - gone)))
    if before is None or (before.root, before.select) != (registration.root, registration.select):
        where = "a volume that was ingested" if before is None else f"{before.root}, registered before"
        raise RefusedError(f"{volume} is {where}", code="name_taken", hint="choose another --name, or emporter rm that one first")
    return before, revisions | gone


def _same(before: Registration, after: Registration) -> bool:
    """Whether the source is as it was, and is meant as it was."""
    changing = {"revision", "as_of", "registered_at"}
    return before.model_dump(exclude=changing) == after.model_dump(exclude=changing)


async def commit(objects: Objects, one: Registering, revision: int) -> VolumeRef:
    """Commit a volume as this revision. Raises RefusedError where somebody else was faster."""
    registration = one.registration.model_copy(update={"revision": revision})
    record = one.record.model_copy(update={"revision": revision})
    volume = registration.volume
    # Put, not created: what was left by a registration that was killed before its commit is nobody's.
    await objects.put(storage.VOLUMES, storage.registration(volume, revision), json_bytes(registration))
    await objects.put(storage.VOLUMES, storage.record(volume, revision), json_bytes(record))
    await objects.put(storage.VOLUMES, storage.provenance(volume, revision), _provenance(one, revision))
    point = Commit(volume=volume, revision=revision, digest=digest_of(registration), job=job_of(volume), committed_at=now())
    if not await objects.create(storage.VOLUMES, storage.commit(volume, revision), json_bytes(point)):
        raise RefusedError(f"{volume} is being registered by somebody else", code="conflict", hint="look at it: emporter volumes")
    log.info("registered", volume=volume, revision=revision, root=registration.root)
    return VolumeRef(volume, revision)


def _provenance(one: Registering, revision: int) -> bytes:
    said = {
        "request": one.request.model_dump(mode="json"),
        "job": job_of(one.registration.volume),
        "revision": revision,
        "source": one.request.source,
        "source_id": one.request.source_id,
        "download_url": one.registration.root,
        "objects": [],
        "managed": False,
    }
    return json.dumps(said, sort_keys=True).encode()


async def _say(objects: Objects, bus: Bus, ref: VolumeRef) -> None:
    assert ref.revision is not None
    body = await objects.get(storage.VOLUMES, storage.commit(ref.volume, ref.revision))
    digest = Commit.model_validate_json(body).digest
    fact = VolumeComplete(job=job_of(ref.volume), revision=ref.revision, generation=1, volume=ref.volume, digest=digest)
    subject = subjects.volume_complete(ref.volume, ref.revision)
    await bus.say_once(subject, fact, "EVENTS", "convert.volume.complete", ref.volume)
