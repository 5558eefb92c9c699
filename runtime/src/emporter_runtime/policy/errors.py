"""What can be wrong with a policy, and what a policy can have against something.

EmporterError
├── PolicyFileError        the file can't be used: line, rule, and what is wrong there
├── ExpressionError        (also a ValueError) an expression that can't be used, or could not be evaluated
└── PermanentError
    └── PolicyDeniedError  a rule refuses
"""

from __future__ import annotations

from emporter_contracts.errors import EmporterError
from emporter_contracts.policy import RuleDecision
from emporter_runtime.errors import PermanentError


class PolicyFileError(EmporterError):
    """The policy file can't be used."""

    code = "policy_file"


class ExpressionError(EmporterError, ValueError):
    """An expression that can't be used, or could not be evaluated."""

    code = "policy_expression"


class PolicyDeniedError(PermanentError):
    """A rule of the operator's policy refuses. `decision` says which and why."""

    code = "policy_denied"

    def __init__(self, decision: RuleDecision, about: str) -> None:
        why = f"it could not be evaluated: {decision.error}" if decision.error else decision.message
        super().__init__(
            f"policy rule {decision.rule} refuses {about}" + (f": {why}" if why else ""),
            hint=f"emporter policy show has the rule {decision.rule}; the operator of this stack decides about it",
        )
        self.decision = decision
