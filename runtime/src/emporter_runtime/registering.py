"""Committing volumes that are read where they lie: registration, record and provenance first, a hold where a rule says so, then
the commit, then the fact.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from emporter_contracts import storage, subjects
from emporter_contracts.commands import IngestRequest
from emporter_contracts.errors import RefusedError
from emporter_contracts.events import VolumeComplete
from emporter_contracts.ids import VolumeRef, job_of
from emporter_contracts.plans import Commit, Hold
from emporter_contracts.records import MetadataRecord
from emporter_contracts.registrations import PREFIX, Registration
from emporter_runtime.bus import Bus
from emporter_runtime.commits import committed, removed
from emporter_runtime.jobstore import now
from emporter_runtime.logging import get_logger
from emporter_runtime.objects import Objects, json_bytes
from emporter_runtime.policy.errors import PolicyDeniedError
from emporter_runtime.policy.facts import Asker, embargo_of
from emporter_runtime.policy.judging import Judgement, Policy
from emporter_runtime.policy.publishing import hold_of, under_rules
from emporter_runtime.policy.saying import say

NO_RULES = Policy()

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Registering:
    """One volume to be committed; its revision is chosen when it is. `request` is the ingest that would copy it, `purpose` what
    rules were told it is for.
    """

    registration: Registration
    record: MetadataRecord
    request: IngestRequest
    purpose: str = ""


@dataclass(frozen=True, slots=True)
class Registered:
    """One volume that is there; `existing` where it was before, unchanged. `held_by`: rules that keep it from being current."""

    ref: VolumeRef
    existing: bool
    held_by: tuple[str, ...] = ()


async def register(
    objects: Objects,
    bus: Bus,
    wanted: Sequence[Registering],
    *,
    anew: bool,
    rules: Policy = NO_RULES,
    purpose: str = "",
) -> list[Registered]:
    """Commit every one of `wanted`, and say so on the bus. One that is registered as it is now is left as it is, unless `anew`.

    Raises RefusedError where the name is another volume's or the embargo no time, PolicyDeniedError where a rule of publication
    refuses one: then none is committed.
    """
    standing = [await _standing(objects, one.registration) for one in wanted]
    judged: list[tuple[VolumeRef, Registering | None]] = []
    for one, (before, revisions) in zip(wanted, standing, strict=True):
        if before is not None and not anew and await _same(objects, before, one):
            judged.append((VolumeRef(before.volume, before.revision), None))
        else:
            ref = VolumeRef(one.registration.volume, max(revisions, default=0) + 1)
            judged.append((ref, await _judged(bus, one, ref, rules, purpose)))
    found = []
    for ref, new in judged:
        assert ref.revision is not None
        if new is not None:
            await commit(objects, new, ref.revision)
        # Said again where it was before: whoever was killed between commit and fact comes here.
        await _say(objects, bus, ref)
        found.append(Registered(ref, new is None, await _held_by(objects, ref)))
    return found


async def _judged(bus: Bus, one: Registering, ref: VolumeRef, rules: Policy, purpose: str) -> Registering:
    """With what the rules of publication say of it, logged and told. Raises PolicyDeniedError."""
    assert ref.revision is not None
    asker = Asker.of(one.request, purpose)
    about = (asker, job_of(ref.volume), ref.revision, ref.volume)
    try:
        record = under_rules(one.record.model_copy(update={"revision": ref.revision}), one.request, rules, asker.purpose)
    except PolicyDeniedError as denied:
        await say(bus, rules, Judgement((denied.decision,)), "publication", *about)
        raise
    await say(bus, rules, Judgement(record.decisions), "publication", *about)
    return replace(one, record=record, purpose=asker.purpose)


async def _held_by(objects: Objects, ref: VolumeRef) -> tuple[str, ...]:
    assert ref.revision is not None
    body = await objects.find(storage.VOLUMES, storage.hold(ref.volume, ref.revision))
    return () if body is None else Hold.model_validate_json(body).rules


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


async def _same(objects: Objects, before: Registration, after: Registering) -> bool:
    """Whether the source is as it was, and is meant as it was, its embargo included."""
    changing = {"revision", "as_of", "registered_at"}
    if before.model_dump(exclude=changing) != after.registration.model_dump(exclude=changing):
        return False
    record = await objects.get(storage.VOLUMES, storage.record(before.volume, before.revision))
    return MetadataRecord.model_validate_json(record).embargo_until == embargo_of(after.request)


async def commit(objects: Objects, one: Registering, revision: int) -> VolumeRef:
    """Commit a volume as this revision. Raises RefusedError where somebody else was faster."""
    registration = one.registration.model_copy(update={"revision": revision})
    record = one.record.model_copy(update={"revision": revision})
    volume = registration.volume
    # Put, not created: what was left by a registration that was killed before its commit is nobody's.
    await objects.put(storage.VOLUMES, storage.registration(volume, revision), json_bytes(registration))
    await objects.put(storage.VOLUMES, storage.record(volume, revision), json_bytes(record))
    await objects.put(storage.VOLUMES, storage.provenance(volume, revision), _provenance(one, revision))
    await _hold(objects, hold_of(record, one.purpose), registration)
    point = Commit(volume=volume, revision=revision, digest=digest_of(registration), job=job_of(volume), committed_at=now())
    if not await objects.create(storage.VOLUMES, storage.commit(volume, revision), json_bytes(point)):
        raise RefusedError(f"{volume} is being registered by somebody else", code="conflict", hint="look at it: emporter volumes")
    log.info("registered", volume=volume, revision=revision, root=registration.root)
    return VolumeRef(volume, revision)


async def _hold(objects: Objects, hold: Hold | None, registration: Registration) -> None:
    """Before the commit; what a registration that was killed left there is nobody's either."""
    key = storage.hold(registration.volume, registration.revision)
    if hold is not None:
        await objects.put(storage.VOLUMES, key, json_bytes(hold))
    elif await objects.exists(storage.VOLUMES, key):
        await objects.delete(storage.VOLUMES, [key])


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
