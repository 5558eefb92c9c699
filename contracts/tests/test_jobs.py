"""The moves a job may make."""

import itertools
from datetime import UTC, datetime

import pytest

from emporter_contracts.errors import IllegalMoveError
from emporter_contracts.jobs import MOVES, JobState, JobStatus, Tally, VolumeProgress, check_move

P, W, S, C, F, X = (
    JobState.PENDING,
    JobState.PROCESSING,
    JobState.SAVING,
    JobState.COMPLETE,
    JobState.FAILED,
    JobState.CANCELLED,
)
LEGAL = {(P, W), (W, S), (S, C), (P, F), (W, F), (S, F), (P, X), (W, X), (C, P), (F, P), (X, P)}
"""Forward; failed from the first three, cancelled from the first two; from every end back to pending."""


def a_status(state: JobState = P, **fields) -> JobStatus:
    now = datetime(2024, 5, 1, tzinfo=UTC)
    values = {"revision": 1, "generation": 1, "version": 1, "created_at": now, "updated_at": now, **fields}
    return JobStatus(job="idr-1", source="idr", source_id="1", state=state, **values)


@pytest.mark.parametrize(("state", "to"), list(itertools.product(JobState, JobState)), ids=lambda s: s.value)
def test_a_job_moves_only_as_the_protocol_says(state, to):
    if (state, to) in LEGAL:
        check_move(a_status(state), to)
        return
    with pytest.raises(IllegalMoveError):
        check_move(a_status(state), to)


def test_every_state_has_its_moves_and_none_is_a_dead_end():
    assert set(MOVES) == set(JobState)
    assert all(MOVES.values())


def test_a_job_runs_until_it_is_complete_failed_or_cancelled():
    assert {s for s in JobState if s.running} == {P, W, S}


def test_states_are_ordered_by_revision_then_generation_then_version():
    places = list(itertools.product(range(1, 4), repeat=3))
    statuses = [a_status(revision=r, generation=g, version=v) for r, g, v in reversed(places)]
    assert [s.order for s in sorted(statuses, key=lambda s: s.order)] == places


def test_a_conversion_is_as_far_as_all_levels_of_all_volumes():
    levels = (Tally(done=1, total=2, bytes_done=10, bytes_total=20), Tally(done=0, total=1, bytes_total=5))
    status = a_status(volumes=(VolumeProgress(volume="a", levels=levels), VolumeProgress(volume="b", levels=levels[:1])))
    assert status.convert == Tally(done=2, total=5, bytes_done=20, bytes_total=45)


def test_a_state_is_read_back_as_it_was_written():
    status = a_status(volumes=(VolumeProgress(volume="a", levels=(Tally(done=1, total=2),)),))
    assert JobStatus.model_validate_json(status.model_dump_json()) == status
