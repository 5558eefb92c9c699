"""From what is said to what is shown: pure functions."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cataloger.records import (
    State,
    bytes_of,
    coarsest,
    columns,
    current,
    document,
    draft_state,
    licence_label,
    moved,
    planned,
    rank_of,
    storable,
    stub,
)
from cataloger.testing_builders import a_plan, a_record, a_status, at
from cataloger.validation import problems
from emporter_contracts.jobs import JobState
from emporter_contracts.plans import Licence

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(exclude_categories=())), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_whatever_is_stored_is_json_that_postgresql_takes(value):
    text = json.dumps(storable(value), allow_nan=False, ensure_ascii=False)
    assert "\\u0000" not in text
    text.encode()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(st.characters(min_codepoint=1, max_codepoint=0xD7FF)), st.lists
    )
)
def test_what_can_be_stored_is_stored_as_it_is(value):
    assert storable(value) == value


@pytest.mark.parametrize("state", list(JobState))
def test_stubs_and_drafts_are_valid_in_every_state_and_never_complete(state):
    status = a_status(state)
    for record in (stub(status, "epfl-a"), planned(a_plan("epfl-a"), a_plan("epfl-a").volumes[0], status)):
        assert problems(document(record)) == []
        assert record.status == draft_state(state) != "complete"


@pytest.mark.parametrize(
    ("place", "value"),
    [(("created_at",), "yesterday"), (("created_at",), "2026-02-30T00:00:00Z"), (("metadata", "core", "volume_shape"), [1, 2])],
)
def test_what_is_no_time_and_no_shape_is_a_problem_with_its_place(place, value):
    record = document(stub(a_status(), "epfl-a"))
    part = record
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = value
    (problem,) = problems(record)
    assert problem.startswith("$." + ".".join(place) + ":")


def test_a_draft_says_what_plan_and_headers_say():
    plan = a_plan("epfl-a", voxel_size_nm=(None, 5.0, 5.0))
    record = planned(plan, plan.volumes[0], a_status())
    assert record.metadata.core.volume_shape == (165, 768, 1024)
    assert record.metadata.core.voxel_size_nm == (None, 5.0, 5.0)
    assert record.metadata.provenance.voxel_size.said_by == (None, "page", "page")
    assert record.metadata.technical.file_size_bytes == 165 * 768 * 1024
    assert record.metadata.technical.sha256 is None
    assert (record.licence, record.citation, record.files) == (plan.licence, plan.citation, ("training.tif",))
    assert record.additional_metadata == {"epfl_metadata": {"organism": "Mus musculus", "sample": "CA1"}}


def test_a_draft_that_moves_keeps_what_is_known_and_changes_state_and_time():
    plan = a_plan("epfl-a")
    draft = document(planned(plan, plan.volumes[0], a_status()))
    after = moved(draft, a_status("failed", version=7))
    assert {name for name in draft if draft[name] != after[name]} == {"status", "updated_at"}
    assert after["status"] == "failed"


@pytest.mark.parametrize(
    ("states", "shown"),
    [
        ([State(1, True, False), State(2, False, False)], 1),
        ([State(1, True, False), State(2, True, False)], 2),
        ([State(1, True, False), State(2, True, True)], 1),
        ([State(1, True, True), State(2, False, False)], 2),
        ([State(1, True, True), State(2, True, True)], 2),
        ([State(3, False, False)], 3),
    ],
)
def test_a_volume_shows_its_newest_commit_else_its_draft_else_what_was_removed(states, shown):
    assert current(states).revision == shown


def test_a_newer_state_is_one_of_a_later_revision_generation_version_or_an_end():
    story = [
        a_status("processing", version=9),
        a_status("failed", version=2),
        a_status("failed", version=10),
        a_status("pending", run=(1, 2)),
        a_status("pending", run=(2, 1)),
    ]
    told_backwards = story[::-1]
    assert sorted(told_backwards, key=rank_of) == story


@pytest.mark.parametrize(
    ("dtype", "size"),
    [("uint8", 1), ("int16", 2), ("float32", 4), ("uint64", 8), ("bool", 1), ("float16", 2), ("object", None), ("", None)],
)
def test_bytes_of_a_voxel_by_dtype(dtype, size):
    assert bytes_of(dtype) == size


def test_the_coarsest_axis_is_unknown_where_one_is():
    assert coarsest((5.0, 8.0, 4.0)) == 8.0
    assert coarsest((None, 8.0, 4.0)) is None


@pytest.mark.parametrize(
    ("licence", "label"),
    [
        (Licence(spdx="CC0-1.0", url="https://x", known=True), "CC0-1.0"),
        (Licence(url="https://x", known=True), "https://x"),
        (Licence(text="  Free for all\nsecond line", known=True), "Free for all"),
        (Licence(), None),
        (Licence(known=True), None),
    ],
)
def test_a_licence_in_one_line(licence, label):
    assert licence_label(licence) == label


def test_a_size_no_column_can_hold_is_kept_in_the_record_only():
    body = document(a_record())
    body["metadata"]["technical"]["file_size_bytes"] = str(2**64)
    assert columns(body, None, {})["bytes"] is None
    assert columns(body, None, {})["summary"]["bytes"] == str(2**64)


def test_a_removed_row_changed_when_it_was_removed():
    row = columns(document(a_record()), at(77), {})
    assert (row["status"], row["updated_at"], row["summary"]["removed"]) == ("removed", at(77), True)
