"""The operator's rules at access: asked once for a revision, a purpose and a caller, and remembered for some seconds."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime

from starlette.requests import Request

from block_server.access import grant_of
from block_server.errors import PolicyRefusedError
from emporter_contracts.errors import InvalidValueError, RefusedError
from emporter_contracts.ids import VolumeRef
from emporter_contracts.policy import PURPOSE_HEADER
from emporter_contracts.records import MetadataRecord
from emporter_runtime.access import EVERYTHING
from emporter_runtime.policy.facts import Asker, checked_purpose, of_record
from emporter_runtime.policy.judging import Judgement, Policy, tell

POLICED = "emporter_policed"
"""Set in the scope of a request whose answer depends on its purpose."""
REMEMBERED = 16_384
"""Judgements kept, some hundred bytes each; a purpose is the asker's own text, so their number has to end."""

Clock = Callable[[], datetime]


class AccessRules:
    """The rules of point `access`. Without such rules it costs nothing; with them a look-up by request."""

    def __init__(self, policy: Policy, seconds: float, clock: Clock = lambda: datetime.now(UTC)) -> None:
        self._policy = policy
        self._seconds = seconds
        self._clock = clock
        self._active = bool(policy.rules_at("access"))
        self._remembered: OrderedDict[tuple[VolumeRef, str, str], tuple[float, Judgement]] = OrderedDict()

    def check(self, request: Request, ref: VolumeRef, record: MetadataRecord) -> None:
        """Raises PolicyRefusedError where a rule refuses this revision to this request; InvalidValueError for a bad purpose."""
        if not self._active:
            return
        request.scope[POLICED] = True
        purpose, grant = purpose_of(request), grant_of(request)
        judgement = self.judge(ref, record, purpose, "" if grant is EVERYTHING else grant.by)
        if judgement.denied is not None:
            raise PolicyRefusedError(str(ref), judgement.denied, judgement.status)

    def judge(self, ref: VolumeRef, record: MetadataRecord, purpose: str, caller: str) -> Judgement:
        """What the rules say, as of some seconds ago at most."""
        key = (ref, purpose, caller)
        kept = self._remembered.get(key)
        if kept is not None and time.monotonic() - kept[0] < self._seconds:
            self._remembered.move_to_end(key)
            return kept[1]
        judgement = self._policy.at_access(of_record(record, Asker(purpose, caller), "access", self._clock()))
        tell("access", judgement, volume=str(ref), purpose=purpose, caller=caller)
        self._remembered[key] = (time.monotonic(), judgement)
        self._remembered.move_to_end(key)
        while len(self._remembered) > REMEMBERED:
            self._remembered.popitem(last=False)
        return judgement


def purpose_of(request: Request) -> str:
    """What the data is wanted for, by header, else by `?purpose=`. Raises InvalidValueError."""
    said = request.headers.get(PURPOSE_HEADER) or request.query_params.get("purpose", "")
    try:
        return checked_purpose(said)
    except RefusedError as error:
        raise InvalidValueError(error.message, hint=error.hint) from None
