"""An operator's rules for tests, each as a line of policy.yaml says it."""

from __future__ import annotations

from emporter_runtime.policy.documents import parse_document
from emporter_runtime.policy.judging import Policy


def rules(*said: str) -> Policy:
    """The policy that holds these rules: `{name: …, at: […], when: '…', then: …}`."""
    return Policy(parse_document("rules:\n" + "".join(f"  - {rule}\n" for rule in said)))
