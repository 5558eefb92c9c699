"""What rules see: the same variables at every point. What is not known is empty text, null, 0 or an empty list, never missing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any

from emporter_contracts.commands import IngestRequest
from emporter_contracts.errors import RefusedError
from emporter_contracts.plans import Caveat, FetchPlan, Licence, PlannedVolume
from emporter_contracts.policy import EMBARGO_PARAMETER, PURPOSE_LENGTH, Point
from emporter_contracts.records import MetadataRecord

DAY_SECONDS = 86_400.0
LONGEST_TEXT = 10_000
"""Characters of one text a rule sees."""
MOST_LISTED = 64
"""Entries of one list a rule sees; there are fewer caveats than that."""

REQUEST_FIELDS = frozenset({"purpose", "caller", "source", "source_id", "force"})
VOLUME_FIELDS = frozenset(
    {
        "id", "revision", "source", "source_id", "description", "licence", "licence_known", "licence_url", "licence_text",
        "modality", "role", "dtype", "shape", "voxel_size_nm", "bytes", "caveats", "citation", "url", "quality",
    }
)  # fmt: skip
VARIABLES: Mapping[str, frozenset[str] | None] = {
    "now": None,
    "point": None,
    "embargo_until": None,
    "age_days": None,
    "request": REQUEST_FIELDS,
    "volume": VOLUME_FIELDS,
}
"""Every variable, and the fields of those that have some."""
LATER = frozenset({"volume"})
"""What is not known before a plan is made: rules of `request` that ask for it wait for the plan."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, and what for: `purpose` in their own words, `caller` as the access gate names them (empty where nobody asked)."""

    purpose: str = ""
    caller: str = ""
    source: str = ""
    source_id: str = ""
    force: str = "no"

    @classmethod
    def of(cls, request: IngestRequest, purpose: str = "") -> Asker:
        """Who sends an ingest request. Raises RefusedError for a purpose that is none."""
        return cls(checked_purpose(purpose), "", request.source, request.source_id, request.force)


def checked_purpose(text: str) -> str:
    """A purpose, without space around it. Raises RefusedError where it is too long or no line of text."""
    purpose = text.strip()
    if len(purpose) > PURPOSE_LENGTH or not purpose.isprintable():
        raise RefusedError(
            f"the purpose is no line of {PURPOSE_LENGTH} characters at most",
            code="invalid_request",
            hint="say it in a few words, such as: training",
        )
    return purpose


def embargo_of(request: IngestRequest) -> datetime | None:
    """Until when what a request makes is under embargo, as the request says. Raises RefusedError where it says no time."""
    said = request.parameters.get(EMBARGO_PARAMETER)
    if said is None:
        return None
    try:
        return moment(str(said))
    except ValueError:
        raise RefusedError(
            f"{EMBARGO_PARAMETER} is {str(said)[:40]!r}, no date", code="invalid_request", hint="write 2027-01-31, UTC"
        ) from None


def moment(text: str) -> datetime:
    """A time from ISO 8601, a date being its first moment, UTC where it says no zone. Raises ValueError."""
    if len(text) <= len("2027-01-31"):
        return datetime.combine(date.fromisoformat(text), time(), UTC)
    at = datetime.fromisoformat(text)
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def of_request(asker: Asker, embargo_until: datetime | None, now: datetime) -> dict[str, Any]:
    """What is known when a request arrives."""
    return _facts("request", asker, _volume(source=asker.source, source_id=asker.source_id), embargo_until, None, now)


def of_plan(
    plan: FetchPlan, planned: PlannedVolume, asker: Asker, embargo_until: datetime | None, now: datetime
) -> dict[str, Any]:
    """What is known of a volume once its plan is made."""
    volume = _volume(
        id=planned.volume,
        revision=plan.revision,
        source=plan.source,
        source_id=plan.source_id,
        description=plan.description,
        **_licence(plan.licence),
        modality=plan.modality,
        role=planned.role,
        dtype=planned.dtype,
        shape=list(planned.shape),
        voxel_size_nm=list(planned.voxel_size.nm),
        bytes=math.prod(planned.shape) * _item_bytes(planned.dtype),
        caveats=_codes((*plan.caveats, *planned.caveats)),
        citation=_listed(plan.citation),
        url=plan.download_url,
    )
    return _facts("request", asker, volume, embargo_until, None, now)


def of_record(record: MetadataRecord, asker: Asker, point: Point, now: datetime) -> dict[str, Any]:
    """What is known of a volume that is, or is about to be, committed."""
    core, quality = record.metadata.core, record.metadata.quality
    volume = _volume(
        id=record.volume,
        revision=record.revision,
        source=record.source,
        source_id=record.source_id,
        description=core.description,
        **_licence(record.licence),
        modality=core.modality,
        role=core.role,
        dtype=core.data_type or "",
        shape=list(core.volume_shape or ()),
        voxel_size_nm=list(core.voxel_size_nm),
        bytes=int(record.metadata.technical.file_size_bytes or 0),
        caveats=_codes(record.caveats),
        citation=_listed(record.citation),
        url=record.metadata.provenance.download_url,
        quality=quality.verdict or "",
    )
    asked = asker if asker.source else Asker(asker.purpose, asker.caller, record.source, record.source_id, asker.force)
    return _facts(point, asked, volume, record.embargo_until, record.updated_at, now)


def _facts(
    point: Point, asker: Asker, volume: dict[str, Any], embargo_until: datetime | None, made: datetime | None, now: datetime
) -> dict[str, Any]:
    request = {name: _cut(getattr(asker, name)) for name in REQUEST_FIELDS}
    age = 0.0 if made is None else max(0.0, (now - made).total_seconds() / DAY_SECONDS)
    facts = {"now": now, "point": point, "embargo_until": embargo_until, "age_days": age, "request": request, "volume": volume}
    assert facts.keys() == VARIABLES.keys()
    return facts


def _volume(**known: Any) -> dict[str, Any]:
    unknown: dict[str, Any] = dict.fromkeys(VOLUME_FIELDS, "")
    unknown |= {
        "revision": 0,
        "bytes": 0,
        "licence_known": False,
        "shape": [],
        "voxel_size_nm": [],
        "caveats": [],
        "citation": [],
    }
    assert known.keys() <= unknown.keys()
    return unknown | {name: _cut(value) for name, value in known.items()}


def _licence(licence: Licence) -> dict[str, Any]:
    return {
        "licence": licence.spdx or "",
        "licence_known": licence.known,
        "licence_url": licence.url or "",
        "licence_text": licence.text or "",
    }


def _item_bytes(dtype: str) -> int:
    bits = "".join(filter(str.isdigit, dtype))
    return int(bits) // 8 if bits else 1


def _codes(caveats: Iterable[Caveat]) -> list[str]:
    return _listed(dict.fromkeys(caveat.code for caveat in caveats))


def _listed(texts: Iterable[str]) -> list[str]:
    return [str(_cut(text)) for text in list(texts)[:MOST_LISTED]]


def _cut(value: Any) -> Any:
    return value[:LONGEST_TEXT] if isinstance(value, str) else value
