from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from emporter_archives.faults import (
    Bare,
    Drop,
    Fault,
    Gzip,
    Hangup,
    LyingLength,
    OtherRange,
    ShortRange,
    Silence,
    SmallerRange,
    Stall,
    Status,
    Swap,
    Unsized,
    Whole,
    redirect,
)
from emporter_archives.server import FileServer
from emporter_contracts.errors import EmporterError
from emporter_runtime import addresses
from emporter_runtime.errors import RateLimitedError
from fetcher.errors import (
    ArchiveMisbehavesError,
    ArchiveRefusedError,
    ArchiveUnreachableError,
    ContentEncodedError,
    ForbiddenError,
    HostRefusedError,
    NotInArchiveError,
    PrivateAddressError,
    RangesIgnoredError,
    SourceChangedError,
    UrlRefusedError,
)
from fetcher.transports.addresses import HostPolicy
from fetcher.transports.http import FRESH_START_BYTES, MAX_HOPS, HttpClient, HttpLimits
from fetcher.transports.replies import Pinned
from fetcher.transports.trying import TRIES

DATA = random.Random(1).randbytes(300_000)
OTHER = random.Random(2).randbytes(300_000)
HERE = HostPolicy(("127.0.0.1", "localhost"), allow_private=True)
PATH = "/volume.tif"


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    client = HttpClient(HERE, HttpLimits(connections_per_host=2, stall=0.3))
    yield client
    await client.close()


async def pinned(client: HttpClient, archive: FileServer, **how: object) -> Pinned:
    return (await client.probe(archive.put(PATH, DATA, **how))).pinned


async def test_a_probe_tells_size_version_name_and_manners(client: HttpClient, archive: FileServer) -> None:
    probe = await client.probe(archive.put(PATH, DATA, etag='"v1"'))
    assert (probe.pinned.size, probe.pinned.etag, probe.name, probe.ranges) == (len(DATA), '"v1"', "volume.tif", True)
    assert archive.sent[PATH] == 1


async def test_a_range_is_exactly_the_bytes_asked_for(client: HttpClient, archive: FileServer) -> None:
    there = await pinned(client, archive)
    assert await client.read(there, 1000, 2345) == DATA[1000:2345]
    assert archive.sent[PATH] == 1 + 1345


async def test_an_empty_file_is_zero_bytes(client: HttpClient, archive: FileServer) -> None:
    there = (await client.probe(archive.put(PATH, b""))).pinned
    assert there.size == 0
    assert await client.read(there, 0, 0) == b""


async def test_compression_is_declined_and_refused_when_it_comes_anyway(client: HttpClient, archive: FileServer) -> None:
    there = await pinned(client, archive)
    archive.misbehave(PATH, Gzip())
    with pytest.raises(ContentEncodedError) as refused:
        await client.read(there, 0, 5000)
    assert refused.value.code == "content_encoded"
    assert {r.headers["accept-encoding"] for r in archive.requests} == {"identity"}


@pytest.mark.parametrize(
    "fault", [Drop(100_000), Hangup(100_000), Stall(100_000), LyingLength(50), SmallerRange(10_000)], ids=str
)
async def test_a_transfer_that_breaks_goes_on_where_it_broke(client: HttpClient, archive: FileServer, fault: Fault) -> None:
    there = await pinned(client, archive)
    archive.misbehave(PATH, fault)
    assert await client.read(there, 0, len(DATA)) == DATA
    begins = [int(r.headers["range"].removeprefix("bytes=").split("-")[0]) for r in archive.requests[1:]]
    assert begins[0] == 0
    assert isinstance(fault, LyingLength) or (len(begins) > 1 and 0 < begins[1] <= 100_000)
    assert archive.sent[PATH] < len(DATA) + 300_000


@pytest.mark.parametrize(
    "fault", [Drop(), Hangup(), Silence(), Stall(), Status(500), Status(502), Status(503), Status(408), Status(421)], ids=str
)
async def test_what_never_gets_better_is_the_jobs_to_wait_for(client: HttpClient, archive: FileServer, fault: Fault) -> None:
    there = await pinned(client, archive)
    archive.always(PATH, fault)
    with pytest.raises(ArchiveUnreachableError):
        await client.read(there, 0, 1000)
    assert len(archive.asked(PATH)) <= 1 + TRIES


