"""How long things are kept: what rules of retention let go, for `gc` to take away. A rule that can't be evaluated keeps."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from emporter_contracts.plans import FetchPlan
from emporter_contracts.records import MetadataRecord
from emporter_runtime.logging import get_logger
from emporter_runtime.policy.documents import Kept
from emporter_runtime.policy.errors import ExpressionError
from emporter_runtime.policy.facts import DAY_SECONDS, Asker, of_plan, of_record
from emporter_runtime.policy.judging import Facts, Policy

log = get_logger(__name__)


class Retention:
    """The rules of a policy about what may go."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def knows(self, what: Kept) -> bool:
        """Whether there is any rule about it."""
        return any(rule.what == what for rule in self._policy.document.retention)

    def of_run(self, what: Kept, plan: FetchPlan, ended: datetime, now: datetime) -> str:
        """The rule that lets go of what a complete run was made from; empty where none does for every volume of it."""
        asker = Asker(source=plan.source, source_id=plan.source_id)
        return self._let_go(what, [of_plan(plan, volume, asker, None, now) for volume in plan.volumes], ended, now, plan.job)

    def of_volume(self, record: MetadataRecord, committed: datetime, now: datetime) -> str:
        """The rule that lets go of a committed revision; empty where none does."""
        facts = of_record(record, Asker(), "access", now)
        return self._let_go("volumes", [facts], committed, now, f"{record.volume}@r{record.revision}")

    def _let_go(self, what: Kept, volumes: Sequence[Facts], since: datetime, now: datetime, about: str) -> str:
        age = (now - since).total_seconds() / DAY_SECONDS
        aged = [{**facts, "age_days": age} for facts in volumes]
        for rule in self._policy.document.retention:
            if rule.what == what and age >= rule.days and aged and all(self._holds(rule.name, facts, about) for facts in aged):
                log.info("policy_decided", point="retention", rule=rule.name, outcome="let go", what=what, about=about)
                return rule.name
        return ""

    def _holds(self, rule: str, facts: Facts, about: str) -> bool:
        try:
            return self._policy.condition(rule).holds(facts)
        except ExpressionError as error:
            log.warning("policy_decided", point="retention", rule=rule, outcome="kept", error=error.message, about=about)
            return False
