"""Rate and time left, in the state itself: with a clock of the test."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from emporter_contracts.jobs import JobState, JobStatus, Tally, VolumeProgress
from emporter_runtime.pacing import begun_anew, carried, counted

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
TOTAL = 1_000_000
FIRST = JobStatus(
    job="a", source="url", source_id="x", revision=1, generation=1, version=1, state=JobState.PROCESSING, created_at=BEGAN,
    updated_at=BEGAN,
)  # fmt: skip


def after(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


def said(status: JobStatus, seconds: float, *done: int, fetched: int = 0) -> JobStatus:
    """The state once so many bytes of each level are done, as the jobstore writes it."""
    levels = tuple(Tally(done=n // 1000, total=TOTAL // 1000, bytes_done=n, bytes_total=TOTAL) for n in done)
    fetch = Tally(done=fetched // 1000, total=TOTAL // 1000, bytes_done=fetched, bytes_total=TOTAL)
    new = status.model_copy(update={"volumes": (VolumeProgress(volume="a", levels=levels),), "fetch": fetch})
    changed = carried(status, new)
    if changed == status:
        return status
    return counted(status, changed, after(seconds)).model_copy(update={"progressed_at": after(seconds)})


def test_a_steady_stage_has_its_rate_and_the_time_that_is_left() -> None:
    status = FIRST
    for second in range(31):
        status = said(status, second, 10_000 * second, fetched=20_000 * second)
    assert status.volumes[0].levels[0].bytes_per_second == pytest.approx(10_000)
    assert status.volumes[0].levels[0].seconds_left == pytest.approx(70)
    assert (status.convert.bytes_per_second, status.convert.seconds_left) == (pytest.approx(10_000), pytest.approx(70))
    assert status.fetch.seconds_left == pytest.approx(20)
    assert status.fetch.counted_at == after(30)


def test_what_was_done_before_the_first_count_is_no_speed() -> None:
    status = said(FIRST, 0, 900_000)
    assert status.convert.bytes_per_second is None
    assert status.convert.seconds_left is None
    assert said(status, 10, 901_000).convert.bytes_per_second == pytest.approx(100)


def test_what_was_long_ago_does_not_count() -> None:
    status = FIRST
    for second in range(500):
        status = said(status, second, min(second, 100) * 1000 + max(0, second - 100) * 10)
    assert status.convert.bytes_per_second == pytest.approx(10, abs=5)


def test_a_level_that_waited_for_the_one_below_is_counted_from_when_it_began() -> None:
    status = said(FIRST, 0, 0, 0)
    for second in range(1, 101):
        status = said(status, second, 10_000 * second, 0)
    assert status.volumes[0].levels[0].seconds_left == 0
    assert status.convert.bytes_per_second is None
    status = said(status, 102, TOTAL, 20_000)
    assert status.volumes[0].levels[1].bytes_per_second == pytest.approx(10_000)
    assert status.convert.seconds_left == pytest.approx(98)


def test_levels_that_are_made_together_go_as_fast_as_both() -> None:
    status = said(said(FIRST, 0, 0, 0), 10, 80_000, 10_000)
    assert status.convert.bytes_per_second == pytest.approx(9_000)


def test_a_look_that_finds_nothing_new_changes_nothing() -> None:
    status = said(said(FIRST, 0, 0), 10, 1000)
    assert said(status, 20, 1000) == status


def test_after_a_pause_rates_begin_anew() -> None:
    status = begun_anew(said(said(FIRST, 0, 0), 10, 100_000)).model_copy(update={"progressed_at": after(4000)})
    assert status.convert.bytes_per_second is None
    status = said(said(status, 4010, 110_000), 4020, 120_000)
    assert status.convert.bytes_per_second == pytest.approx(1000)


def test_the_state_says_it_to_whoever_reads_it() -> None:
    status = said(said(FIRST, 0, 0), 10, 100_000)
    body = status.model_dump(mode="json")
    assert body["convert"]["bytes_per_second"] == 10_000
    assert body["convert"]["seconds_left"] == 90
    assert body["volumes"][0]["levels"][0]["seconds_left"] == 90
    assert JobStatus.model_validate_json(status.model_dump_json()) == status
