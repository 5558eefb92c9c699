"""What a request takes is what is decoded for it: chunks, whole ones, however few voxels of them are asked for."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tensorstore as ts
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from block_server.arrays import VOXELS, Level
from block_server.cropping import Crop
from block_server.errors import BusyError
from block_server.reading import amplification, decoded_in_turn, planned
from block_server.registered import COPIES, Registered
from block_server.settings import MIB, BlockServerSettings
from block_server.testing import House, Made, house_on
from emporter_contracts.geometry import Box, Index3, Shape3
from emporter_runtime.testing import file_store
from emporter_testing.in_place import registered

LARGE: Shape3 = (10, 1024, 1024)
"""A chunk of 10 MiB, of which decoding takes 30: nearly all that is in flight here."""
TOO_LARGE: Shape3 = (12, 1024, 1024)


def noise(shape: Shape3) -> NDArray[Any]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype="u1")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server that decodes 1 MiB for a request."""
    limits = {"blocks_in_flight_bytes": 32 * MIB, "blocks_cache_bytes": 0, "blocks_request_decoded_bytes": MIB}
    with house_on(file_store(tmp_path_factory.mktemp("small")), **limits) as house:
        yield house


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, files: Path) -> Iterator[House]:
    """A server with 32 MiB in flight and a file root."""
    settings: dict[str, Any] = {"blocks_in_flight_bytes": 32 * MIB, "file_roots": {"scope": files}}
    with house_on(file_store(tmp_path_factory.mktemp("store")), **settings) as house:
        yield house


@pytest.fixture(scope="module")
def eight(small: House) -> Made:
    """Eight chunks of 256 KiB."""
    return small.commit(Made(noise((128, 128, 128)), name="eight", chunk=(64, 64, 64), shard=(128, 128, 128), halvings=()))


CORNERS = [[z, y, x] for z in (0, 64) for y in (0, 64) for x in (0, 64)]
ONE = {"shape": [1, 1, 1]}
FEW_VOXELS_OF_ALL = {
    "block": ("GET", "/v1/volumes/{v}/block?origin=63,63,63&shape=2,2,2", None),
    "mirrored": ("GET", "/v1/volumes/{v}/block?origin=-2,63,63&shape=68,2,2&outside=reflect", None),
    "compressed": ("GET", "/v1/volumes/{v}/block?origin=63,63,63&shape=2,2,2&format=zstd", None),
    "blocks": ("POST", "/v1/volumes/{v}/blocks", ONE | {"origins": CORNERS}),
    "places": ("POST", "/v1/blocks", ONE | {"origins": CORNERS, "volumes": [{"volume": "{v}"}]}),
    "sample": ("POST", "/v1/volumes/{v}/sample", ONE | {"n": 200, "seed": 1}),
    "cutout": ("GET", "/v1/cutout/any/any/{v}/0/63:65/63:65/63:65", None),
    "dvid": ("GET", "/api/node/any/{v}/raw/0_1_2/2_2_2/63_63_63", None),
}


def asked(house: House, made: Made, route: str) -> httpx.Response:
    method, path, body = FEW_VOXELS_OF_ALL[route]
    text = None if body is None else json.dumps(body).replace("{v}", str(made.ref))
    return httpx.request(method, house.url + path.replace("{v}", str(made.ref)), content=text)


@pytest.mark.parametrize("route", FEW_VOXELS_OF_ALL)
def test_a_few_voxels_of_many_chunks_are_as_much_as_their_chunks(small: House, eight: Made, route: str):
    answer = asked(small, eight, route)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large"), answer.text
    assert f"{8 * 64**3} bytes of chunks" in answer.json()["title"]
    assert "64,64,64" in answer.json()["hint"]


def test_chunks_up_to_the_limit_are_given_each_counted_once(small: House, eight: Made):
    body = ONE | {"origins": CORNERS[:4] * 20}
    answer = httpx.post(f"{small.url}/v1/volumes/{eight.ref}/blocks", json=body)
    assert answer.content == bytes(eight.voxels[tuple(origin)] for origin in body["origins"])


def test_a_slice_is_counted_by_its_chunks_too(small: House):
    thick = small.commit(Made(noise((64, 160, 160)), name="thick", chunk=(64, 64, 64), shard=(64, 192, 192), halvings=()))
    assert httpx.get(f"{small.url}/v1/volumes/{thick.ref}/slice/z/3").status_code == 413
    assert httpx.get(f"{small.url}/v1/volumes/{thick.ref}/slice/x/3").status_code == 200


def test_a_chunk_that_takes_more_than_there_is_says_what_helps(house: House, files: Path):
    ref = registered(house, files, "too-large", noise(TOO_LARGE), TOO_LARGE)
    for path in ("block?shape=1,1,1", "block?shape=1,1,1&format=zstd", "slice/z/0"):
        answer = httpx.get(f"{house.url}/v1/volumes/{ref}/{path}")
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large"), path
    said = answer.json()
    assert f"{12 * MIB} bytes" in said["title"]
    assert f"emporter ingest {ref}" in said["hint"]
    assert "EMPORTER_BLOCKS_IN_FLIGHT_BYTES" in said["hint"]


