"""Runs as the store remembers them: when a generation was begun, and when and as what it ended."""

from __future__ import annotations

from datetime import datetime

from emporter_contracts import storage
from emporter_contracts.commands import Message, Refusal
from emporter_runtime.objects import Objects


class RunNote(Message):
    """`generations/<n>.json` and `.ended.json`: when a run was started or ended, and as what."""

    job: str
    revision: int
    generation: int
    at: datetime
    state: str
    error: Refusal | None = None


async def last_generation(objects: Objects, job: str, revision: int) -> tuple[int, RunNote | None]:
    """The highest generation of a revision (1 where none was begun), and its end where it ended."""
    names = await objects.names(storage.RAW, storage.run_prefix(job, revision) + "generations/")
    last = max((int(n.removesuffix(".json")) for n in names if n.removesuffix(".json").isdigit()), default=1)
    body = await objects.find(storage.RAW, storage.generation_ended(job, revision, last))
    return last, RunNote.model_validate_json(body) if body else None
