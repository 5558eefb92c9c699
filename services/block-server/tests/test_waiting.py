"""A source is read for those who wait, and for nobody else."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tensorstore as ts

from block_server.arrays import DECODERS
from block_server.registered import FOR_EVER
from block_server.testing import House
from block_server.waiting import AbandonedError, Wanted
from emporter_contracts.geometry import Box
from emporter_readers.chunked.reader import ChunkedReader
from emporter_testing.in_place import registered

BOX = Box((0, 0, 0), (2, 3, 4))
ONES = np.ones((64, 64, 64), "u1")


def held(beside: House) -> float:
    """Bytes that requests hold for decoding."""
    lines = httpx.get(f"{beside.url}/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith('emporter_blocks_held_bytes{kind="voxels"}'))


def until(said: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not said():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("outside", ["error", "constant"])
def test_who_hangs_up_is_not_read_for_any_more(beside: House, files: Path, monkeypatch: pytest.MonkeyPatch, outside: str):
    left, other = (registered(beside, files, f"{name}-{outside}", ONES, (16, 16, 16)) for name in ("left", "other"))
    go, read, begun = threading.Event(), ChunkedReader.read, []

    def when_told(reader: ChunkedReader, box: Box) -> Any:
        begun.append(box)
        assert go.wait(60)
        return read(reader, box)

    monkeypatch.setattr(ChunkedReader, "read", when_told)
    whole = f"/v1/volumes/{left}/block?shape=64,64,{64 if outside == 'error' else 65}&outside={outside}"
    server = httpx.URL(beside.url)
    with socket.create_connection((server.host, server.port)) as leaving:
        leaving.sendall(f"GET {whole} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        until(lambda: len(begun) == DECODERS)
    until(lambda: held(beside) == 0)
    go.set()
    # Chunks have their turns in order: once this one is read, all that were asked for before it had theirs.
    assert httpx.get(f"{beside.url}/v1/volumes/{other}/block?shape=1,1,1").content == b"\1"
    assert len(begun) == DECODERS + 1
    assert httpx.get(beside.url + whole).content.count(1) == 64**3


def virtual(read: Any) -> Any:
    loop = asyncio.get_running_loop()
    layout = ts.ChunkLayout(chunk_shape=BOX.shape)
    return ts.virtual_chunked(read, loop=loop, dtype=np.uint8, shape=BOX.shape, chunk_layout=layout)


async def test_who_comes_as_a_chunk_is_given_up_asks_again():
    times = []

    async def read(_: Any, out: np.ndarray, __: Any) -> Any:
        times.append(1)
        if len(times) == 1:
            raise AbandonedError("all have gone")
        out[...] = 7
        return FOR_EVER

    wanted, store = Wanted(), virtual(read)
    assert (await wanted.while_read(BOX, store.read) == 7).all()
    assert len(times) == 2
    into = np.zeros(BOX.shape, np.uint8)
    await wanted.while_read(BOX, lambda: ts.array(into).write(store))
    assert (into == 7).all()


async def test_a_box_is_wanted_until_it_is_read_given_up_or_failed():
    wanted, reads = Wanted(), [asyncio.get_running_loop().create_future() for _ in range(3)]
    readers = [wanted.while_read(BOX, lambda one=one: one) for one in reads]
    assert wanted.wants(Box((1, 2, 3), (9, 9, 9)))
    assert not wanted.wants(Box((2, 0, 0), (9, 9, 9)))
    for reader in readers[:2]:
        reader.cancel()
    await asyncio.wait(readers[:2])
    assert wanted.wants(BOX)
    await asyncio.sleep(0)
    reads[2].set_exception(OSError("gone"))
    with pytest.raises(OSError, match="gone"):
        await readers[2]
    await asyncio.sleep(0)
    assert not wanted.wants(BOX)


async def test_a_failure_that_nobody_waits_for_any_more_is_no_complaint(caplog: pytest.LogCaptureFixture):
    read = asyncio.get_running_loop().create_future()
    reading = Wanted().while_read(BOX, lambda one=read: one)
    read.set_exception(OSError("as the one before it"))
    await asyncio.wait([reading])
    del reading, read
    gc.collect()
    assert not caplog.records
