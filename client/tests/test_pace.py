"""How fast, and how long still: with a clock of its own."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from emporter.cli.pace import Pace


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_steady_stage_is_said_with_rate_and_time_left(clock: Clock) -> None:
    pace = Pace(clock)
    for second in range(11):
        clock.now = second
        pace.see(second * 120_000_000)
    assert pace.rate == 120e6
    assert pace.said(15_600_000_000) == "120 MB/s, 2 min left"


def test_what_was_long_ago_does_not_count(clock: Clock) -> None:
    pace = Pace(clock)
    for second in range(200):
        clock.now = second
        pace.see(min(second, 100) * 1000 + max(0, second - 100) * 10)
    assert pace.rate == pytest.approx(10, rel=0.05)


def test_nothing_is_said_at_first_nor_where_nothing_moves_nor_at_the_end(clock: Clock) -> None:
    pace = Pace(clock)
    assert (pace.rate, pace.said(100)) == (None, "")
    pace.see(50)
    clock.now = 30
    pace.see(50)
    assert (pace.rate, pace.left(100), pace.said(100)) == (None, None, "")
    pace.see(100)
    assert pace.said(100) == ""


def test_a_stage_that_stands_still_becomes_slower(clock: Clock) -> None:
    pace = Pace(clock)
    pace.see(0)
    clock.now = 2
    pace.see(2000)
    assert pace.rate == 1000
    clock.now = 20
    assert pace.rate == 100


def test_work_that_begins_anew_is_measured_anew(clock: Clock) -> None:
    pace = Pace(clock)
    pace.see(0)
    clock.now = 10
    pace.see(1000)
    pace.see(0)
    clock.now = 12
    pace.see(20)
    assert pace.rate == 10
