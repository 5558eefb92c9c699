"""What is asked about one quality gate: `shifted`, or `shifted:fail` where one verdict is meant."""

from __future__ import annotations

from typing import get_args

from sqlalchemy import ColumnElement, and_, literal_column, select, tuple_

from cataloger.errors import InvalidQueryError
from cataloger.models import QualityResult, Volume
from emporter_contracts.records import Gate, Verdict

GATES: tuple[str, ...] = get_args(Gate)
VERDICTS: tuple[str, ...] = get_args(Verdict)
FINDINGS = ("warn", "fail")
"""What a gate says where it found something."""


def parse(asked: str) -> tuple[str, str | None]:
    """The gate and the verdict, None where any will do. Raises InvalidQueryError."""
    gate, colon, verdict = asked.partition(":")
    if gate not in GATES:
        raise InvalidQueryError(f"gate={asked[:40]!r} is not known", hint=f"one of {', '.join(GATES)}")
    if colon and verdict not in VERDICTS:
        raise InvalidQueryError(
            f"gate={asked[:40]!r}: there is no such verdict", hint=f"one of {', '.join(f'{gate}:{v}' for v in VERDICTS)}"
        )
    return gate, verdict if colon else None


def said(asked: str) -> ColumnElement[bool]:
    """Results in which a gate says this; without a verdict: that it warns or fails."""
    gate, verdict = parse(asked)
    return and_(QualityResult.gate == gate, said_by(verdict))


def shown_with(asked: str) -> ColumnElement[bool]:
    """Volumes of which a gate says this on the revision shown."""
    return tuple_(Volume.id, Volume.revision).in_(select(QualityResult.volume, QualityResult.revision).where(said(asked)))


def said_by(verdict: str | None) -> ColumnElement[bool]:
    """Results with this verdict; without one, all that are findings. As `models.FOUND` says it, so that its indexes count."""
    said = QualityResult.verdict.in_((verdict,) if verdict else FINDINGS)
    return said if verdict == "pass" else and_(said, QualityResult.verdict != literal_column("'pass'"))
