"""What several readers ask for at once is read once, and all volumes share one cache of so many bytes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from block_server.arrays import cache_context, open_volume
from block_server.settings import MIB
from block_server.telemetry import CacheCollector
from block_server.testing import House, Made, commit, house_on
from emporter_contracts.geometry import Box
from emporter_contracts.ids import VolumeRef
from emporter_readers.chunked.reader import ChunkedReader
from emporter_runtime.objects import Objects
from emporter_runtime.testing import file_store
from emporter_testing.in_place import registered

READERS = 8
CACHE = 3 * MIB
"""Room for one of the volumes here and half another."""
CHUNKS = 64
"""Of a volume of 2 MiB."""
ZEROS = np.zeros((128, 128, 128), "u1")
"""A volume of 2 MiB."""


def decodes() -> int:
    """Chunks and shard indexes that were decoded, ever."""
    (found,) = (one for one in CacheCollector().collect() if one.name == "emporter_blocks_cache_decodes")
    return int(found.samples[0].value)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scope")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, files: Path) -> Iterator[House]:
    settings = {"blocks_cache_bytes": CACHE, "file_roots": {"scope": files}}
    with house_on(file_store(tmp_path_factory.mktemp("store")), **settings) as house:
        yield house


def stored(house: House, name: str) -> Made:
    voxels = np.random.default_rng(len(name)).integers(0, 256, (128, 128, 128), dtype="u1")
    return house.commit(Made(voxels, name=name, chunk=(32, 32, 32), shard=(128, 128, 128), halvings=()))


def decoded_for(house: House, ref: VolumeRef) -> int:
    """What is decoded when all of a volume is asked for."""
    before = decodes()
    assert httpx.get(f"{house.url}/v1/volumes/{ref}/block?shape=128,128,128").is_success
    return decodes() - before


def test_a_chunk_that_is_being_read_is_read_for_all_who_wait_for_it(house: House, files: Path, monkeypatch: pytest.MonkeyPatch):
    ref = registered(house, files, "waited-for", ZEROS, (64, 64, 64))
    go, read, begun = threading.Event(), ChunkedReader.read, []

    def when_told(reader: ChunkedReader, box: Box) -> np.ndarray:
        begun.append(box)
        assert go.wait(60)
        return read(reader, box)

    monkeypatch.setattr(ChunkedReader, "read", when_told)
    url = f"{house.url}/v1/volumes/{ref}/block?shape=9,9,9"
    with ThreadPoolExecutor(READERS) as pool:
        answers = [pool.submit(httpx.get, url, timeout=60) for _ in range(READERS)]
        try:
            deadline = time.monotonic() + 60
            while held(house) < READERS * 3 * 64**3 and time.monotonic() < deadline:
                time.sleep(0.01)
            assert held(house) >= READERS * 3 * 64**3  # all of them wait
        finally:
            go.set()
        assert [answer.result().content for answer in answers] == [bytes(9**3)] * READERS
    assert len(begun) == 1


def held(house: House) -> float:
    """Bytes that requests hold for decoding."""
    lines = httpx.get(f"{house.url}/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith('emporter_blocks_held_bytes{kind="voxels"}'))


async def test_reads_of_a_stored_chunk_are_joined_even_where_nothing_is_kept(tmp_path: Path):
    """A chunk of 8 MiB takes far longer to decode than eight readers take to ask for it; a machine that stalls may try again."""
    objects = Objects.open(file_store(tmp_path))
    voxels = np.random.default_rng(0).integers(0, 64, (128, 256, 256), dtype="u1")
    made = await asyncio.to_thread(commit, objects, Made(voxels, chunk=voxels.shape, shard=voxels.shape, halvings=()))
    volume = await open_volume(objects, cache_context(0), made.ref)
    counts = []
    for _ in range(3):
        before = decodes()
        readings = [volume.begin(volume.levels[0], Box((n, n, n), (n + 9,) * 3)) for n in range(READERS)]
        for n, reading in enumerate(readings):
            assert np.array_equal(await reading.voxels(), voxels[n : n + 9, n : n + 9, n : n + 9])
        counts.append(decodes() - before)
        if counts[-1] <= 2:  # the chunk, and the index of its shard
            break
    assert min(counts) <= 2, counts


def test_all_volumes_share_one_cache_of_so_many_bytes(house: House, files: Path):
    first, second = stored(house, "first"), stored(house, "the-second")
    assert decoded_for(house, first.ref) == CHUNKS + 1
    assert decoded_for(house, first.ref) == 0
    assert decoded_for(house, second.ref) == CHUNKS + 1  # which leaves room for half of the first
    assert decoded_for(house, first.ref) >= CHUNKS // 2
    decoded_for(house, registered(house, files, "elsewhere", ZEROS, (64, 64, 64)))
    assert decoded_for(house, first.ref) >= CHUNKS // 2


def test_what_is_larger_than_the_cache_is_not_kept(house: House):
    voxels = np.random.default_rng(0).integers(0, 256, (128, 128, 256), dtype="u1")
    large = house.commit(Made(voxels, name="larger", chunk=(32, 32, 32), shard=(128, 128, 256), halvings=()))
    url = f"{house.url}/v1/volumes/{large.ref}/block?shape=128,128,256"
    httpx.get(url)
    before = decodes()
    assert httpx.get(url).content == voxels.tobytes()
    assert decodes() - before >= 2 * CHUNKS - CACHE // 32**3
