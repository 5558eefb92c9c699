"""What archives say about themselves, made up: listings and API answers of any content are understood or refused, soon, in little memory."""

from __future__ import annotations

import json
import resource
import time
from contextlib import suppress
from typing import Any

import aioftp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emporter_archives import omero
from emporter_archives.empiar import entry
from emporter_archives.s3 import S3Server
from emporter_archives.server import File, FileServer
from emporter_runtime.errors import TransientError
from fetcher.errors import ArchiveMisbehavesError, FetcherError
from fetcher.sources.empiar_api import entry_of
from fetcher.sources.empiar_files import grouped, reason_to_skip
from fetcher.sources.omero import image_by_api, image_by_web, pairs_of
from fetcher.transports.addresses import HostPolicy
from fetcher.transports.documents import json_object
from fetcher.transports.ftp import _of_list, _of_mlsd
from fetcher.transports.http import HttpClient
from fetcher.transports.listing import index_entries, is_plain_name
from fetcher.transports.s3 import Bucket, S3Place

HERE = "http://archive.example/data/"
numbers = st.one_of(st.integers(-3, 20), st.sampled_from([0, -1, 2**31, 2**63, 10**40, 1e308, float("inf"), 0.5]))
words = st.one_of(st.text(max_size=8), st.sampled_from(["80.0", "1e999", "nan", "\u0661", "REL", "../..", "MICROMETER", "uint8"]))
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, words),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(words, inner, max_size=4)),
    max_leaves=8,
)
plenty = settings(max_examples=300, deadline=5000, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@given(
    st.lists(
        st.one_of(
            st.text(max_size=20),
            st.sampled_from(["../", "?C=N;O=D", "/etc/", "//other/x", "%2e%2e/", "a/b", "a%2Fb", "http://["]),
        )
    )
)
@plenty
def test_links_of_any_kind_give_names_inside_the_folder_only(links: list[str]) -> None:
    page = "".join(f'<tr><td><a href="{link}">x</a><td>' for link in links)
    for found in index_entries(HERE, page.encode("utf-8", "surrogatepass")):
        assert is_plain_name(found.name)


@given(st.binary(max_size=2000))
@plenty
def test_a_page_of_any_bytes_gives_names_inside_the_folder_only(page: bytes) -> None:
    for found in index_entries(HERE, b"<a href=" + page + b"<a href='x.tif'>"):
        assert is_plain_name(found.name)


@pytest.mark.parametrize("piece", [b"<a ", b"<a href='", b"<!--", b"&#", b"<![CDATA[", b"<a href=x>"], ids=repr)
def test_a_page_made_to_keep_a_parser_busy_is_read_soon(piece: bytes) -> None:
    began = time.process_time()
    with suppress(ArchiveMisbehavesError):
        index_entries(HERE, piece * (2**20 // len(piece)))
    assert time.process_time() - began < 10


@given(st.binary(max_size=200))
@plenty
def test_lines_of_an_ftp_listing_are_names_or_nothing(noise: bytes) -> None:
    session = aioftp.Client()
    lines = (
        noise,
        b"-rw-r--r-- 1 u g " + noise,
        b"type=file;size=1; " + noise,
        b"type=dir;modify=" + noise,
        b"d" + noise,
        b"01-01-20  " + noise,
    )
    for line in lines:
        for read in (_of_mlsd, _of_list):
            found = read(session, line)
            assert found is None or isinstance(found.name, str)


@given(st.data())
@plenty
def test_an_entry_of_empiar_with_any_value_anywhere_is_understood_or_refused(data: st.DataObject) -> None:
    said = _changed(entry(), data)
    with suppress(FetcherError):
        found = entry_of("EMPIAR-11759", said if isinstance(said, dict) else {})
        assert isinstance(found.citation, str)
        assert all(isinstance(one.suffixes, tuple) for one in found.sets)


@given(st.data())
@plenty
def test_an_image_of_omero_with_any_value_anywhere_is_understood_or_refused(data: st.DataObject) -> None:
    image = omero.Image(1, omero.voxels((2, 3, 4)))
    for whole, understood in ((image.api(), image_by_api), (image.web(), image_by_web)):
        said = _changed(whole, data)
        with suppress(FetcherError):
            found = understood(said if isinstance(said, dict) else {})
            assert all(nm is None or nm > 0 for nm in found.voxel_size.nm)
    pairs_of(said if isinstance(said, dict) else {"annotations": said})


@given(st.lists(st.text(min_size=1, max_size=20).filter(is_plain_name), unique=True, max_size=12))
@plenty
def test_names_of_any_kind_are_grouped_each_once(names: list[str]) -> None:
    kept = [name for name in names if reason_to_skip(name, folder=False) is None]
    groups = grouped(f"{name}.tif" for name in names)
    assert sorted(path for group in groups for path in group.paths) == sorted(f"{name}.tif" for name in names)
    assert set(kept) <= set(names)


async def test_a_listing_of_a_bucket_that_expands_entities_is_refused_in_little_memory() -> None:
    lol = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    bomb = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY l0 "lol">{lol}]><ListBucketResult><Name>&l9;</Name></ListBucketResult>'

    class Bomb(S3Server):
        def _listed(self, asked: Any) -> bytes:
            return bomb.encode()

    with Bomb() as server:
        bucket = Bucket(S3Place(server.bucket, server.url("")))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises((FetcherError, TransientError)):
            await bucket.listed("a/")
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        await bucket.close()
    # Three gigabytes, were all of them expanded; in kibibytes.
    assert grown < 256 * 1024


@pytest.mark.parametrize(
    "body",
    [b"[" * 2**20, b'{"a":' * 2**18, b'{"data": NaN', b"\xff\xfe{}", b"", b'{"a": ' + b"9" * 10_000 + b"}"],
    ids=["lists", "objects", "cut", "utf-16", "empty", "long number"],
)
async def test_json_made_to_break_a_parser_is_refused_by_name(archive: FileServer, body: bytes) -> None:
    archive.files["/api"] = File(body, None, None, ranges=False)
    client = HttpClient(HostPolicy(("*",), allow_private=True))
    with pytest.raises(ArchiveMisbehavesError, match="/api"):
        await json_object(client, archive.url("/api"))
    await client.close()


def _changed(whole: Any, data: st.DataObject) -> Any:
    """A document with a few of its values replaced."""
    document = json.loads(json.dumps(whole))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(_paths(document)))
        document = _replaced(document, path, data.draw(anything))
    return document


def _paths(document: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    return [at, *(path for key, value in inner for path in _paths(value, (*at, key)))]


def _replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[path[0]] = _replaced(document[path[0]], path[1:], value)
    return copy
