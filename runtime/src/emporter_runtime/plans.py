"""Stored plans and manifests, parsed once a process: running jobs come back every second, and what is stored never changes."""

from __future__ import annotations

from typing import TypeVar

from emporter_contracts import storage
from emporter_contracts.commands import Message
from emporter_contracts.plans import ConversionPlan, FetchPlan, Manifest, StoredRequest
from emporter_runtime.errors import TransientError
from emporter_runtime.objects import Objects

KEPT = 128
"""Parsed values a process keeps, oldest out first."""

M = TypeVar("M", bound=Message)


class StoredPlans:
    """What is stored of a run. Every method gives None while it is not stored yet."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._kept: dict[str, Message] = {}

    async def request(self, job: str, revision: int) -> StoredRequest | None:
        return await self._find(storage.request(job, revision), StoredRequest)

    async def plan(self, job: str, revision: int) -> FetchPlan | None:
        return await self._find(storage.plan(job, revision), FetchPlan)

    async def manifest(self, job: str, revision: int) -> Manifest | None:
        return await self._find(storage.manifest(job, revision), Manifest)

    async def conversion(self, job: str, revision: int) -> ConversionPlan | None:
        return await self._find(storage.conversion(job, revision), ConversionPlan)

    async def _find(self, key: str, model: type[M]) -> M | None:
        kept = self._kept.get(key)
        if isinstance(kept, model):
            return kept
        body = await self._objects.find(storage.RAW, key)
        if body is None:
            return None
        value = model.model_validate_json(body)
        while len(self._kept) >= KEPT:
            self._kept.pop(next(iter(self._kept)))
        self._kept[key] = value
        return value


def required(value: M | None, what: str) -> M:
    """`value`, which an earlier step stored. Raises TransientError where the store does not show it (yet)."""
    if value is None:
        raise TransientError(f"{what} is not in the store yet")
    return value
