from __future__ import annotations

import asyncio
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from block_server.admission import Admission
from block_server.errors import BusyError, TooLargeError
from block_server.settings import MIB
from block_server.testing import Made, house_on
from emporter_runtime.testing import file_store


async def settled() -> None:
    """Until everything that can run has run."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_more_than_the_limit_waits_and_is_let_in_when_room_is_given_back():
    admission = Admission(100, 10)
    first = await admission.hold(60)
    waiting = asyncio.create_task(admission.hold(50))
    await settled()
    assert not waiting.done()
    first.shrink(50)
    second = await waiting
    assert admission.held == 100
    with first, second:
        pass
    assert admission.held == 0


async def test_nobody_overtakes_so_that_large_requests_are_served_too():
    admission = Admission(100, 10)
    first = await admission.hold(60)
    large = asyncio.create_task(admission.hold(90))
    await settled()
    small = asyncio.create_task(admission.hold(10))
    await settled()
    assert not small.done()
    first.shrink(0)
    (await large).shrink(0)
    (await small).shrink(0)


async def test_who_waited_long_enough_is_told_to_come_back_and_those_behind_are_let_in():
    admission = Admission(100, 0.05)
    with await admission.hold(60):
        large = asyncio.create_task(admission.hold(90))
        await settled()
        admission._wait_seconds = 10
        small = asyncio.create_task(admission.hold(10))
        with pytest.raises(BusyError) as refusal:
            await large
        assert refusal.value.headers["retry-after"]
        (await small).shrink(0)
    assert admission.held == 0


async def test_more_than_all_is_refused_at_once():
    with pytest.raises(TooLargeError) as refusal:
        await Admission(100, 10).hold(101)
    assert refusal.value.hint


async def test_who_is_cancelled_leaves_nothing_behind():
    admission = Admission(100, 10)
    first = await admission.hold(100)
    waiting = [asyncio.create_task(admission.hold(50)) for _ in range(3)]
    await settled()
    waiting[0].cancel()
    await settled()
    first.shrink(0)
    waiting[1].cancel()  # just admitted, and not told yet
    for answer in await asyncio.gather(*waiting, return_exceptions=True):
        if not isinstance(answer, BaseException):
            answer.shrink(0)
    assert admission.held == 0
    (await admission.hold(100)).shrink(0)


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 3), st.booleans()), max_size=30))
def test_the_limit_holds_and_nothing_leaks(requests):
    async def run() -> None:
        admission = Admission(60, 0.001)

        async def one(wanted: int, steps: int, cancelled: bool) -> None:
            try:
                with await admission.hold(wanted) as hold:
                    assert admission.held <= 60
                    for _ in range(steps):
                        await asyncio.sleep(0)
                    hold.shrink(wanted // 2)
            except BusyError:
                pass

        tasks = [asyncio.create_task(one(*request)) for request in requests]
        await asyncio.sleep(0)
        for task, (_, _, cancelled) in zip(tasks, requests, strict=True):
            if cancelled:
                task.cancel()
        for answer in await asyncio.gather(*tasks, return_exceptions=True):
            assert answer is None or isinstance(answer, asyncio.CancelledError)
        assert admission.held == 0
        assert not admission._waiting

    asyncio.run(run())


def test_a_request_beyond_the_limit_is_413_and_many_at_once_are_503_or_exact(tmp_path: Path):
    rng = np.random.default_rng(0)
    voxels = rng.integers(0, 256, (128, 128, 128), dtype="u1")
    settings = {"blocks_in_flight_bytes": 10 * MIB, "blocks_wait_seconds": 0.0, "blocks_request_bytes": 20 * MIB}
    with house_on(file_store(tmp_path), **settings) as house:
        made = house.commit(Made(voxels, name="crowded", chunk=(64, 64, 64), shard=(128, 128, 128), halvings=()))
        beyond = httpx.get(f"{house.url}/v1/volumes/{made.ref}/block?shape=300,300,300&outside=edge")
        assert (beyond.status_code, beyond.json()["code"]) == (413, "too_large")
        start = threading.Barrier(12)

        def read(_: int) -> int:
            with httpx.Client(base_url=house.url) as web:
                start.wait()
                answer = web.get(f"/v1/volumes/{made.ref}/block")
                if answer.status_code == 200:
                    assert answer.content == voxels.tobytes()
                else:
                    assert (answer.status_code, answer.json()["code"]) == (503, "busy")
                    assert answer.headers["retry-after"] == "1"
                return answer.status_code

        with ThreadPoolExecutor(12) as pool:
            statuses = set(pool.map(read, range(12)))
        assert 200 in statuses
        assert httpx.get(f"{house.url}/v1/volumes/{made.ref}/block").status_code == 200
        assert 'emporter_blocks_held_bytes{kind="voxels"} 0.0' in httpx.get(f"{house.url}/metrics").text


def test_a_client_that_hangs_up_gives_its_share_back(tmp_path: Path):
    voxels = np.zeros((256, 256, 128), "u1")
    with house_on(file_store(tmp_path), blocks_in_flight_bytes=20 * MIB, blocks_wait_seconds=20) as house:
        made = house.commit(Made(voxels, name="hung-up", chunk=(64, 64, 64), shard=(256, 256, 128), halvings=()))
        block = f"{house.url}/v1/volumes/{made.ref}/block?shape=256,256,128"
        for _ in range(5):
            with httpx.stream("GET", block) as answer:
                next(answer.iter_raw(1000))
        assert len(httpx.get(block).content) == voxels.nbytes


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A server that gives a client up after three seconds, and a block of many pieces."""
    monkeypatch.setattr("block_server.answers.STALL_SECONDS", 3.0)
    voxels = np.random.default_rng(0).integers(0, 256, (128, 512, 512), dtype="u1")
    with house_on(file_store(tmp_path), blocks_in_flight_bytes=120 * MIB, blocks_wait_seconds=20) as house:
        made = house.commit(Made(voxels, name="slow", chunk=(64, 64, 64), shard=(128, 256, 256), halvings=()))
        yield house, made, f"/v1/volumes/{made.ref}/block?shape=128,512,512"


def asked(url: str, path: str) -> socket.socket:
    """A connection that asked for `path` and has little room for the answer."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    connection.settimeout(30)
    connection.connect((host, int(port)))
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
    return connection


def test_a_client_that_reads_no_more_gives_its_share_back(large):
    house, made, path = large
    with asked(house.url, path) as silent:
        assert silent.recv(12) == b"HTTP/1.1 200"
        answer = httpx.get(house.url + path, timeout=60)  # there is room for one of them only
        assert answer.content == made.voxels.tobytes()


def test_a_client_that_is_merely_slow_gets_everything(large):
    house, made, path = large
    began, got = time.monotonic(), bytearray()
    with asked(house.url, path) as slow:
        while piece := slow.recv(65536):
            got += piece
            time.sleep(0.008)  # its pace
    assert got.endswith(made.voxels.tobytes())
    assert time.monotonic() - began > 3