def test_beside_a_chunk_that_takes_nearly_all_a_volume_is_given_in_slabs(house: House, files: Path):
    voxels = noise(LARGE)
    ref = registered(house, files, "large", voxels, LARGE)
    for path, beyond in (("block?shape=10,1024,1024", 0), ("block?shape=10,1024,1025&outside=edge", 1)):
        answer = httpx.get(f"{house.url}/v1/volumes/{ref}/{path}")
        assert answer.status_code == 200, answer.text
        assert answer.content == np.pad(voxels, ((0, 0), (0, 0), (0, beyond)), mode="edge").tobytes()


async def test_a_thread_whose_reader_has_gone_holds_its_memory_until_it_ends():
    settings = BlockServerSettings(blocks_in_flight_bytes=8 * MIB, blocks_wait_seconds=0)
    sources, go = Registered(settings, ts.Context()), threading.Event()

    def wanted() -> bool:
        return True

    try:
        reader = asyncio.create_task(sources._decoded(lambda: go.wait(60) and None, 6 * MIB, wanted))
        while not sources._pool._work_queue.empty() or not sources._decoding.held:
            await asyncio.sleep(0.001)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        with pytest.raises(BusyError):
            await sources._decoded(lambda: None, 3 * MIB, wanted)
        go.set()
        while sources._decoding.held:
            await asyncio.sleep(0.001)
        await sources._decoded(lambda: None, 8 * MIB, wanted)
    finally:
        go.set()
        await sources.close()


def level(chunk: Shape3, dtype: str = "u1", copies: int = 0) -> Level:
    """One that is never read."""
    itemsize = np.dtype(dtype).itemsize
    beside = copies * int(np.prod(chunk)) * itemsize
    scale = (1.0, 1.0, 1.0)
    return Level(0, "0", (10**6,) * 3, chunk, chunk, np.dtype(dtype), scale, (0.0,) * 3, (1, 1, 1), store=None, beside=beside)


def part(of: Level, origin: Index3, shape: Shape3 = (128, 128, 128)) -> Crop:
    box = Box.at(origin, shape)
    return Crop(volume=None, level=of, box=box, outside="error", inside=box)  # type: ignore[arg-type]


@given(st.integers(1, 700), st.integers(0, 2))
def test_no_less_than_a_chunk_is_ever_held_and_what_decoding_takes_beside_it(side: int, copies: int):
    of = level((side, side, side), copies=copies)
    least = (1 + copies) * side**3
    assert of.decoded_bytes(Box.at((5, 5, 5), (1, 1, 1))) == least
    assert least <= of.decoded_bytes(Box.at((0, 0, 0), (2000, 2000, 2000))) <= 17 * max(VOXELS, least)


def around(places: list[Index3]) -> int:
    """Chunks of the box around them all."""
    return int(np.prod(np.ptp(np.array(places), axis=0) + 2))


@given(st.lists(st.tuples(*[st.integers(0, 9)] * 3), min_size=1, max_size=20), st.integers(0, 60))
def test_chunks_are_counted_again_only_where_what_lies_between_was_too_much_to_keep(places: list[Index3], kept: int):
    of = level((1, 1, 1))
    parts = [part(of, place, (2, 2, 2)) for place in places]
    counted = decoded_in_turn(parts, kept)
    distinct = {(z + i, y + j, x + k) for z, y, x in places for i in (0, 1) for j in (0, 1) for k in (0, 1)}
    assert len(distinct) <= counted <= amplification(parts)[1]
    assert decoded_in_turn(parts, 11**3) == min(amplification(parts)[1], around(places))


def test_a_chunk_is_counted_again_once_others_have_taken_its_room():
    of = level((1, 1, 1))
    there_and_back = [part(of, place, (1, 1, 1)) for place in ((0, 0, 0), (0, 0, 1), (0, 0, 0))]
    assert [decoded_in_turn(there_and_back, kept) for kept in (1, 2)] == [3, 2]


@pytest.mark.parametrize("chunk", [(64, 64, 64), (128, 128, 128), (256, 256, 256)])
@pytest.mark.parametrize("copies", [0, COPIES])
def test_what_loaders_ask_for_is_never_too_much(chunk: Shape3, copies: int):
    """256 crops of 64 bit, each across as many chunks as can be, far apart."""
    defaults, of = BlockServerSettings(), level(chunk, "u8", copies)
    batch = [part(of, (n * 1000 + 255, 255, 255)) for n in range(256)]
    assert decoded_in_turn(batch, defaults.blocks_cache_bytes // 2) <= defaults.blocks_request_decoded_bytes
    assert planned(batch, defaults.blocks_in_flight_bytes // 2).at_once <= defaults.blocks_in_flight_bytes


@pytest.mark.parametrize("chunk", [(512, 512, 512), (1, 12_000, 12_000), (128, 1024, 1024)])
def test_a_crop_out_of_chunks_of_144_million_bytes_is_not_too_much(chunk: Shape3):
    one = part(level(chunk, copies=COPIES), (0, 0, 0), (min(128, chunk[0]), 128, 128))
    assert one.needed_bytes <= BlockServerSettings().blocks_in_flight_bytes
