from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from emporter_archives.ftp import FtpArchive
from emporter_runtime.errors import RateLimitedError
from fetcher.errors import (
    ArchiveMisbehavesError,
    ArchiveRefusedError,
    ArchiveUnreachableError,
    ForbiddenError,
    HostRefusedError,
    NotInArchiveError,
    PrivateAddressError,
    RangesIgnoredError,
    SourceChangedError,
    UrlRefusedError,
)
from fetcher.gate import Gate
from fetcher.settings import FetcherSettings
from fetcher.sources.protocol import Context
from fetcher.sources.url import UrlSource
from fetcher.testing import a_request
from fetcher.transports.addresses import HostPolicy
from fetcher.transports.ftp import FtpClient
from fetcher.transports.http import HttpLimits
from fetcher.transports.replies import Pinned
from fetcher.transports.trying import TRIES

DATA = random.Random(1).randbytes(1_500_000)
HERE = HostPolicy(("127.0.0.1", "localhost"), allow_private=True)


@pytest.fixture
def ftp(tmp_path: Path) -> Iterator[FtpArchive]:
    with FtpArchive(tmp_path) as server:
        yield server


@pytest.fixture
async def client() -> AsyncIterator[FtpClient]:
    client = FtpClient(HERE, HttpLimits(connections_per_host=2, connect=2, stall=0.5))
    yield client
    await client.close()


async def fetched(client: FtpClient, pinned: Pinned, start: int = 0, stop: int | None = None) -> bytes:
    async with aclosing(client.pieces(pinned, start, pinned.size if stop is None else stop)) as pieces:
        return b"".join([piece async for piece in pieces])


async def test_a_probe_tells_size_time_and_name(client: FtpClient, ftp: FtpArchive) -> None:
    probe = await client.probe(ftp.put("/a folder/50% #1 é.tif", DATA))
    assert (probe.pinned.size, probe.name) == (len(DATA), "50% #1 é.tif")
    assert probe.pinned.modified == "Mon, 11 Jun 2018 22:27:00 GMT"
    assert ftp.sent == 0


async def test_a_file_and_any_part_of_it_are_exactly_its_bytes(client: FtpClient, ftp: FtpArchive) -> None:
    pinned = (await client.probe(ftp.put("/v.tif", DATA))).pinned
    assert await fetched(client, pinned) == DATA
    assert await fetched(client, pinned, 1000, 700_001) == DATA[1000:700_001]
    assert await client.read(pinned, len(DATA) - 3, len(DATA)) == DATA[-3:]
    assert "REST 1000" in ftp.commands


async def test_an_empty_file_is_zero_bytes(client: FtpClient, ftp: FtpArchive) -> None:
    assert await fetched(client, (await client.probe(ftp.put("/v.tif", b""))).pinned) == b""


@pytest.mark.parametrize("fault", ["drops", "stalls"])
async def test_a_transfer_that_breaks_goes_on_where_it_broke(client: FtpClient, ftp: FtpArchive, fault: str) -> None:
    pinned = (await client.probe(ftp.put("/v.tif", DATA))).pinned
    getattr(ftp, fault).append(400_000)
    assert await fetched(client, pinned) == DATA
    assert ftp.asked("REST") == ["REST 400000"]
    assert ftp.sent == len(DATA)


async def test_an_archive_that_keeps_breaking_is_the_jobs_to_wait_for(client: FtpClient, ftp: FtpArchive) -> None:
    pinned = (await client.probe(ftp.put("/v.tif", DATA))).pinned
    ftp.drops.extend([1000] * TRIES)
    with pytest.raises(ArchiveUnreachableError):
        await fetched(client, pinned)


async def test_a_file_that_is_shorter_than_announced_is_never_taken_for_whole(client: FtpClient, ftp: FtpArchive) -> None:
    url = ftp.put("/v.tif", DATA)
    pinned = (await client.probe(url)).pinned
    with pytest.raises(SourceChangedError):
        await fetched(client, Pinned(url, len(DATA) + 5, modified=pinned.modified))


@pytest.mark.parametrize(
    ("data", "modified"), [(DATA[::-1], "Mon, 11 Jun 2018 22:28:00 GMT"), (DATA[:-1], "Mon, 11 Jun 2018 22:27:00 GMT")]
)
async def test_another_version_is_noticed_by_size_or_time(client: FtpClient, ftp: FtpArchive, data: bytes, modified: str) -> None:
    pinned = (await client.probe(ftp.put("/v.tif", DATA))).pinned
    ftp.put("/v.tif", data, modified)
    with pytest.raises(SourceChangedError):
        await fetched(client, pinned, 0, 1000)


async def test_too_many_users_is_a_plea_for_patience(client: FtpClient, ftp: FtpArchive) -> None:
    url = ftp.put("/v.tif", DATA)
    ftp.crowded = 1
    with pytest.raises(RateLimitedError):
        await client.probe(url)
    assert (await client.probe(url)).pinned.size == len(DATA)


async def test_a_missing_file_is_named(client: FtpClient, ftp: FtpArchive) -> None:
    with pytest.raises(NotInArchiveError) as missing:
        await client.probe(ftp.url("/nothing.tif"))
    assert "nothing.tif" in missing.value.message