async def test_503_then_ok_is_not_even_noticed(client: HttpClient, archive: FileServer) -> None:
    there = await pinned(client, archive)
    archive.misbehave(PATH, Status(503), Status(500))
    assert await client.read(there, 5, 10) == DATA[5:10]


async def test_a_bad_line_that_makes_progress_is_not_given_up(client: HttpClient, archive: FileServer) -> None:
    data = random.Random(3).randbytes(12 * FRESH_START_BYTES)
    there = (await client.probe(archive.put(PATH, data))).pinned
    archive.misbehave(PATH, *(Hangup(FRESH_START_BYTES + 1) for _ in range(TRIES + 3)))
    digest = hashlib.sha256(await client.read(there, 0, len(data)))
    assert digest.digest() == hashlib.sha256(data).digest()


async def test_a_host_that_is_away_is_transient(client: HttpClient, archive: FileServer) -> None:
    there = await pinned(client, archive)
    archive.stop()
    with pytest.raises(ArchiveUnreachableError):
        await client.read(there, 0, 10)


async def test_patience_asked_for_is_handed_on_and_kept_by_every_later_request(client: HttpClient, archive: FileServer) -> None:
    there = await pinned(client, archive)
    archive.misbehave(PATH, Status(429, {"Retry-After": "120"}))
    with pytest.raises(RateLimitedError) as first:
        await client.read(there, 0, 10)
    assert first.value.retry_after == 120
    with pytest.raises(RateLimitedError) as second:
        await client.read(there, 0, 10)
    assert second.value.retry_after is not None
    assert 100 < second.value.retry_after <= 120
    assert len(archive.asked(PATH)) == 2


async def test_patience_may_be_a_date(client: HttpClient, archive: FileServer) -> None:
    there = await pinned(client, archive)
    archive.misbehave(PATH, Status(503, {"Retry-After": "Wed, 21 Oct 2099 07:28:00 GMT"}))
    with pytest.raises(RateLimitedError) as limited:
        await client.read(there, 0, 10)
    assert limited.value.retry_after == 24 * 3600


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, NotInArchiveError),
        (410, NotInArchiveError),
        (403, ForbiddenError),
        (401, ForbiddenError),
        (400, ArchiveRefusedError),
    ],
)
async def test_a_refusal_is_permanent_and_asked_for_once(
    client: HttpClient, archive: FileServer, status: int, error: type[EmporterError]
) -> None:
    archive.put(PATH, DATA)
    archive.always(PATH, Status(status))
    with pytest.raises(error) as refused:
        await client.probe(archive.url(PATH))
    assert refused.value.hint
    assert len(archive.asked(PATH)) == 1


@pytest.mark.parametrize(
    "fault", [Swap(OTHER), Swap(OTHER + b"longer"), Swap(OTHER[:1000])], ids=["same size", "longer", "shorter"]
)
async def test_a_file_that_changed_is_never_mixed(client: HttpClient, archive: FileServer, fault: Swap) -> None:
    there = await pinned(client, archive)
    assert await client.read(there, 0, 100_000) == DATA[:100_000]
    archive.misbehave(PATH, fault)
    with pytest.raises(SourceChangedError) as changed:
        await client.read(there, 100_000, 200_000)
    assert changed.value.code == "source_changed"
    assert "--refresh" in changed.value.hint


async def test_a_file_that_changed_is_noticed_by_its_date_alone(client: HttpClient, archive: FileServer) -> None:
    there = await pinned(client, archive, etag=None)
    archive.put(PATH, OTHER, etag=None, modified="Tue, 12 Jun 2018 22:27:00 GMT")
    with pytest.raises(SourceChangedError):
        await client.read(there, 0, 1000)


async def test_a_file_that_changed_is_noticed_while_a_broken_transfer_is_resumed(client: HttpClient, archive: FileServer) -> None:
    there = await pinned(client, archive)
    archive.misbehave(PATH, Hangup(1000), Swap(OTHER))
    with pytest.raises(SourceChangedError):
        await client.read(there, 0, len(DATA))


