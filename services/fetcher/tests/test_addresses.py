from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetcher.errors import HostRefusedError, UrlRefusedError
from fetcher.transports.addresses import HostPolicy

ANY = HostPolicy(("*",))


@pytest.mark.parametrize(
    ("pattern", "host", "allowed"),
    [
        ("a.example", "a.example", True),
        ("a.example", "A.Example", True),
        ("a.example", "b.a.example", False),
        ("*.example", "a.example", True),
        ("*.example", "example", False),
        ("*.example", "badexample", False),
        ("*.ac.uk", "ac.uk.evil.example", False),
        ("*", "anything.example", True),
    ],
)
def test_hosts_are_allowed_by_name_or_by_suffix(pattern: str, host: str, allowed: bool) -> None:
    assert HostPolicy((pattern,)).allows(host) is allowed


def test_no_host_is_allowed_unless_somebody_said_so() -> None:
    with pytest.raises(HostRefusedError) as refused:
        HostPolicy(()).checked("https://data.example/volume.tif")
    assert "EMPORTER_URL_ALLOWED_HOSTS" in refused.value.hint


@pytest.mark.parametrize(
    "url",
    [
        "ftp://data.example/x", "file:///etc/passwd", "gopher://data.example", "data.example/x", "http://", "http://user@data.example/x",
        "http://user:pass@data.example/x", "http://data.example:99999/x", "http://data.example:x/", "http://[::1/x", "//data.example/x",
        "http://da ta.example/x", "https://@data.example/x", "http://\u0000.example/", "",
    ],
)  # fmt: skip
def test_what_is_no_plain_http_url_is_refused(url: str) -> None:
    with pytest.raises(UrlRefusedError):
        ANY.checked(url)


def test_what_is_quoted_already_stays_as_it_is() -> None:
    url = "https://documents.epfl.ch/data/%20ElectronMicroscopy_Hippocampus/volumedata.tif"
    assert ANY.checked(url).url == url


def test_what_is_not_quoted_is_quoted_and_a_fragment_left_out() -> None:
    checked = ANY.checked("https://bücher.example/a b/ü.tif?q=a b#page")
    assert checked.url == "https://xn--bcher-kva.example/a%20b/%C3%BC.tif?q=a%20b"


def test_the_host_that_is_checked_is_the_host_that_is_opened() -> None:
    for tricky in (
        "http://good.example\\@evil.example/",
        "http://good.example#@evil.example/",
        "http://good.example?@evil.example/",
    ):
        try:
            target = HostPolicy(("good.example",)).checked(tricky)
        except UrlRefusedError:
            continue
        assert target.url.split("/")[2] == "good.example"


@given(st.text(max_size=60))
def test_any_text_is_checked_or_refused(text: str) -> None:
    for url in (text, f"http://{text}", f"https://data.example/{text}"):
        try:
            target = ANY.checked(url)
        except UrlRefusedError:
            continue
        assert target.url.isascii()
        assert not any(c.isspace() for c in target.url)
