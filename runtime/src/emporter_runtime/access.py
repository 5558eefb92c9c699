"""Who may read which volumes, and how much of them: scopes, budgets, and what one request is granted.

AccessError
├── NotAdmittedError         401  no token, or one that is not known (any more)
├── ForbiddenError           403  a token or link that is good, but not for this
├── LinkRefusedError         403  a signed link that was changed, or whose token was revoked
├── LinkExpiredError         403  a signed link whose time is over
├── BudgetSpentError         429  no bytes are left until the period ends
└── AccessSettingsError      a service can't start, or a file can't be read
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field

from emporter_contracts.errors import EmporterError, InvalidValueError
from emporter_contracts.ids import VolumeRef

SIZES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
PERIODS = {"hour": 3600, "day": 86_400, "week": 7 * 86_400, "month": 30 * 86_400}
_ENTRY = re.compile(r"(?P<pattern>[a-z0-9_*?-]{1,128})(?:@r(?P<revision>[1-9][0-9]{0,7}))?\Z")
_BUDGET = re.compile(r"\s*(?P<size>\d+(?:\.\d+)?)\s*(?P<unit>[kmgt]?i?b)\s*/\s*(?P<period>[a-z]+)\s*\Z", re.IGNORECASE)


class AccessError(EmporterError):
    """Base of what is refused to whoever asks; `status` is of HTTP."""

    status: ClassVar[int] = 403

    @property
    def headers(self) -> dict[str, str]:
        """What the answer says beside its body."""
        return {}


class NotAdmittedError(AccessError):
    """`given` says whether there was a token at all (RFC 6750 section 3)."""

    code = "not_admitted"
    status = 401

    def __init__(self, message: str, *, hint: str, given: bool) -> None:
        super().__init__(message, hint=hint)
        self.given = given

    @property
    def headers(self) -> dict[str, str]:
        return {"www-authenticate": 'Bearer realm="emporter"' + (', error="invalid_token"' if self.given else "")}


class ForbiddenError(AccessError):
    code = "not_in_scope"


class LinkRefusedError(AccessError):
    code = "link_refused"


class LinkExpiredError(AccessError):
    code = "link_expired"


class BudgetSpentError(AccessError):
    """`retry_after` is in seconds."""

    code = "budget_spent"
    status = 429

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message, hint=f"ask again in {retry_after} s, or ask the operator for more")
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        return {"retry-after": str(self.retry_after)}


class AccessSettingsError(EmporterError):
    """Settings or a token file that would leave open what should be closed, or can't be read."""

    code = "access_settings"


class Budget(BaseModel):
    """So many bytes of answers in each period; periods begin at multiples of their length since 1970, on every replica alike."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: Annotated[int, Field(ge=1)]
    seconds: Annotated[int, Field(ge=1)]

    @classmethod
    def parse(cls, text: str) -> Self:
        """`10GiB/day`. Raises InvalidValueError."""
        match = _BUDGET.match(text)
        size = SIZES.get(match["unit"].lower()) if match else None
        period = PERIODS.get(match["period"].lower()) if match else None
        if match is None or size is None or period is None or (count := int(float(match["size"]) * size)) < 1:
            raise InvalidValueError(f"{text[:40]!r} is no budget", hint=f"write 10GiB/day; periods are {', '.join(PERIODS)}")
        return cls(bytes=count, seconds=period)

    def __str__(self) -> str:
        period = next((name for name, seconds in PERIODS.items() if seconds == self.seconds), f"{self.seconds} s")
        unit = max((unit for unit, size in SIZES.items() if self.bytes % size == 0), key=SIZES.__getitem__)
        return f"{self.bytes // SIZES[unit]} {unit.upper().replace('I', 'i')}/{period}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a scope: volumes by a pattern (`*` any characters, `?` one), all revisions of them or one."""

    pattern: str
    revision: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """`phantom`, `idr-*`, `*`, `phantom@r3`. Raises InvalidValueError."""
        match = _ENTRY.match(text)
        if match is None:
            raise InvalidValueError(
                f"{text[:80]!r} names no volumes", hint="write a volume, a pattern such as idr-*, or one revision: VOLUME@r3"
            )
        return cls(match["pattern"], int(match["revision"]) if match["revision"] else None)

    def sees(self, volume: str) -> bool:
        """Whether some revision of a volume is in it."""
        return fnmatchcase(volume, self.pattern)

    def allows(self, ref: VolumeRef) -> bool:
        """Whether a revision is in it; where `ref` names none, whether all are."""
        return self.sees(ref.volume) and self.revision in (None, ref.revision)


Scope = tuple[Entry, ...]
ALL: Scope = (Entry("*"),)


@dataclass(frozen=True, slots=True)
class Purse:
    """A budget, and by which name it is kept."""

    name: str
    budget: Budget


@dataclass(frozen=True, slots=True)
class Grant:
    """What one request may read: what every one of `scopes` holds (those of a link, and of the token that made it).

    `by` names who was let in, for logs: a token's id, never the token.
    """

    by: str
    scopes: Sequence[Scope] = (ALL,)
    purses: tuple[Purse, ...] = ()
    metrics: bool = False
    linked: bool = False
    expires: float = math.inf
    """Seconds since 1970."""
    token: str = ""
    """Id of the token behind it, if any."""

    @property
    def everything(self) -> bool:
        """Whether no volume is kept from it."""
        return all(any(entry == ALL[0] for entry in scope) for scope in self.scopes)

    def sees(self, volume: str) -> bool:
        """Whether some revision of a volume may be read."""
        return all(any(entry.sees(volume) for entry in scope) for scope in self.scopes)

    def allows(self, ref: VolumeRef) -> bool:
        """Whether a revision may be read; where `ref` names none, whether all may."""
        return all(any(entry.allows(ref) for entry in scope) for scope in self.scopes)

    def revisions(self, volume: str) -> list[int]:
        """The revisions of a volume that are named one by one and may be read, the newest first."""
        named = {entry.revision for scope in self.scopes for entry in scope if entry.revision and entry.sees(volume)}
        return sorted((n for n in named if self.allows(VolumeRef(volume, n))), reverse=True)

    def check(self, ref: VolumeRef) -> None:
        """Raises ForbiddenError for a volume, or a revision of it, that may not be read."""
        if self.sees(ref.volume) if ref.revision is None else self.allows(ref):
            return
        what = "this link" if self.linked else "this token"
        raise ForbiddenError(f"{ref} is not among what {what} may read", hint="ask for one that names it")


EVERYTHING = Grant("anyone", metrics=True)
"""Where nothing is demanded."""
