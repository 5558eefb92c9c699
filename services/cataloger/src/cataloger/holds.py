"""Holds that end by themselves: an embargo that is over, an age that is reached.

Rules of publication that look at the clock are asked again about what they held; what none of them holds any more becomes
current. Only what the catalog takes for held is looked at, and the store is asked only where the record says that the time has
come. Gates, and rules that look at no clock, hold until somebody releases what they hold.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime

from pydantic import ValidationError
from sqlalchemy import Select, select, tuple_

from cataloger.database import Database
from cataloger.intake import Intake
from cataloger.models import Revision
from emporter_contracts import storage
from emporter_contracts.commands import IngestRequest
from emporter_contracts.errors import EmporterError
from emporter_contracts.ids import VolumeRef
from emporter_contracts.plans import Hold
from emporter_contracts.records import MetadataRecord
from emporter_runtime.commits import release
from emporter_runtime.logging import get_logger
from emporter_runtime.objects import Objects
from emporter_runtime.policy.facts import Asker
from emporter_runtime.policy.judging import Judgement, Policy
from emporter_runtime.policy.publishing import has_ended, is_over, looks_at_time

AT_ONCE = 500
"""Held revisions looked at in one sweep; a catalog with more of them goes round."""

log = get_logger(__name__)


class Holds:
    """Asks rules again about what they held. `policy` is what this service was started with, as the others were."""

    def __init__(
        self,
        database: Database,
        objects: Objects,
        intake: Intake,
        policy: Policy,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._database = database
        self._objects = objects
        self._intake = intake
        self._policy = policy
        self._clock = clock
        self._after = ("", 0)

    async def sweep(self) -> list[VolumeRef]:
        """Release what no rule holds any more; what that was."""
        if not any(looks_at_time(self._policy, rule.name) for rule in self._policy.rules_at("publication")):
            return []
        async with self._database.reading() as session:
            rows = [(row.volume, row.revision, row.record) for row in await session.execute(held_after(self._after, AT_ONCE))]
        self._after = rows[-1][:2] if len(rows) == AT_ONCE else ("", 0)
        return [VolumeRef(volume, revision) for volume, revision, record in rows if await self._look(volume, revision, record)]

    async def sweep_for_ever(self, seconds: float) -> None:
        """A sweep every `seconds`; one that fails is tried again at the next turn."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await self.sweep()
            except EmporterError as error:
                log.warning("sweep_failed", error=error.message)

    async def _look(self, volume: str, revision: int, said: dict[str, object]) -> bool:
        try:
            record = MetadataRecord.model_validate(said)
            if not self._may_be_over(record) or not await self._is_over(record):
                return False
        except (ValidationError, ValueError) as error:
            log.warning("hold_unreadable", volume=volume, revision=revision, error=str(error)[:300])
            return False
        if await release(self._objects, volume, revision):
            for rule in Judgement(record.decisions).held:
                log.warning("policy_decided", point="publication", rule=rule, outcome="ended", volume=volume, revision=revision)
        await self._intake.released(volume, {revision})
        return True

    def _may_be_over(self, record: MetadataRecord) -> bool:
        """By the record alone, which the catalog has."""
        rules, at = Judgement(record.decisions).held, self._clock()
        return not record.metadata.quality.held and all(self._without_request(rule, record, at) for rule in rules)

    def _without_request(self, rule: str, record: MetadataRecord, at: datetime) -> bool:
        """Whether a rule lets go; of one that asks what the request was, the store has to tell."""
        if looks_at_time(self._policy, rule) and "request" in self._policy.condition(rule).names:
            return True
        return has_ended(rule, record, Asker(), self._policy, at)

    async def _is_over(self, record: MetadataRecord) -> bool:
        """By the hold itself: it also knows what it took over from the revision before."""
        volume, revision = record.volume, record.revision
        body, provenance = await asyncio.gather(
            self._objects.find(storage.VOLUMES, storage.hold(volume, revision)),
            self._objects.find(storage.VOLUMES, storage.provenance(volume, revision)),
        )
        if body is None:
            return True  # somebody released it
        if provenance is None:
            return False
        request = IngestRequest.model_validate(json.loads(provenance)["request"])
        return is_over(Hold.model_validate_json(body), record, request, self._policy, self._clock())


def held_after(place: tuple[str, int], limit: int) -> Select[tuple[str, int, dict[str, object]]]:
    """The next held revisions, with their records, after a place in their order."""
    return (
        select(Revision.volume, Revision.revision, Revision.record)
        .where(Revision.held, Revision.removed_at.is_(None), tuple_(Revision.volume, Revision.revision) > place)
        .order_by(Revision.volume, Revision.revision)
        .limit(limit)
    )
