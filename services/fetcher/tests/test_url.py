from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile

from emporter_archives.faults import Drop, Silence, SmallerRange, Status, Swap
from emporter_archives.server import FileServer
from emporter_contracts.errors import EmporterError
from emporter_contracts.plans import FetchPlan
from emporter_readers.cached import BLOCK_BYTES
from emporter_readers.errors import CorruptObjectError
from fetcher.errors import HostRefusedError, PrivateAddressError, RangesIgnoredError, SourceChangedError, UrlRefusedError
from fetcher.gate import Gate
from fetcher.planning import make_plan
from fetcher.settings import FetcherSettings
from fetcher.sources import over_http
from fetcher.sources.over_http import planned_object
from fetcher.sources.protocol import Context
from fetcher.sources.url import UrlSource
from fetcher.testing import a_request

PATH = "/data/stack.tif"


def a_stack(pages: int = 8, side: int = 256) -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as tiff:
        for n in range(pages):
            page = np.random.default_rng(n).integers(0, 256, (side, side), dtype=np.uint8)
            tiff.write(page, contiguous=False, metadata=None, photometric="minisblack")
    return file.getvalue()


@pytest.fixture
async def source() -> AsyncIterator[UrlSource]:
    settings = FetcherSettings(url_allowed_hosts=("127.0.0.1",), url_allow_private=True, http_stall_seconds=0.5)
    source = UrlSource(settings, Gate(2**28))
    yield source
    await source.close()


async def planned(source: UrlSource, url: str) -> FetchPlan:
    return await make_plan(a_request("url", url), "url-x", 1, source)


async def test_a_plan_is_made_from_headers_alone(archive: FileServer, source: UrlSource) -> None:
    data = a_stack(pages=40, side=512)
    plan = await planned(source, archive.put(PATH, data))
    assert plan.volumes[0].shape == (40, 512, 512)
    assert plan.objects[0].path == "stack.tif"
    assert plan.download_url == archive.url(PATH)
    assert archive.sent[PATH] < len(data) / 2


async def test_headers_are_read_again_where_a_connection_broke(archive: FileServer, source: UrlSource) -> None:
    url = archive.put(PATH, a_stack())
    archive.misbehave(PATH, Status(503), Drop(0), Silence())
    assert (await planned(source, url)).volumes[0].shape == (8, 256, 256)


async def test_a_file_that_changes_while_its_headers_are_read_is_noticed(archive: FileServer, source: UrlSource) -> None:
    url = archive.put(PATH, a_stack())
    archive.misbehave(PATH, Status(503), Swap(a_stack(9)), Swap(a_stack(7)))
    with pytest.raises(SourceChangedError):
        await planned(source, url)


async def test_without_ranges_a_small_file_is_planned_all_the_same(archive: FileServer, source: UrlSource) -> None:
    plan = await planned(source, archive.put(PATH, a_stack(), ranges=False))
    assert plan.volumes[0].shape == (8, 256, 256)


async def test_without_ranges_headers_that_lie_far_away_are_refused_with_a_way_out(
    archive: FileServer, source: UrlSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(over_http, "LONGEST_BEGINNING", 100_000)
    with pytest.raises(RangesIgnoredError) as refused:
        await planned(source, archive.put(PATH, a_stack(), ranges=False))
    assert refused.value.code == "no_ranges"
    assert "download it" in refused.value.hint


async def test_many_small_reads_are_few_requests(archive: FileServer, source: UrlSource) -> None:
    data = bytes(range(256)) * 4096
    probe = await source.client.probe(archive.put(PATH, data))
    opened = source.open(planned_object(probe, Context("job", 1)))

    def walk() -> None:
        for start in range(0, 4 * BLOCK_BYTES, 1000):
            assert opened.read(start, start + 10) == data[start : start + 10]
        assert opened.read(0, len(data)) == data
        assert opened.read(5, 5) == b""
        with pytest.raises(CorruptObjectError):
            opened.read(0, len(data) + 1)

    await asyncio.to_thread(walk)
    assert len(archive.asked(PATH)) <= 1 + 4 + 1 + 1


async def test_headers_may_be_read_from_several_threads(archive: FileServer, source: UrlSource) -> None:
    data = bytes(range(256)) * 4096
    probe = await source.client.probe(archive.put(PATH, data))
    opened = source.open(planned_object(probe, Context("job", 1)))
    starts = range(0, len(data) - 100, 50_000)
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(len(starts)) as threads:
        pieces = await asyncio.gather(*(loop.run_in_executor(threads, opened.read, s, s + 100) for s in starts))
    assert pieces == [data[s : s + 100] for s in starts]


async def test_many_plans_at_once_do_not_wait_for_each_other(archive: FileServer) -> None:
    url = archive.put(PATH, a_stack()).replace("127.0.0.1", "localhost")
    source = UrlSource(FetcherSettings(url_allowed_hosts=("localhost",), url_allow_private=True), Gate(2**28))
    async with asyncio.timeout(60):
        plans = await asyncio.gather(*(planned(source, url) for _ in range(40)))
    assert {plan.volumes[0].shape for plan in plans} == {(8, 256, 256)}
    await source.close()


async def test_planning_that_is_given_up_leaves_no_thread_reading(archive: FileServer, source: UrlSource) -> None:
    url = archive.put(PATH, a_stack())
    archive.misbehave(PATH, SmallerRange(1), Silence())
    task = asyncio.create_task(planned(source, url))
    async with asyncio.timeout(5):
        while len(archive.asked(PATH)) < 1 or not archive.open_now:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while any(thread.name.startswith("headers") for thread in threading.enumerate()):
            await asyncio.sleep(0.001)
    assert len(archive.asked(PATH)) <= 2


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("http://elsewhere.example/a.tif", HostRefusedError),
        ("gopher://127.0.0.1/a.tif", UrlRefusedError),
        ("/etc/passwd", UrlRefusedError),
        ("http://u:p@127.0.0.1/a.tif", UrlRefusedError),
    ],
)
async def test_what_may_not_be_opened_is_refused_before_anything_is(
    source: UrlSource, url: str, error: type[EmporterError]
) -> None:
    with pytest.raises(error) as refused:
        await planned(source, url)
    assert refused.value.hint


async def test_ones_own_network_is_closed_unless_the_operator_opens_it(archive: FileServer) -> None:
    source = UrlSource(FetcherSettings(url_allowed_hosts=("*",)), Gate(2**28))
    with pytest.raises(PrivateAddressError):
        await planned(source, archive.put(PATH, a_stack()))
    assert not archive.requests
    await source.close()


async def test_a_name_without_suffix_is_taken_from_what_the_server_offers(archive: FileServer, source: UrlSource) -> None:
    url = archive.put("/files/12345", a_stack())
    archive.files["/files/12345"].headers["Content-Disposition"] = 'attachment; filename="../run 7.tif"'
    assert (await planned(source, url)).objects[0].path == "_run 7.tif"
