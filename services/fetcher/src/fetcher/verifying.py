"""What is stored is what the archive serves: sizes, hashes, checksums; then the manifest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Protocol

from emporter_contracts import storage
from emporter_contracts.plans import SEGMENT_BYTES, FetchPlan, Manifest, ManifestObject, PlannedObject, Segments, Unit
from emporter_runtime.errors import ObjectMissingError, TransientError
from emporter_runtime.logging import get_logger
from emporter_runtime.objects import Objects
from fetcher import checksums
from fetcher.downloading import FORCE_HINT, store_unit
from fetcher.errors import ChecksumMismatchError, SourceChangedError
from fetcher.sources.protocol import Source
from fetcher.stored import stored_pieces

OBJECTS_AT_ONCE = 4
"""Hashed at once: each holds a few pieces of 8 MiB."""
LOOKS_AT_ONCE = 64
"""Segments looked for at once: the manifest of thousands of small objects must not take a round trip each."""

log = get_logger(__name__)


class Entry(Protocol):
    """A ledger entry, as far as it matters here."""

    @property
    def bytes(self) -> int: ...

    @property
    def sha256(self) -> str: ...


async def finish(plan: FetchPlan, entries: Mapping[str, Entry], objects: Objects, source: Source) -> Manifest:
    """The manifest of a run whose every unit is in `entries`, by unit id.

    Objects of several segments are hashed in one ordered pass; of each one the size is checked, and the checksum where the
    archive or the uploader gave one. A segment that is gone meanwhile is fetched again. Raises ChecksumMismatchError naming the
    object.
    """
    run = _Run(plan, entries, objects, source)
    tasks = [asyncio.create_task(run.finished(n)) for n in range(len(plan.objects))]
    try:
        finished = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    return Manifest(
        job=plan.job, revision=plan.revision, objects=tuple(finished), archive=plan.archive, completed_at=datetime.now(UTC)
    )


class _Run:
    """What every object of one run is checked against."""

    def __init__(self, plan: FetchPlan, entries: Mapping[str, Entry], objects: Objects, source: Source) -> None:
        self._plan = plan
        self._entries = entries
        self._objects = objects
        self._source = source
        self._looks = asyncio.Semaphore(LOOKS_AT_ONCE)
        self._hashing = asyncio.Semaphore(OBJECTS_AT_ONCE)

    async def finished(self, n: int) -> ManifestObject:
        planned = self._plan.objects[n]
        units = [Unit(n, k) for k in range(planned.segments)]
        for unit in units:
            async with self._looks:
                await self._present(unit)
        only_sha256 = planned.checksum is None or planned.checksum.algorithm == "sha256"
        if len(units) == 1 and only_sha256:
            found = {"sha256": self._entry(units[0]).sha256}
        else:
            async with self._hashing:
                found = await self._hashed(planned, units)
        checksums.check(planned, found)
        fields = planned.model_dump(include=set(ManifestObject.model_fields) & set(PlannedObject.model_fields))
        return ManifestObject.model_validate({**fields, "sha256": found["sha256"]})

    async def _present(self, unit: Unit) -> None:
        """A segment may have been collected as garbage since another job stored it: then it is stored again."""
        planned = self._plan.objects[unit.obj]
        if self._entry(unit).bytes != self._plan.unit_bytes(unit):
            raise ChecksumMismatchError(f"{planned.path}: a unit of another size was entered", hint=FORCE_HINT)
        if not isinstance(planned.location, Segments):
            return
        try:
            size = (await self._objects.head(storage.RAW, storage.segment(planned.location.origin, unit.segment))).size
        except ObjectMissingError:
            log.warning("segment_lost", object=planned.path, segment=unit.segment)
            again = await store_unit(self._plan, unit, self._source, self._objects)
            if again.sha256 != self._entry(unit).sha256:
                # What was made of the first bytes, and is in the ledger, would not be what the manifest names.
                message = f"{planned.url} served other bytes for segment {unit.segment} when it was fetched again"
                raise SourceChangedError(message, hint=FORCE_HINT) from None
            size = again.bytes
        if size != self._plan.unit_bytes(unit):
            raise ChecksumMismatchError(f"{planned.path}: segment {unit.segment} is stored with {size} bytes", hint=FORCE_HINT)

    async def _hashed(self, planned: PlannedObject, units: list[Unit]) -> dict[str, str]:
        """One ordered pass; each segment is compared with its ledger entry on the way."""
        whole = checksums.digests_for(planned)
        for unit in units:
            segment = checksums.new_digest("sha256")
            async with aclosing(self._pieces(planned, unit)) as pieces:
                async for piece in pieces:
                    await checksums.updated({**whole, "segment": segment}, piece)
            if segment.hexdigest() != self._entry(unit).sha256:
                raise ChecksumMismatchError(
                    f"{planned.path}: segment {unit.segment} is no longer what was stored", hint=FORCE_HINT
                )
        return {name: digest.hexdigest() for name, digest in whole.items()}

    def _pieces(self, planned: PlannedObject, unit: Unit) -> AsyncGenerator[bytes, None]:
        if isinstance(planned.location, Segments):
            key = storage.segment(planned.location.origin, unit.segment)
            return stored_pieces(self._objects, storage.RAW, key, 0, self._plan.unit_bytes(unit))
        start = unit.segment * SEGMENT_BYTES
        return self._source.fetch(planned, start, start + self._plan.unit_bytes(unit))

    def _entry(self, unit: Unit) -> Entry:
        entry = self._entries.get(unit.id)
        if entry is None:
            raise TransientError(f"unit {unit.id} of {self._plan.job} is not in the ledger yet")
        return entry
