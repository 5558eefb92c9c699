"""The operator's rules at publication: what they say is written into the record, before the commit."""

from __future__ import annotations

from datetime import UTC, datetime

from emporter_contracts.commands import IngestRequest
from emporter_contracts.plans import Hold
from emporter_contracts.records import MetadataRecord
from emporter_runtime.policy.facts import Asker, embargo_of, of_record
from emporter_runtime.policy.judging import Judgement, Policy, tell


def under_rules(record: MetadataRecord, request: IngestRequest, policy: Policy, purpose: str) -> MetadataRecord:
    """The record with what the rules say of it. Raises PolicyDeniedError where one refuses: then nothing is committed."""
    record = record.model_copy(update={"embargo_until": embargo_of(request)})
    asker = Asker.of(request, purpose)
    judgement = policy.at_publication(of_record(record, asker, "publication", datetime.now(UTC)))
    tell("publication", judgement, volume=record.volume, revision=record.revision, purpose=asker.purpose)
    judgement.require(f"{record.volume}@r{record.revision}")
    return record.model_copy(update={"decisions": judgement.decisions})


def hold_of(record: MetadataRecord) -> Hold | None:
    """What keeps a revision from becoming current: gates the quality policy names, and rules; None where nothing does."""
    rules = Judgement(record.decisions).held
    gates = tuple(g.gate for g in record.metadata.quality.gates if g.verdict == "fail") if record.metadata.quality.held else ()
    if not gates and not rules:
        return None
    return Hold(volume=record.volume, revision=record.revision, gates=gates, rules=rules, held_at=record.updated_at)
