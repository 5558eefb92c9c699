from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from emporter_archives.faults import Drop, Hangup, Silence, Status, Swap
from emporter_archives.server import Blocks, FileServer
from emporter_contracts import storage
from emporter_contracts.plans import SEGMENT_BYTES, Checksum, FetchPlan, Segments, Unit
from emporter_runtime.errors import TransientError
from emporter_runtime.objects import Objects
from emporter_runtime.testing import file_store, s3_server
from fetcher.downloading import StoredUnit, store_unit, store_units
from fetcher.errors import ChecksumMismatchError, SourceChangedError
from fetcher.gate import Gate
from fetcher.settings import FetcherSettings
from fetcher.sources.over_http import planned_object
from fetcher.sources.protocol import Context
from fetcher.sources.url import UrlSource
from fetcher.testing import MemoryArchive, a_plan, an_object

SMALL = random.Random(1).randbytes(100_000)
LARGE = Blocks(SEGMENT_BYTES + 12_345)
PATH = "/volume.tif"


@pytest.fixture(params=["memory", "file"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    return Objects.in_memory() if request.param == "memory" else Objects.open(file_store(tmp_path / "store"))


@pytest.fixture
async def source() -> AsyncIterator[UrlSource]:
    settings = FetcherSettings(
        url_allowed_hosts=("127.0.0.1",), url_allow_private=True, http_stall_seconds=0.5, http_connect_seconds=2
    )
    source = UrlSource(settings, Gate(2 * SEGMENT_BYTES))
    yield source
    await source.close()


async def planned(source: UrlSource, url: str, checksum: Checksum | None = None) -> FetchPlan:
    return a_plan(planned_object(await source.client.probe(url), Context("job", 1), checksum))


async def stored(objects: Objects, plan: FetchPlan, n: int = 0) -> bytes:
    location = plan.objects[n].location
    assert isinstance(location, Segments)
    return b"".join(
        [await objects.get(storage.RAW, storage.segment(location.origin, k)) for k in range(plan.objects[n].segments)]
    )


async def test_a_unit_is_in_the_store_as_the_archive_serves_it(archive: FileServer, source: UrlSource, objects: Objects) -> None:
    plan = await planned(source, archive.put(PATH, SMALL))
    unit = await store_unit(plan, Unit(0, 0), source, objects)
    assert (unit.unit, unit.bytes, unit.fetched) == ("0-0", len(SMALL), len(SMALL))
    assert unit.sha256 == hashlib.sha256(SMALL).hexdigest()
    assert unit.etag == plan.objects[0].etag
    assert await stored(objects, plan) == SMALL


async def test_a_large_object_is_cut_into_segments(archive: FileServer, source: UrlSource) -> None:
    objects = Objects.in_memory()
    plan = await planned(source, archive.put(PATH, LARGE))
    units = list(plan.units())
    assert len(units) == 2
    done = [await store_unit(plan, unit, source, objects) for unit in units]
    assert [u.bytes for u in done] == [SEGMENT_BYTES, 12_345]
    assert hashlib.sha256(await stored(objects, plan)).digest() == hashlib.sha256(LARGE[0 : LARGE.size]).digest()
    assert archive.sent[PATH] == LARGE.size + 1


async def test_an_empty_object_is_one_unit_of_no_bytes(archive: FileServer, source: UrlSource, objects: Objects) -> None:
    plan = await planned(source, archive.put(PATH, b""))
    assert (await store_unit(plan, Unit(0, 0), source, objects)).bytes == 0
    assert await stored(objects, plan) == b""


async def test_what_is_stored_is_never_downloaded_again(archive: FileServer, source: UrlSource, objects: Objects) -> None:
    plan = await planned(source, archive.put(PATH, SMALL))
    first = await store_unit(plan, Unit(0, 0), source, objects)
    archive.requests.clear()
    again = await store_unit(plan.model_copy(update={"job": "another"}), Unit(0, 0), source, objects)
    assert not archive.requests
    assert (again.sha256, again.fetched) == (first.sha256, 0)


async def test_two_workers_on_one_unit_store_it_once(archive: FileServer, source: UrlSource, objects: Objects) -> None:
    plan = await planned(source, archive.put(PATH, SMALL))
    both = await asyncio.gather(*(store_unit(plan, Unit(0, 0), source, objects) for _ in range(2)))
    assert both[0].sha256 == both[1].sha256
    assert await stored(objects, plan) == SMALL


async def test_an_interrupted_unit_leaves_nothing_behind(archive: FileServer, source: UrlSource, objects: Objects) -> None:
    plan = await planned(source, archive.put(PATH, SMALL))
    archive.always(PATH, Hangup(10))
    with pytest.raises(TransientError):
        await store_unit(plan.model_copy(), Unit(0, 0), source, objects)
    assert [o async for o in objects.listing(storage.RAW)] == []
    archive.always(PATH, None)
    archive.misbehave(PATH, Drop(10_000), Status(503), Silence())
    await store_unit(plan, Unit(0, 0), source, objects)
    assert await stored(objects, plan) == SMALL


async def test_a_cancelled_unit_lets_go_of_its_room(archive: FileServer, source: UrlSource, objects: Objects) -> None:
    plan = await planned(source, archive.put(PATH, SMALL))
    archive.misbehave(PATH, Silence(), Silence())
    asked = len(archive.requests)
    tasks = [asyncio.create_task(store_unit(plan, Unit(0, 0), source, objects)) for _ in range(2)]
    async with asyncio.timeout(5):
        while archive.open_now < 2:
            await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert len(archive.requests) == asked
    async with asyncio.timeout(5), source.gate.room(2 * SEGMENT_BYTES):
        pass
    await store_unit(plan, Unit(0, 0), source, objects)


async def test_segments_of_two_versions_are_never_mixed(archive: FileServer, source: UrlSource) -> None:
    objects = Objects.in_memory()
    plan = await planned(source, archive.put(PATH, LARGE))
    await store_unit(plan, Unit(0, 0), source, objects)
    archive.put(PATH, Blocks(LARGE.size, seed=9))
    with pytest.raises(SourceChangedError):
        await store_unit(plan, Unit(0, 1), source, objects)


async def test_other_bytes_under_one_etag_are_noticed_where_they_meet(
    archive: FileServer, source: UrlSource, objects: Objects
) -> None:
    plan = await planned(source, archive.put(PATH, SMALL, etag='"fixed"'))
    archive.misbehave(PATH, Silence())
    late = asyncio.create_task(store_unit(plan, Unit(0, 0), source, objects))
    async with asyncio.timeout(5):
        while not archive.open_now:
            await asyncio.sleep(0.01)
    location = plan.objects[0].location
    assert isinstance(location, Segments)
    await objects.create(storage.RAW, storage.segment(location.origin, 0), SMALL[::-1])
    with pytest.raises(SourceChangedError):
        await late


async def test_a_checksum_of_the_archive_is_checked_while_the_bytes_are_at_hand(
    archive: FileServer, source: UrlSource, objects: Objects
) -> None:
    wrong = Checksum(algorithm="sha256", hex="0" * 64)
    plan = await planned(source, archive.put(PATH, SMALL), wrong)
    with pytest.raises(ChecksumMismatchError) as mismatch:
        await store_unit(plan, Unit(0, 0), source, objects)
    assert "volume.tif" in str(mismatch.value)


async def test_without_ranges_one_pass_stores_every_segment(archive: FileServer, source: UrlSource) -> None:
    objects = Objects.in_memory()
    plan = await planned(source, archive.put(PATH, LARGE, ranges=False))
    done = await asyncio.gather(*(store_unit(plan, unit, source, objects) for unit in plan.units()))
    assert hashlib.sha256(await stored(objects, plan)).digest() == hashlib.sha256(LARGE[0 : LARGE.size]).digest()
    assert sorted(u.fetched for u in done) == [0, LARGE.size]


async def test_a_batch_is_stored_side_by_side_within_the_archives_patience(archive: FileServer, source: UrlSource) -> None:
    objects = Objects.in_memory()
    data = {f"/{n}.dm3": random.Random(n).randbytes(5000 + n) for n in range(20)}
    probes = [await source.client.probe(archive.put(path, content)) for path, content in data.items()]
    plan = a_plan(*(planned_object(probe, Context("job", 1)) for probe in probes))
    archive.misbehave("/0.dm3", Silence())
    done: dict[str, str] = {}

    async def entered(unit: StoredUnit) -> None:
        done[unit.unit] = unit.sha256

    await store_units(plan, plan.batches[0], source, objects, entered)
    assert done == {f"{n}-0": hashlib.sha256(content).hexdigest() for n, content in enumerate(data.values())}
    assert next(iter(done)) != "0-0"
    assert archive.open_most <= source.connections


async def test_one_bad_object_stops_its_batch(objects: Objects) -> None:
    names = [f"{n:03}" for n in range(100)]
    source = MemoryArchive(dict.fromkeys(names, b"1"), connections=1)
    bad = an_object("001", 1, checksum=Checksum(algorithm="sha256", hex="f" * 64))
    plan = a_plan(*(bad if name == "001" else an_object(name, 1) for name in names))
    done = []

    async def entered(unit: StoredUnit) -> None:
        done.append(unit.unit)

    with pytest.raises(ChecksumMismatchError):
        await store_units(plan, plan.batches[0], source, objects, entered)
    assert "1-0" not in done
    assert source.fetched["099"] == 0


async def test_a_ledger_that_refuses_stops_the_batch(objects: Objects) -> None:
    names = [f"{n:03}" for n in range(100)]
    source = MemoryArchive(dict.fromkeys(names, b"1"), connections=1)

    async def refused(unit: StoredUnit) -> None:
        raise TransientError(f"not {unit.unit}")

    plan = a_plan(*(an_object(name, 1) for name in names))
    with pytest.raises(TransientError):
        await store_units(plan, plan.batches[0], source, objects, refused)
    assert source.fetched["099"] == 0


async def test_a_slow_ledger_is_waited_for_by_many_units_at_once(objects: Objects) -> None:
    source = MemoryArchive({"a": b"1", "b": b"2"}, connections=1)
    plan = a_plan(an_object("a", 1), an_object("b", 1))
    both = asyncio.Barrier(2)

    async def entered(_: StoredUnit) -> None:
        await both.wait()

    async with asyncio.timeout(10):
        await store_units(plan, plan.batches[0], source, objects, entered)


async def test_bytes_without_a_version_are_never_lent_to_another_run(archive: FileServer, source: UrlSource) -> None:
    url = archive.put(PATH, SMALL, etag=None, modified=None)
    probe = await source.client.probe(url)
    ours, theirs = (planned_object(probe, Context("job", revision)).location for revision in (1, 2))
    assert ours != theirs


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Objects]:
    with s3_server(tmp_path_factory.mktemp("s3")) as settings:
        yield Objects.open(settings)


async def test_the_same_on_a_real_s3_server(archive: FileServer, source: UrlSource, s3: Objects) -> None:
    plan = await planned(source, archive.put(PATH, LARGE))
    done = await asyncio.gather(*(store_unit(plan, unit, source, s3) for unit in plan.units()))
    again = await asyncio.gather(*(store_unit(plan, unit, source, s3) for unit in plan.units()))
    assert [u.sha256 for u in done] == [u.sha256 for u in again]
    assert [u.fetched for u in again] == [0, 0]
    assert hashlib.sha256(await stored(s3, plan)).digest() == hashlib.sha256(LARGE[0 : LARGE.size]).digest()


async def test_a_swap_between_planning_and_fetching_is_noticed(archive: FileServer, source: UrlSource, objects: Objects) -> None:
    plan = await planned(source, archive.put(PATH, SMALL))
    archive.misbehave(PATH, Swap(SMALL[::-1]))
    with pytest.raises(SourceChangedError):
        await store_unit(plan, Unit(0, 0), source, objects)
    assert [o async for o in objects.listing(storage.RAW)] == []
