"""Where volumes may be read from without a copy, and by what name a root is kept."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from emporter_runtime.hosts import host_allowed
from emporter_runtime.root_files import FileFolder
from emporter_runtime.roots import RootRefusedError, RootSettings, address_of, canonical_root, file_root_of, open_root


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("gs://bucket/a/b", "https://storage.googleapis.com/bucket/a/b"),
        ("s3://bucket/a/b", "https://bucket.s3.eu-west-1.amazonaws.com/a/b"),
        ("https://host.example/a/b", "https://host.example/a/b"),
    ],
)
def test_buckets_are_asked_where_they_are_public(url: str, address: str) -> None:
    assert address_of(canonical_root(url + "/"), RootSettings(url_s3_region="eu-west-1")) == address


def test_an_endpoint_of_ones_own_is_asked_in_path_style() -> None:
    settings = RootSettings(url_s3_endpoint="http://127.0.0.1:9000/")
    assert address_of("s3://bucket/a", settings) == "http://127.0.0.1:9000/bucket/a"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host.example/a", "/data/a", "https:///a", "https://user@host.example/a", "https://host.example/a?key=secret",
        "https://host.example/a#b", "https://host.example/a b", "s3://-x-/a", "https://host.example/a/../../b", "https://[::1/a",
    ],
)  # fmt: skip
def test_what_must_not_be_kept_is_no_root(url: str) -> None:
    with pytest.raises(RootRefusedError) as refused:
        canonical_root(url)
    assert "secret" not in str(refused.value)
    assert refused.value.hint


def test_a_host_nobody_allowed_is_refused_before_it_is_asked() -> None:
    with pytest.raises(RootRefusedError, match="host.example is not allowed"):
        open_root("https://host.example/a", RootSettings(url_allowed_hosts=("*.other.example",)))


def test_hosts_are_named_exactly_by_suffix_or_all() -> None:
    assert host_allowed("A.Example.", ("a.example",))
    assert host_allowed("a.b.example", ("*.example",))
    assert not host_allowed("example", ("*.example",))
    assert not host_allowed("badexample", ("*.example",))
    assert host_allowed("anything", ("*",))


def test_settings_read_what_an_operator_file_says(tmp_path: Path) -> None:
    said = {"file_roots": f'{{"scope": "{tmp_path}"}}', "url_allowed_hosts": "a.example, *.b.example"}
    settings = RootSettings.model_validate(said)
    assert settings.file_roots == {"scope": tmp_path}
    assert settings.url_allowed_hosts == ("a.example", "*.b.example")


def test_a_path_is_known_by_the_file_root_it_lies_below(tmp_path: Path) -> None:
    (tmp_path / "run" / "em.zarr").mkdir(parents=True)
    assert file_root_of(tmp_path / "run" / "em.zarr", {"scope": tmp_path}) == "file-root:scope/run/em.zarr"
    with pytest.raises(RootRefusedError):
        file_root_of(tmp_path.parent, {"scope": tmp_path})


async def test_files_tell_when_they_were_changed_even_with_their_time_set_back(tmp_path: Path) -> None:
    (tmp_path / "em").mkdir()
    path = tmp_path / "em" / "0.0"
    path.write_bytes(b"0123456789")
    root = FileFolder("file-root:scope/em", {"scope": tmp_path})
    before = await root.whole("0.0")
    assert before is not None
    assert (before.data, before.size) == (b"0123456789", 10)
    year = 365 * 86_400 * 10**9
    path.write_bytes(b"9876543210")
    os.utime(path, ns=(year, year))
    after = await root.part("0.0", 2, 5)
    assert after is not None
    assert (after.data, after.size) == (b"765", 10)
    assert after.version != before.version
    assert after.modified is not None
    assert after.modified > datetime.now(UTC) - timedelta(minutes=5)
    with pytest.raises(RootRefusedError):
        await root.whole("0.0", 9)


async def test_a_deleted_file_is_known_by_the_folder_it_lay_in(tmp_path: Path) -> None:
    (tmp_path / "em" / "s0").mkdir(parents=True)
    (tmp_path / "em" / "s0" / "0").write_bytes(b"x")
    root = FileFolder("file-root:scope/em", {"scope": tmp_path})
    past, future = datetime.now(UTC) - timedelta(hours=1), datetime.now(UTC) + timedelta(hours=1)
    assert await root.whole("s0/1") is None
    assert await root.touched_since("s0/1", past)
    assert not await root.touched_since("s0/1", future)
    assert not await root.touched_since("s1/1/2", future)
