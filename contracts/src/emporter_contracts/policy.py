"""What the operator's rules decided: said by the fetcher and the converter, kept by the catalog."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from emporter_contracts.commands import Message

PURPOSE_HEADER = "Emporter-Purpose"
"""What the data is wanted for, in the asker's words: of a message to `ingest.request`, and of HTTP requests."""
PURPOSE_LENGTH = 100
"""Characters of a purpose at most; rules see it, logs hold it."""
EMBARGO_PARAMETER = "embargo_until"
"""Of `IngestRequest.parameters`: an ISO 8601 date or time until which what is made of it is under embargo."""

Point = Literal["request", "publication", "access"]
"""Where rules are asked: before anything is fetched, before a revision is committed, before anything of it is served."""
Outcome = Literal["warn", "hold", "deny"]


class RuleDecision(Message):
    """What one rule of the policy said. `error` is why it could not be evaluated; empty where it could."""

    rule: str
    outcome: Outcome
    message: str = ""
    error: str = ""


class PolicyDecided(Message):
    """Rules that had something to say about a request, or about a revision that was to be published; never without a decision.

    `revision` and `volume` are None where the request was judged before it had them. `policy` is the SHA-256 of the policy.
    """

    job: str
    point: Point
    revision: Annotated[int, Field(ge=1)] | None = None
    volume: str | None = None
    source: str
    source_id: str
    purpose: str = ""
    policy: str
    decisions: Annotated[tuple[RuleDecision, ...], Field(min_length=1)]
    at: datetime
