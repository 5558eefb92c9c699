"""The operator's rules at publication, for whatever is committed: an ingest, a registered volume, a correction.

What they say is written into the record, before the commit. A hold by rules that look at the clock ends when they let go.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime

from emporter_contracts.commands import IngestRequest
from emporter_contracts.plans import Hold
from emporter_contracts.records import MetadataRecord
from emporter_runtime.policy.errors import ExpressionError
from emporter_runtime.policy.facts import VOLUME_FIELDS, Asker, embargo_of, of_record
from emporter_runtime.policy.judging import Judgement, Policy, tell

TIMES = frozenset({"now", "age_days"})
"""Variables that change by themselves: a rule that asks for one may let go of what it held."""

_WHOLE = re.compile(r"\bvolume\b(?!\s*\.)")


def judged(record: MetadataRecord, request: IngestRequest, policy: Policy, purpose: str) -> tuple[MetadataRecord, Judgement]:
    """The record with what the rules say of it, refused or not; nothing is told of it yet."""
    record = record.model_copy(update={"embargo_until": embargo_of(request)})
    asker = Asker.of(request, purpose)
    judgement = policy.at_publication(of_record(record, asker, "publication", datetime.now(UTC)))
    return record.model_copy(update={"decisions": judgement.decisions}), judgement


def under_rules(record: MetadataRecord, request: IngestRequest, policy: Policy, purpose: str) -> MetadataRecord:
    """`judged`, logged and counted. Raises PolicyDeniedError where a rule refuses: then nothing is committed."""
    record, judgement = judged(record, request, policy, purpose)
    tell("publication", judgement, volume=record.volume, revision=record.revision, purpose=purpose)
    judgement.require(f"{record.volume}@r{record.revision}")
    return record


def require_allowed(record: MetadataRecord, request: IngestRequest, policy: Policy, purpose: str) -> None:
    """Raises PolicyDeniedError, logged and counted, where a rule refuses; else says nothing: it will be judged again."""
    if judged(record, request, policy, purpose)[1].denied is not None:
        under_rules(record, request, policy, purpose)


def hold_of(record: MetadataRecord, purpose: str | None = None) -> Hold | None:
    """What keeps a revision from becoming current: gates the quality policy names, and rules; None where nothing does."""
    return hold_by(record, Judgement(record.decisions).held, purpose)


def hold_of_correction(
    record: MetadataRecord, before: MetadataRecord, held: Hold | None, policy: Policy, purpose: str
) -> Hold | None:
    """The same for a correction of `before`, which `held` holds.

    A rule that holds what is corrected, and is no more in the policy, goes on holding. What somebody released of it stays
    released, unless the rule looks at something that was changed.
    """
    said = Judgement(record.decisions).held
    holding = held.rules if held is not None else ()
    known = {rule.name for rule in policy.rules_at("publication")}
    released = [rule for rule in Judgement(before.decisions).held if rule not in holding]
    changed = _changed(before, record)
    kept = [rule for rule in said if rule not in released or (rule in known and _looks_at(policy, rule, changed))]
    return hold_by(record, (*kept, *(rule for rule in holding if rule not in known)), purpose)


def hold_by(record: MetadataRecord, rules: Iterable[str], purpose: str | None) -> Hold | None:
    """A hold by these rules, and by the gates the record says."""
    rules = tuple(dict.fromkeys(rules))
    gates = tuple(g.gate for g in record.metadata.quality.gates if g.verdict == "fail") if record.metadata.quality.held else ()
    if not gates and not rules:
        return None
    held_at = record.updated_at
    return Hold(volume=record.volume, revision=record.revision, gates=gates, rules=rules, held_at=held_at, purpose=purpose)


def looks_at_time(policy: Policy, rule: str) -> bool:
    """Whether a rule of publication asks for the time; a rule the policy does not have asks for nothing."""
    known = any(one.name == rule for one in policy.rules_at("publication"))
    return known and bool(policy.condition(rule).names & TIMES)


def has_ended(rule: str, record: MetadataRecord, asker: Asker, policy: Policy, at: datetime) -> bool:
    """Whether a rule that held a revision lets go of it by now; none does that does not look at the time, or fails."""
    if not looks_at_time(policy, rule):
        return False
    try:
        return not policy.condition(rule).holds(of_record(record, asker, "publication", at))
    except ExpressionError:
        return False


def is_over(hold: Hold, record: MetadataRecord, request: IngestRequest, policy: Policy, at: datetime) -> bool:
    """Whether everything that held a revision has ended; gates never do, they are released by people."""
    if hold.gates or not hold.rules:
        return False
    # Holds of before purposes were written down: what a rule would say of the right one is not known.
    if hold.purpose is None and any("request" in policy.condition(r).names for r in hold.rules if looks_at_time(policy, r)):
        return False
    asker = Asker.of(request, hold.purpose or "")
    return all(has_ended(rule, record, asker, policy, at) for rule in hold.rules)


def _changed(before: MetadataRecord, after: MetadataRecord) -> list[str]:
    """The fields of `volume`, as rules see it, that differ."""
    was, is_ = (of_record(record, Asker(), "publication", record.updated_at)["volume"] for record in (before, after))
    return [field for field in sorted(VOLUME_FIELDS) if was[field] != is_[field]]


def _looks_at(policy: Policy, rule: str, fields: Iterable[str]) -> bool:
    """Whether a rule may ask for one of these fields; where the text leaves it open, it does."""
    text = policy.condition(rule).text
    return bool(_WHOLE.search(text)) or any(re.search(rf"\b{field}\b", text) for field in fields)
