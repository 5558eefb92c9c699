"""Who is who, sentence by sentence of the protocol's section on identity."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from emporter_contracts.commands import IngestRequest, RandomRegion, Region
from emporter_contracts.errors import InvalidValueError
from emporter_contracts.ids import VolumeRef, is_volume_id, job_id, job_of, record_uuid, slug, upload_id, volume_id

HASHED = re.compile(r"-[0-9a-f]{12}\Z")
source_ids = st.text(min_size=1, max_size=80).filter(lambda s: s == s.strip() and s.isprintable())


def a_request(source="idr", source_id="9846137", **fields) -> IngestRequest:
    return IngestRequest(source=source, source_id=source_id, **fields)


def test_the_plain_request_is_called_by_source_and_accession():
    assert job_id(a_request()) == "idr-9846137"


@given(source_ids)
def test_a_slug_is_short_and_of_plain_characters_without_dashes_at_its_ends(text):
    made = slug(text)
    assert len(made) <= 48
    assert re.fullmatch(r"[a-z0-9_-]*", made)
    assert "--" not in made
    assert not made.startswith("-")
    assert not made.endswith("-")


@given(source_ids)
def test_a_job_id_is_a_volume_id_and_one_token_of_a_subject(source_id):
    job = job_id(a_request(source_id=source_id))
    assert is_volume_id(job)
    assert not set(job) & set(". *>\t/")


@pytest.mark.parametrize("source_id", ["ABC", "a b", "a--b", "-a", "a-", "a/b", "é", "x" * 60, "EMPIAR.10094"])
def test_a_hash_is_added_whenever_the_slug_lost_anything(source_id):
    assert HASHED.search(job_id(a_request(source_id=source_id)))


def test_ids_that_differ_only_in_what_a_slug_loses_are_different_jobs():
    ids = ["ab", "AB", "a.b", "a/b", "a b", "x" * 60, "x" * 61]
    assert len({job_id(a_request(source_id=i)) for i in ids}) == len(ids)


@pytest.mark.parametrize(
    "fields",
    [
        {"region": Region(origin=(0, 0, 0), shape=(1, 2, 3))},
        {"random_region": RandomRegion(shape=(1, 2, 3))},
        {"select": {"channel": 1}},
        {"axes": "zyx"},
        {"rgb": "luma"},
        {"voxel_size_nm": (None, 8, 8)},
        {"role": "labels"},
        {"labels_of": "idr-1"},
        {"output": {"verify": "full"}},
        {"parameters": {"a": 1}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_hash_is_added_when_anything_else_differs_from_its_default(fields):
    job = job_id(a_request(**fields))
    assert job.startswith("idr-9846137-")
    assert HASHED.search(job)


@pytest.mark.parametrize("fields", [{"force": "convert"}, {"force": "fetch"}, {"refresh": True}])
def test_force_and_refresh_are_about_the_run_not_about_what_is_asked(fields):
    assert job_id(a_request(**fields)) == "idr-9846137"


def test_defaults_are_filled_in_before_anything_is_compared():
    said = {"source": "idr", "source_id": "9846137", "select": {"channel": None}, "role": "auto", "output": {"codec": "auto"}}
    assert job_id(IngestRequest.model_validate(said)) == "idr-9846137"


def test_a_random_region_without_a_seed_has_seed_0():
    assert job_id(a_request(random_region={"shape": (1, 2, 3)})) == job_id(
        a_request(random_region={"shape": (1, 2, 3), "seed": 0})
    )


def test_another_seed_and_another_voxel_size_are_other_jobs():
    jobs = [job_id(a_request(random_region={"shape": (1, 2, 3), "seed": s})) for s in range(3)]
    jobs += [job_id(a_request(voxel_size_nm=(n, None, None))) for n in (4, 5)]
    assert len(set(jobs)) == 5


def test_the_order_of_fields_and_what_readers_ignore_change_nothing():
    one = IngestRequest.model_validate({"source": "idr", "source_id": "X", "parameters": {"a": 1, "b": 2}})
    two = IngestRequest.model_validate({"parameters": {"b": 2, "a": 1}, "source_id": "X", "source": "idr", "new_field": 1})
    assert job_id(one) == job_id(two)


@pytest.mark.parametrize("source_id", ["", " a", "a\n", "a\x00b", "x" * 2049])
def test_a_source_id_no_archive_has_is_refused(source_id):
    with pytest.raises(ValidationError):
        a_request(source_id=source_id)


@pytest.mark.parametrize("source", ["", "IDR", "1dr", "a.b", "a b", "status.x", "x" * 33])
def test_a_source_that_could_be_more_than_one_token_is_refused(source):
    with pytest.raises(ValidationError):
        a_request(source=source)


@pytest.mark.parametrize("series", ["s0", "s0-c1-t0", "a_b"])
def test_a_series_makes_a_volume_of_a_job_and_leads_back_to_it(series):
    volume = volume_id("idr-9846137", series)
    assert volume == f"idr-9846137--{series}"
    assert is_volume_id(volume)
    assert job_of(volume) == "idr-9846137"


def test_a_job_of_one_volume_gives_it_its_own_name():
    assert volume_id("idr-9846137") == "idr-9846137" == job_of("idr-9846137")


@given(st.integers(1, 99_999_999))
def test_a_pinned_volume_is_read_as_it_is_written(revision):
    assert str(VolumeRef.parse(f"idr-1--s0@r{revision}")) == f"idr-1--s0@r{revision}"
    assert VolumeRef.parse(f"idr-1--s0@r{revision}") == VolumeRef("idr-1--s0", revision)


@pytest.mark.parametrize(
    "text",
    ["", "a@r0", "a@r01", "a@1", "a@r1@r2", "../etc", "a/b", "A", "a b", "a--b--c", "-a", "a-", "a\n", "a@r1\n", "x" * 200],
)
def test_what_is_no_volume_is_refused_with_how_one_is_written(text):
    with pytest.raises(InvalidValueError) as refused:
        VolumeRef.parse(text)
    assert "@r" in refused.value.hint


def test_an_upload_is_its_files_in_whatever_order_they_come():
    files = [("a.tif", 10, "aa"), ("b.tif", 20, "bb")]
    assert upload_id(files) == upload_id(reversed(files))
    assert re.fullmatch(r"[0-9a-f]{12}", upload_id(files))


@pytest.mark.parametrize("other", [("b.tif", 10, "aa"), ("a.tif", 11, "aa"), ("a.tif", 10, "ab")])
def test_another_path_size_or_content_is_another_upload(other):
    assert upload_id([other]) != upload_id([("a.tif", 10, "aa")])


def test_a_record_keeps_its_uuid_over_all_revisions():
    assert record_uuid("idr-1") == record_uuid("idr-1")
    assert record_uuid("idr-1") != record_uuid("idr-2")
    assert record_uuid("idr-1").version == 5
