"""Keys: what is written under a name is found by it, and names sort as numbers do."""

from hypothesis import given
from hypothesis import strategies as st

from emporter_contracts import storage, subjects

revisions = st.integers(1, 99_999_999)
volumes = st.from_regex(r"[a-z0-9_]{1,12}(-[a-z0-9_]{1,8}){0,2}(--s[0-9])?", fullmatch=True)


@given(volumes, revisions)
def test_a_commit_and_a_tombstone_name_their_revision(volume, revision):
    for key in (storage.commit(volume, revision), storage.tombstone(volume, revision)):
        assert storage.commit_revision(key) == revision
        assert storage.commit_revision(key.rsplit("/", 1)[-1]) == revision
    assert storage.commit(volume, revision).startswith(storage.commits_prefix(volume))
    assert storage.tombstone(volume, revision).startswith(storage.removed_prefix(volume))


@given(volumes, revisions, revisions)
def test_commits_sort_as_their_revisions_do(volume, a, b):
    assert (storage.commit(volume, a) < storage.commit(volume, b)) == (a < b)


@given(volumes, revisions)
def test_a_runs_folder_names_its_revision(job, revision):
    prefix = storage.run_prefix(job, revision)
    assert storage.run_revision(prefix) == revision
    assert storage.run_revision(prefix.rstrip("/").rsplit("/", 1)[-1]) == revision
    assert prefix.startswith(storage.job_prefix(job))


@given(volumes, revisions)
def test_an_ome_zarr_is_a_folder_that_ends_in_ome_zarr_and_names_its_revision(volume, revision):
    root = storage.zarr_root(volume, revision)
    assert root.endswith(".ome.zarr/")
    assert storage.run_revision(root) == revision


@given(volumes, revisions, st.integers(1, 9))
def test_everything_of_a_run_lies_below_its_folder_under_names_of_its_own(job, revision, n):
    keys = [
        storage.request(job, revision),
        storage.plan(job, revision),
        storage.manifest(job, revision),
        storage.conversion(job, revision),
        storage.generation(job, revision, n),
        storage.generation_ended(job, revision, n),
    ]
    assert len(set(keys)) == len(keys)
    assert all(k.startswith(storage.run_prefix(job, revision)) for k in keys)


def test_what_is_neither_commit_nor_run_names_no_revision():
    for key in ("x/commits/1.json", "x/commits/00000001.json.tmp", "record.json", ""):
        assert storage.commit_revision(key) is None
    for key in ("x/r0/", "x/r01/", "x/commits/", "r1x", ""):
        assert storage.run_revision(key) is None


@given(st.text(max_size=40), st.text(max_size=10), st.text(max_size=40), st.text(max_size=10))
def test_the_same_bytes_of_the_same_archive_are_stored_once_and_others_apart(url, version, other_url, other_version):
    same = (url, version) == (other_url, other_version)
    if "\0" not in url + version + other_url + other_version:
        assert (storage.origin(url, version) == storage.origin(other_url, other_version)) == same


@given(volumes, revisions, st.integers(0, 9), st.integers(0, 10**6))
def test_no_id_adds_a_token_to_a_subject(volume, revision, level, n):
    assert subjects.status(volume).count(".") == 1
    assert subjects.convert_task(volume, volume, level, n).count(".") == 5
    assert subjects.convert_done(volume, revision, volume, level, n).count(".") == 6
    assert subjects.volume_complete(volume, revision).count(".") == 4


def test_a_reply_token_can_lead_nowhere_but_below_reply():
    for token in ("", "a.b", "*", ">", "a b", "x" * 65, "a\n"):
        assert subjects.REPLY_TOKEN.match(token) is None
    assert subjects.REPLY_TOKEN.match("aB9" * 21)
