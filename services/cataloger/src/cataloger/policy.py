"""The operator's policy as the catalog knows it: its rules, what they decided, and what they would say of a volume now."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Select, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite

from cataloger.database import Database
from cataloger.errors import InvalidQueryError
from cataloger.models import Decision, PolicyText
from cataloger.queries import Catalog, Page
from emporter_contracts.ids import VolumeRef, job_of
from emporter_contracts.policy import PolicyDecided
from emporter_contracts.records import MetadataRecord
from emporter_runtime.policy.facts import Asker, checked_purpose
from emporter_runtime.policy.judging import Policy

Document = dict[str, Any]
COLUMNS = ("at", "point", "rule", "outcome", "message", "error", "job", "revision", "volume", "source", "source_id", "purpose")


def decisions_of(event: PolicyDecided, event_id: str) -> list[Document]:
    """The rows of one event."""
    about = event.model_dump(exclude={"decisions"})
    said = [decision.model_dump() for decision in event.decisions]
    return [{**about, "event": event_id, **one} for one in said]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which decisions; None takes any."""

    job: str | None = None
    volume: str | None = None
    rule: str | None = None
    point: str | None = None
    outcome: str | None = None

    def narrow(self, query: Select[Any]) -> Select[Any]:
        if self.volume is not None:
            # What was decided of the request is about every volume of its job.
            query = query.where(
                Decision.job == job_of(self.volume), (Decision.volume.is_(None)) | (Decision.volume == self.volume)
            )
        for column, value in (("job", self.job), ("rule", self.rule), ("point", self.point), ("outcome", self.outcome)):
            if value is not None:
                query = query.where(getattr(Decision, column) == value)
        return query


class Policies:
    """Answers about the policy. `policy` is what this service was started with; the others are started with the same file."""

    def __init__(
        self, database: Database, catalog: Catalog, policy: Policy, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._policy = policy
        self._clock = clock

    async def remember(self) -> None:
        """Keep the text of the policy in force: decisions name it by its digest."""
        row = {"name": self._policy.document.name, "document": self._policy.document.model_dump(mode="json")}
        async with self._database.writing() as session:
            insert = (sqlite if self._database.is_sqlite else postgresql).insert(PolicyText)
            values = insert.values(digest=self._policy.digest, known_at=self._clock(), **row)
            await session.execute(values.on_conflict_do_nothing())

    def in_force(self) -> Document:
        """The policy, every rule in full."""
        return {"digest": self._policy.digest, **self._policy.document.model_dump(mode="json")}

    async def known(self, digest: str) -> Document | None:
        """A policy that was in force once, None where it is not known."""
        async with self._database.reading() as session:
            row = await session.get(PolicyText, digest)
        return None if row is None else {"digest": row.digest, "known_at": row.known_at.isoformat(), **row.document}

    async def decisions(self, wanted: Wanted, cursor: str | None, limit: int) -> Page:
        """What rules decided, the newest first. Raises InvalidQueryError."""
        query = wanted.narrow(select(Decision))
        order = (Decision.at.desc(), Decision.event.desc(), Decision.rule.desc())
        if cursor is not None:
            query = query.where(tuple_(Decision.at, Decision.event, Decision.rule) < tuple_(*_read(cursor)))
        async with self._database.reading() as session:
            rows = list((await session.scalars(query.order_by(*order).limit(limit + 1))).all())
        following = _cursor(rows[limit - 1]) if len(rows) > limit else None
        return Page([_document(row) for row in rows[:limit]], following)

    async def check(self, ref: VolumeRef, purpose: str = "", caller: str = "") -> Document:
        """What each rule would say of a volume now, at every point. Raises NotInCatalogError, RefusedError."""
        record = MetadataRecord.model_validate(await self._catalog.record(ref))
        asker = Asker(checked_purpose(purpose), caller[:200], record.source, record.source_id)
        judged = self._policy.everywhere(record, asker, self._clock())
        access = judged["access"]
        return {
            "volume": f"{record.volume}@r{record.revision}",
            "purpose": asker.purpose,
            "allowed": access.denied is None,
            "status": access.status if access.denied else 200,
            "results": [{"point": point, **d.model_dump()} for point, judgement in judged.items() for d in judgement.decisions],
            "published_with": [d.model_dump() for d in record.decisions],
        }


def _document(row: Decision) -> Document:
    shown = {name: getattr(row, name) for name in COLUMNS}
    return {**shown, "at": row.at.isoformat(), "policy": row.policy}


def _cursor(row: Decision) -> str:
    return base64.urlsafe_b64encode(json.dumps([row.at.isoformat(), row.event, row.rule]).encode()).decode()


def _read(cursor: str) -> tuple[datetime, str, str]:
    try:
        at, event, rule = json.loads(base64.urlsafe_b64decode(cursor))
        return datetime.fromisoformat(at), str(event), str(rule)
    except (ValueError, TypeError) as error:
        raise InvalidQueryError("this cursor is none of ours", hint="take `cursor` of the page before") from error
