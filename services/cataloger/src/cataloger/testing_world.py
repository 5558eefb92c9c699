"""A catalog with a store in memory, and everything that may be said to it: what every suite starts from."""

from __future__ import annotations

from typing import Any

from cataloger.database import Database
from cataloger.feed import Feed
from cataloger.intake import Intake
from cataloger.queries import Catalog
from cataloger.removal import Removals
from cataloger.testing_builders import JOB, a_plan, a_record, fact_of, store_commit, store_plan
from emporter_contracts.commands import CatalogQuery
from emporter_contracts.events import RawManifestComplete, RawPlanReady, RunEvent, VolumeComplete
from emporter_contracts.ids import VolumeRef
from emporter_contracts.jobs import JobStatus
from emporter_runtime.objects import Objects


class World:
    """A catalog on one database, a store in memory, and everything that may be said to it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.objects = Objects.in_memory()
        self.feed = Feed()
        self.intake = Intake(database, self.objects, self.feed)
        self.removals = Removals(database, self.objects, self.intake)
        self.catalog = Catalog(database, "http://catalog", "http://blocks")

    async def hear(self, *said: JobStatus | RunEvent) -> None:
        for one in said:
            fact = fact_of(one)
            if isinstance(one, JobStatus):
                await self.intake.state_changed(one, fact)
            elif isinstance(one, RawPlanReady):
                await self.intake.plan_ready(one, fact)
            elif isinstance(one, RawManifestComplete):
                await self.intake.manifest_complete(one, fact)
            elif isinstance(one, VolumeComplete):
                await self.intake.volume_complete(one, fact)
            else:
                await self.intake.listed(fact)

    async def planned(self, *volumes: str, job: str = JOB, run: tuple[int, int] = (1, 1), **fields: Any) -> RawPlanReady:
        plan = await store_plan(self.objects, a_plan(*volumes, job=job, revision=run[0], **fields))
        names = tuple(v.volume for v in plan.volumes)
        return RawPlanReady(job=job, revision=run[0], generation=run[1], objects=1, bytes=1, volumes=names)

    async def finished(self, volume: str = JOB, job: str = JOB, run: tuple[int, int] = (1, 1), **core: Any) -> VolumeComplete:
        await store_commit(self.objects, a_record(volume, run[0], **core), job)
        return VolumeComplete(job=job, revision=run[0], generation=run[1], volume=volume, digest="d" * 64)

    async def row(self, volume: str = JOB) -> dict[str, Any]:
        found = {r["volume"]: r for r in await self.rows()}
        return found[volume]

    async def rows(self, **query: Any) -> list[dict[str, Any]]:
        return (await self.catalog.volumes(CatalogQuery(**query))).items

    async def record(self, ref: str = JOB) -> dict[str, Any]:
        return await self.catalog.record(VolumeRef.parse(ref))

    async def history(self, volume: str = JOB) -> list[dict[str, Any]]:
        return (await self.catalog.events(VolumeRef.parse(volume), CatalogQuery(limit=1000))).items
