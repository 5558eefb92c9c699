"""What rules decided, told on the bus: the catalog keeps it."""

from __future__ import annotations

import hashlib

from emporter_contracts import subjects
from emporter_contracts.policy import Point, PolicyDecided
from emporter_runtime.bus import Bus
from emporter_runtime.jobstore import now
from emporter_runtime.policy.facts import Asker
from emporter_runtime.policy.judging import Judgement, Policy


async def say(
    bus: Bus,
    policy: Policy,
    judgement: Judgement,
    point: Point,
    asker: Asker,
    job: str,
    revision: int | None = None,
    volume: str | None = None,
) -> None:
    """Tell what was decided, where anything was; told twice it is heard once. Raises TransientError."""
    if not judgement.decisions:
        return
    event = PolicyDecided(
        job=job,
        point=point,
        revision=revision,
        volume=volume,
        source=asker.source,
        source_id=asker.source_id,
        purpose=asker.purpose,
        policy=policy.digest,
        decisions=judgement.decisions,
        at=now(),
    )
    told = event.model_dump_json(exclude={"at"})
    identity = f"policy.{job}.{point}.{hashlib.sha256(told.encode()).hexdigest()[:24]}"
    await bus.publish(subjects.policy_decided(job), event, identity, "EVENTS")
