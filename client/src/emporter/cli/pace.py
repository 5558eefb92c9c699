"""How fast a stage goes and how long it will still take, as its state says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emporter_contracts.jobs import Tally

STANDS_STILL = timedelta(minutes=5)
"""Nothing more was done for as long: the rate is of the past. Longer than the longest task takes."""


def pace_said(stage: Tally, now: datetime | None = None) -> str:
    """For people, such as `120 MB/s, 2 min left`; empty where nothing can be said or nothing is left."""
    from emporter.cli import showing

    if stage.bytes_per_second is None or not stage.seconds_left or stage.counted_at is None:
        return ""
    since = (now or datetime.now(UTC)) - stage.counted_at
    if since > STANDS_STILL:
        return f"nothing new for {_span(since.total_seconds())}"
    left = max(1.0, stage.seconds_left - since.total_seconds())
    return f"{showing.size(round(stage.bytes_per_second))}/s, {_span(left)} left"


def _span(seconds: float) -> str:
    for length, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(1, round(seconds))} s"
