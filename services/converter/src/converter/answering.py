"""Requests the converter answers: metadata of a committed volume is said anew."""

from __future__ import annotations

from converter.quality_policy import QualityPolicy
from converter.revising import revise
from converter.steward import say_complete
from emporter_contracts import subjects
from emporter_contracts.commands import JobCommand
from emporter_contracts.ids import job_of
from emporter_contracts.plans import StoredRequest
from emporter_contracts.records import MetadataRecord
from emporter_contracts.revisions import Revised, ReviseVolume
from emporter_runtime.bus import Bus, Delivery
from emporter_runtime.commits import read_commit
from emporter_runtime.objects import Objects
from emporter_runtime.policy.facts import Asker
from emporter_runtime.policy.judging import Judgement, Policy
from emporter_runtime.policy.saying import say


def answer_revisions(bus: Bus, objects: Objects, policy: QualityPolicy, rules: Policy) -> None:
    """Answer `volume.revise`."""

    @bus.answer(subjects.VOLUME_REVISE, queue="converter")
    async def on_revise(command: ReviseVolume, _: Delivery) -> Revised:
        made = await revise(objects, command, policy, rules, tell)
        if made.existing:
            # Said again: whoever was killed between commit and fact asks once more.
            await say_committed(made.volume, made.revision)
        return made

    async def tell(record: MetadataRecord, claim: StoredRequest) -> None:
        asker, judgement = Asker.of(claim.request, claim.purpose), Judgement(record.decisions)
        await say(bus, rules, judgement, "publication", asker, job_of(record.volume), record.revision, record.volume)
        await say_committed(record.volume, record.revision)

    async def say_committed(volume: str, revision: int) -> None:
        commit = await read_commit(objects, volume, revision)
        if commit is not None:
            await say_complete(bus, JobCommand(job=commit.job, revision=revision, generation=1), volume, commit.digest)