async def test_a_weak_etag_is_compared_but_not_asked_for(client: HttpClient, archive: FileServer) -> None:
    there = await pinned(client, archive, etag='W/"1"')
    assert await client.read(there, 0, 1000) == DATA[:1000]
    assert archive.requests[-1].headers["if-range"] == there.modified
    archive.put(PATH, OTHER, etag='W/"2"')
    with pytest.raises(SourceChangedError):
        await client.read(there, 0, 1000)


async def test_whole_files_only_is_said_before_anything_is_read(client: HttpClient, archive: FileServer) -> None:
    probe = await client.probe(archive.put(PATH, DATA, ranges=False))
    assert not probe.ranges
    with pytest.raises(RangesIgnoredError):
        await client.read(probe.pinned, 1000, 2000)
    assert await client.read(probe.pinned, 0, len(DATA)) == DATA
    assert await client.beginning(probe.pinned, 777) == DATA[:777]


async def test_without_ranges_a_broken_transfer_starts_again_and_gives_no_byte_twice(
    client: HttpClient, archive: FileServer
) -> None:
    there = await pinned(client, archive, ranges=False)
    archive.misbehave(PATH, Hangup(100_000), Hangup(50_000), Drop(200_000))
    assert await client.read(there, 0, len(DATA)) == DATA


async def test_a_server_that_ignores_a_range_now_and_then_is_not_believed(client: HttpClient, archive: FileServer) -> None:
    there = await pinned(client, archive)
    archive.misbehave(PATH, Whole())
    with pytest.raises(RangesIgnoredError):
        await client.read(there, 1000, 2000)


@pytest.mark.parametrize("fault", [OtherRange(8), LyingLength(-100)], ids=str)
async def test_another_range_than_asked_for_is_not_taken(client: HttpClient, archive: FileServer, fault: Fault) -> None:
    there = await pinned(client, archive)
    archive.misbehave(PATH, fault)
    if isinstance(fault, OtherRange):
        with pytest.raises(ArchiveMisbehavesError):
            await client.read(there, 1000, 2000)
    else:
        assert await client.read(there, 1000, 2000) == DATA[1000:2000]
        assert await client.read(there, 2000, 3000) == DATA[2000:3000]


async def test_a_range_that_is_shorter_than_it_says_is_asked_for_again(client: HttpClient, archive: FileServer) -> None:
    there = await pinned(client, archive)
    archive.misbehave(PATH, ShortRange(100))
    assert await client.read(there, 1000, 2000) == DATA[1000:2000]


async def test_without_a_size_nothing_is_begun(client: HttpClient, archive: FileServer) -> None:
    archive.put(PATH, DATA)
    archive.always(PATH, Unsized())
    with pytest.raises(ArchiveRefusedError):
        await client.probe(archive.url(PATH))


async def test_a_server_without_validators_is_told_apart_from_one_with(client: HttpClient, archive: FileServer) -> None:
    archive.put(PATH, DATA)
    archive.always(PATH, Bare())
    there = (await client.probe(archive.url(PATH))).pinned
    assert not there.told_apart
    assert await client.read(there, 10, 20) == DATA[10:20]


async def test_redirects_are_followed_with_the_range(client: HttpClient, archive: FileServer) -> None:
    archive.put("/real.tif", DATA)
    archive.always(PATH, redirect("/hop"))
    archive.always("/hop", redirect(archive.url("/real.tif").replace("127.0.0.1", "localhost"), 307))
    there = (await client.probe(archive.url(PATH))).pinned
    assert there.url == archive.url(PATH)
    assert await client.read(there, 100, 200) == DATA[100:200]


async def test_a_loop_of_redirects_ends(client: HttpClient, archive: FileServer) -> None:
    archive.always(PATH, redirect(PATH))
    with pytest.raises(ArchiveRefusedError):
        await client.probe(archive.url(PATH))
    assert len(archive.requests) == MAX_HOPS + 1


@pytest.mark.parametrize(
    ("to", "error"),
    [
        ("http://elsewhere.example/volume.tif", HostRefusedError),
        ("http://user:secret@127.0.0.1/volume.tif", UrlRefusedError),
        ("ftp://127.0.0.1/volume.tif", UrlRefusedError),
        ("file:///etc/passwd", UrlRefusedError),
    ],
)
async def test_a_redirect_is_checked_like_the_first_url(
    client: HttpClient, archive: FileServer, to: str, error: type[EmporterError]
) -> None:
    archive.always(PATH, redirect(to))
    with pytest.raises(error):
        await client.probe(archive.url(PATH))


