"""How fast, and how long still, in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from emporter.cli.pace import pace_said
from emporter_contracts.jobs import Tally

AT = datetime(2026, 1, 2, tzinfo=UTC)
STEADY = Tally(
    done=1,
    total=14,
    bytes_done=1_200_000_000,
    bytes_total=15_600_000_000,
    bytes_per_second=120e6,
    seconds_left=120,
    counted_at=AT,
)


def test_a_steady_stage_is_said_with_rate_and_time_left() -> None:
    assert pace_said(STEADY, AT) == "120 MB/s, 2 min left"


def test_the_time_left_is_counted_from_when_it_was_worked_out() -> None:
    assert pace_said(STEADY, AT + timedelta(seconds=75)) == "120 MB/s, 45 s left"


def test_nothing_is_said_at_first_nor_at_the_end() -> None:
    assert pace_said(Tally(done=0, total=3, bytes_total=100)) == ""
    assert pace_said(STEADY.model_copy(update={"seconds_left": 0.0})) == ""


def test_a_stage_that_stands_still_is_said_to() -> None:
    assert pace_said(STEADY, AT + timedelta(hours=3)) == "nothing new for 3 h"
