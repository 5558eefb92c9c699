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
from emporter_runtime.plans import required
from emporter_runtime.policy.facts import Asker
from emporter_runtime.policy.judging import Judgement, Policy
from emporter_runtime.policy.saying import say


def answer_revisions(bus: Bus, objects: Objects, policy: QualityPolicy, rules: Policy) -> None:
    """Answer `volume.revise`."""

    @bus.answer(subjects.VOLUME_REVISE, queue="converter")
    async def on_revise(command: ReviseVolume, _: Delivery) -> Revised:
        made = await revise(objects, command, policy, rules, tell)
        commit = required(await read_commit(objects, made.volume, made.revision), "the commit")
        run = JobCommand(job=commit.job, revision=made.revision, generation=1)
        # Said again where it was there before: whoever was killed between commit and fact asks once more.
        await say_complete(bus, run, made.volume, commit.digest)
        return made

    async def tell(record: MetadataRecord, claim: StoredRequest) -> None:
        asker, judgement = Asker.of(claim.request, claim.purpose), Judgement(record.decisions)
        await say(bus, rules, judgement, "publication", asker, job_of(record.volume), record.revision, record.volume)