async def test_no_more_connections_than_the_archive_likes(client: HttpClient, archive: FileServer) -> None:
    there = await pinned(client, archive)
    archive.misbehave(PATH, *(SmallerRange(5000) for _ in range(40)))
    pieces = await asyncio.gather(*(client.read(there, n, n + 20_000) for n in range(0, 200_000, 20_000)))
    assert b"".join(pieces) == DATA[:200_000]
    assert archive.open_most <= 2


async def test_a_reader_that_leaves_early_frees_its_connection(client: HttpClient, archive: FileServer) -> None:
    there = await pinned(client, archive)
    for _ in range(5):
        async with aclosing(client.pieces(there, 0, len(DATA))) as pieces:
            async for _piece in pieces:
                break
    assert await client.read(there, 0, 10) == DATA[:10]


async def test_private_addresses_are_refused_by_default(archive: FileServer) -> None:
    client = HttpClient(HostPolicy(("*",)))
    for host in ("127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"):
        with pytest.raises(PrivateAddressError) as refused:
            await client.probe(f"http://{host}:{archive.port}{PATH}")
        assert "EMPORTER_URL_ALLOW_PRIVATE" in refused.value.hint
    assert not archive.requests
    await client.close()


async def test_a_name_that_changes_its_address_between_two_looks_gains_nothing(archive: FileServer) -> None:
    answers = iter([["127.0.0.1"], ["10.0.0.1", "127.0.0.1"], ["169.254.169.254"]])

    async def rebinding(host: str, port: int) -> list[str]:
        return next(answers)

    client = HttpClient(HostPolicy(("data.example",)), resolve=rebinding)
    for _ in range(3):
        with pytest.raises(PrivateAddressError):
            await client.probe(f"http://data.example:{archive.port}{PATH}")
    assert not archive.requests
    await client.close()


async def test_an_unknown_name_is_a_typing_mistake_before_the_first_byte_only(archive: FileServer) -> None:
    client = HttpClient(HostPolicy(("*",)))
    with pytest.raises(UrlRefusedError) as refused:
        await client.probe("http://no-such-host.invalid/volume.tif")
    assert refused.value.code == "url_refused"
    with pytest.raises(ArchiveUnreachableError):
        await client.read(Pinned("http://no-such-host.invalid/volume.tif", 10), 0, 10)
    await client.close()


async def test_a_redirect_to_a_private_address_is_refused(archive: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    # The loopback server plays a public one, so that the first hop is taken and the second one judged.
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.1")

    async def by_name(host: str, port: int) -> list[str]:
        return ["127.0.0.1"] if host == "public.example" else ["10.1.2.3"]

    client = HttpClient(HostPolicy(("*",)), resolve=by_name)
    archive.always(PATH, redirect("http://inside.example/secret"))
    with pytest.raises(PrivateAddressError) as refused:
        await client.probe(f"http://public.example:{archive.port}{PATH}")
    assert "inside.example" in refused.value.message
    assert len(archive.requests) == 1
    await client.close()


async def test_a_redirect_from_https_to_http_is_refused(client: HttpClient) -> None:
    with pytest.raises(UrlRefusedError):
        client._hop(HERE.checked("https://localhost/a"), "http://localhost/a")
    assert client._hop(HERE.checked("http://localhost/a"), "https://localhost/b").url == "https://localhost/b"


async def test_a_version_that_is_no_longer_said_is_not_believed(client: HttpClient, archive: FileServer) -> None:
    there = await pinned(client, archive, ranges=False)
    archive.misbehave(PATH, Bare())
    with pytest.raises(SourceChangedError):
        await client.read(there, 0, len(DATA))


async def test_a_server_that_drops_validators_from_ranges_it_was_asked_to_check_is_believed(
    client: HttpClient, archive: FileServer
) -> None:
    there = await pinned(client, archive)
    archive.misbehave(PATH, Bare())
    assert await client.read(there, 100, 200) == DATA[100:200]
