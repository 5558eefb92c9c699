"""A policy in force: what its rules say at one point. An error never allows; every decision is logged with the rule's name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from prometheus_client import Counter

from emporter_contracts.policy import Outcome, Point, RuleDecision
from emporter_contracts.records import MetadataRecord
from emporter_runtime.logging import get_logger
from emporter_runtime.policy.documents import PolicyDocument, Rule, read_document
from emporter_runtime.policy.errors import ExpressionError, PolicyDeniedError
from emporter_runtime.policy.expressions import Expression, compiled
from emporter_runtime.policy.facts import LATER, VARIABLES, Asker, of_record

POLICY = Counter("emporter_policy_decisions_total", "What rules of the policy said", ["point", "rule", "outcome"])

log = get_logger(__name__)

Facts = Mapping[str, Any]
POINTS: tuple[Point, ...] = ("request", "publication", "access")


@dataclass(frozen=True, slots=True)
class Judgement:
    """What rules had to say, in the order of the file; empty where they had nothing against it."""

    decisions: tuple[RuleDecision, ...] = ()
    statuses: Mapping[str, int] = field(default_factory=dict)

    @property
    def denied(self) -> RuleDecision | None:
        """The first decision that refuses."""
        return next((d for d in self.decisions if d.outcome == "deny"), None)

    @property
    def held(self) -> tuple[str, ...]:
        """The rules that hold."""
        return tuple(d.rule for d in self.decisions if d.outcome == "hold")

    @property
    def status(self) -> int:
        """Of the HTTP answer that refuses."""
        return self.statuses.get(self.denied.rule, 403) if self.denied else 403

    def require(self, about: str) -> None:
        """Raises PolicyDeniedError where a rule refuses."""
        if self.denied is not None:
            raise PolicyDeniedError(self.denied, about)


@dataclass(frozen=True)
class Policy:
    """A document that was checked, ready to judge."""

    document: PolicyDocument = PolicyDocument()

    @classmethod
    def read(cls, path: Path | None) -> Policy:
        """The policy in a file; one without rules where there is no file. Raises PolicyFileError."""
        return cls() if path is None else cls(read_document(path))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the document: the same rules have the same."""
        body = self.document.model_dump(mode="json")
        return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @cached_property
    def _conditions(self) -> dict[str, Expression]:
        entries = (*self.document.rules, *self.document.retention)
        return {entry.name: compiled(entry.when, VARIABLES) for entry in entries}

    def condition(self, rule: str) -> Expression:
        """The condition of a rule, of either kind."""
        return self._conditions[rule]

    def rules_at(self, point: Point) -> list[Rule]:
        """The rules that are asked at a point."""
        return [rule for rule in self.document.rules if point in rule.at]

    def at_arrival(self, facts: Facts) -> Judgement:
        """What the rules of `request` say that need to know nothing of the volume."""
        return self._judged("request", [r for r in self.rules_at("request") if not self._waits(r)], facts)

    def at_plan(self, volumes: Sequence[Facts]) -> Judgement:
        """What the other rules of `request` say of the volumes of a plan; each rule speaks once, of the first it is about."""
        rules = [r for r in self.rules_at("request") if self._waits(r)]
        said = [decision for facts in volumes for decision in self._judged("request", rules, facts).decisions]
        first: dict[str, RuleDecision] = {}
        for decision in sorted(said, key=lambda d: d.outcome != "deny"):
            first.setdefault(decision.rule, decision)
        return self._judgement([first[rule.name] for rule in rules if rule.name in first])

    def at_publication(self, facts: Facts) -> Judgement:
        return self._judged("publication", self.rules_at("publication"), facts)

    def at_access(self, facts: Facts) -> Judgement:
        return self._judged("access", self.rules_at("access"), facts)

    def everywhere(self, record: MetadataRecord, asker: Asker, now: datetime) -> dict[Point, Judgement]:
        """What the rules would say of a volume now, at every point."""
        request, publication, access = (of_record(record, asker, point, now) for point in POINTS)
        at_request = Judgement((*self.at_arrival(request).decisions, *self.at_plan([request]).decisions))
        return {"request": at_request, "publication": self.at_publication(publication), "access": self.at_access(access)}

    def _waits(self, rule: Rule) -> bool:
        return bool(self._conditions[rule.name].names & LATER)

    def _judged(self, point: Point, rules: Iterable[Rule], facts: Facts) -> Judgement:
        said = (_decided(rule, self._conditions[rule.name], point, facts) for rule in rules)
        return self._judgement([decision for decision in said if decision is not None])

    def _judgement(self, decisions: list[RuleDecision]) -> Judgement:
        return Judgement(tuple(decisions), {rule.name: rule.status for rule in self.document.rules})


def _decided(rule: Rule, condition: Expression, point: Point, facts: Facts) -> RuleDecision | None:
    try:
        if not condition.holds(facts):
            return None
    except ExpressionError as error:
        return RuleDecision(rule=rule.name, outcome=_on_error(rule, point), message=rule.message, error=error.message)
    return RuleDecision(rule=rule.name, outcome=rule.then, message=rule.message)


def _on_error(rule: Rule, point: Point) -> Outcome:
    if rule.on_error == "warn":
        return "warn"
    # The voxels are there, and a person can look at them: nothing is gained by throwing them away for a fault in a rule.
    return "hold" if point == "publication" else "deny"


def tell(point: Point, judgement: Judgement, **about: Any) -> None:
    """Log and count each decision."""
    for decision in judgement.decisions:
        POLICY.labels(point, decision.rule, decision.outcome).inc()
        write = log.info if decision.outcome == "warn" and not decision.error else log.warning
        write("policy_decided", point=point, **decision.model_dump(exclude_defaults=True), **about)