async def test_a_server_without_rest_can_only_send_whole_files(client: FtpClient, ftp: FtpArchive) -> None:
    pinned = (await client.probe(ftp.put("/v.tif", DATA))).pinned
    ftp.without = {"REST"}
    with pytest.raises(RangesIgnoredError):
        await fetched(client, pinned, 1000, 2000)
    assert await fetched(client, pinned) == DATA


async def test_without_mdtm_the_version_is_the_size(client: FtpClient, ftp: FtpArchive) -> None:
    ftp.without = {"MDTM"}
    pinned = (await client.probe(ftp.put("/v.tif", DATA))).pinned
    assert (pinned.modified, pinned.told_apart) == (None, False)
    assert await fetched(client, pinned, 5, 10) == DATA[5:10]


async def test_data_is_fetched_from_the_address_of_the_control_connection_whatever_pasv_says(
    client: FtpClient, ftp: FtpArchive
) -> None:
    ftp.without = {"EPSV"}
    ftp.pretended_address = "10.1.2.3"
    pinned = (await client.probe(ftp.put("/v.tif", DATA))).pinned
    assert await fetched(client, pinned, 0, 1000) == DATA[:1000]
    assert ftp.asked("PASV")


@pytest.mark.parametrize("without", [set(), {"MLSD"}])
async def test_a_folder_is_listed_by_mlsd_or_by_list(client: FtpClient, ftp: FtpArchive, without: set[str]) -> None:
    ftp.without = without
    for path in ("/f/a b.dm3", "/f/sub/c.dm3", "/f/.hidden"):
        ftp.put(path, b"x")
    (ftp.folder / "f/link").symlink_to(ftp.folder / "f/sub")
    found = {(e.name, e.folder) for e in await client.entries(ftp.url("/f/"))}
    assert {("a b.dm3", False), ("sub", True)} <= found
    assert not {name for name, _ in found} & {".", ".."}


async def test_a_file_is_one_connection_and_no_host_gets_more_than_its_share(client: FtpClient, ftp: FtpArchive) -> None:
    pinned = [(await client.probe(ftp.put(f"/{n}.tif", DATA))).pinned for n in range(5)]
    ftp.commands.clear()
    assert await asyncio.gather(*(fetched(client, one) for one in pinned)) == [DATA] * 5
    assert len(ftp.asked("USER")) == len(ftp.asked("RETR")) == 5


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("ftp://elsewhere.example/x", HostRefusedError),
        ("http://127.0.0.1/x", UrlRefusedError),
        ("ftp://user:secret@127.0.0.1/x", UrlRefusedError),
        ("ftp://127.0.0.1/a%0d%0aDELE%20x", UrlRefusedError),
        ("ftp://127.0.0.1/a/../../x", UrlRefusedError),
    ],
)
async def test_urls_no_message_may_make_us_open_are_refused(client: FtpClient, url: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        await client.probe(url)


async def test_private_addresses_are_refused_unless_an_operator_allows_them(ftp: FtpArchive) -> None:
    guarded = FtpClient(HostPolicy(("*",)))
    with pytest.raises(PrivateAddressError):
        await guarded.probe(ftp.put("/v.tif", DATA))
    assert ftp.commands == []


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[str]:
    """The URL of a file on a server that says these, one after each line it reads, and then nothing."""
    ended: list[asyncio.Task[None]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended.append(cast("asyncio.Task[None]", asyncio.current_task()))
        for n, said in enumerate(answers):
            if n:
                await reader.readline()
            writer.write(said)
        await reader.read()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"ftp://127.0.0.1:{server.sockets[0].getsockname()[1]}/x"
    await asyncio.gather(*ended, return_exceptions=True)


async def test_what_may_not_be_read_is_said_to_be_so(client: FtpClient) -> None:
    async with answering(b"220 hi\r\n", b"530 Not logged in.\r\n") as url:
        with pytest.raises(ForbiddenError):
            await client.probe(url)


@pytest.mark.parametrize("greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"500 what\r\n", b"220-", b"\xff\xfe\r\n"])
async def test_a_server_that_says_nothing_or_nonsense_ends_in_an_error(greeting: bytes) -> None:
    client = FtpClient(HERE, HttpLimits(connect=0.1, stall=0.1))
    async with answering(greeting) as url:
        with pytest.raises((ArchiveUnreachableError, ArchiveRefusedError, ArchiveMisbehavesError)):
            await client.probe(url)


async def test_source_url_opens_ftp_on_allowed_hosts(ftp: FtpArchive) -> None:
    url = ftp.put("/v.tif", DATA)
    source = UrlSource(FetcherSettings(url_allowed_hosts=("127.0.0.1",), url_allow_private=True), Gate(2**28))
    listing = await source.resolve(a_request("url", url), Context("url-x", 1))
    (planned,) = listing.objects
    assert (planned.path, planned.bytes, planned.url) == ("v.tif", len(DATA), url)
    assert await asyncio.to_thread(source.open(planned).read, 10, 20) == DATA[10:20]
    assert b"".join([piece async for piece in source.fetch(planned, 100, 2000)]) == DATA[100:2000]
    await source.close()
    closed = UrlSource(FetcherSettings(url_allow_private=True), Gate(2**28))
    with pytest.raises(HostRefusedError):
        await closed.resolve(a_request("url", url), Context("url-x", 1))
