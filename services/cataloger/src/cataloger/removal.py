"""Removed and released revisions. `rm` and `release` change the store and say nothing on the bus, so the catalog looks."""

from __future__ import annotations

import asyncio

from cataloger.database import Database
from cataloger.intake import Intake
from cataloger.repository import held_revisions, readable_after
from cataloger.store import removed_revisions
from emporter_contracts.errors import EmporterError
from emporter_runtime.commits import held
from emporter_runtime.logging import get_logger
from emporter_runtime.objects import Objects

LOOK_SECONDS = 1.0
"""How long a reader waits for the store's word on tombstones before it is answered from the catalog alone."""
SWEEP_VOLUMES = 200
"""Volumes looked at in one sweep: with a sweep each 30 s a catalog of 10,000 takes 25 minutes, at 7 requests a second."""
SWEEP_CONCURRENCY = 8
"""Listings of tombstones at once."""

log = get_logger(__name__)


class Removals:
    """Finds tombstones and tells the catalog."""

    def __init__(self, database: Database, objects: Objects, intake: Intake) -> None:
        self._database = database
        self._objects = objects
        self._intake = intake
        self._last = ""

    async def look(self, volume: str) -> bool:
        """Take in the tombstones and lifted holds of one volume; whether one was new."""
        found = await removed_revisions(self._objects, volume)
        news = await self._intake.removed(volume, found) if found else False
        return await self._look_at_holds(volume) or news

    async def _look_at_holds(self, volume: str) -> bool:
        """Holds are only ever lifted, so the store is asked only about volumes the catalog takes for held."""
        async with self._database.reading() as session:
            known = await held_revisions(session, volume)
        lifted = known - await held(self._objects, volume) if known else set()
        return await self._intake.released(volume, lifted) if lifted else False

    async def look_briefly(self, volume: str) -> None:
        """`look` for a reader: a store that is down or slow is no reason not to answer."""
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await self.look(volume)
        except (EmporterError, TimeoutError) as error:
            log.info("tombstones_unknown", volume=volume, error=repr(error))

    async def sweep(self) -> int:
        """Look at the next SWEEP_VOLUMES volumes, from the first again after the last; how many were removed."""
        async with self._database.reading() as session:
            volumes = await readable_after(session, self._last, SWEEP_VOLUMES)
        self._last = volumes[-1] if len(volumes) == SWEEP_VOLUMES else ""
        slots = asyncio.Semaphore(SWEEP_CONCURRENCY)

        async def look(volume: str) -> bool:
            async with slots:
                return await self.look(volume)

        return sum(await asyncio.gather(*(look(v) for v in volumes)))

    async def sweep_for_ever(self, seconds: float) -> None:
        """A sweep every `seconds`; one that fails is tried again at the next turn."""
        while True:
            await asyncio.sleep(seconds)
            try:
                removed = await self.sweep()
            except EmporterError as error:
                log.warning("sweep_failed", error=error.message)
            else:
                if removed:
                    log.info("removed", volumes=removed)
