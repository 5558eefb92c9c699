"""Volumes as arrays: slicing over HTTP equals slicing the stored array, for scripts, notebooks, loops, dask and xarray."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

import emporter
from block_server.testing import House, Made, house_on
from emporter import indexing
from emporter.errors import MistakeError, RefusedByServiceError, UnreachableError
from emporter.wire import Wire
from emporter_contracts.plans import Caveat
from emporter_runtime.testing import file_store

SHAPE = (40, 70, 90)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with house_on(file_store(tmp_path_factory.mktemp("store"))) as house:
        yield house


@pytest.fixture(scope="module")
def phantom(house: House) -> Made:
    voxels = np.random.default_rng(1).integers(-(2**15), 2**15, SHAPE, dtype=np.int16)
    caveats = (Caveat(code="lossy", evidence="<jpeg>"),)
    return house.commit(
        Made(voxels, name="reading-phantom", voxel_size_nm=(40.0, None, 8.0), source_origin=(5, 6, 7), caveats=caveats)
    )


@pytest.fixture
def volume(house: House, phantom: Made) -> emporter.Volume:
    return emporter.Client(house.url).volume(phantom.name)


KEYS: list[Any] = [
    (slice(1, 33), slice(2, 65), slice(3, 90)), 5, (-1, slice(None), -90), (Ellipsis, 7), (slice(None, None, -3), slice(60, 2, -7)),
    (slice(5, 5),), (slice(None), slice(None, None, 65)), (3, 4, 5), (slice(-10, None), Ellipsis, slice(-4, -2)),
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_slicing_a_volume_is_slicing_its_array(volume: emporter.Volume, phantom: Made, key: Any) -> None:
    got = volume[key]
    assert np.array_equal(got, phantom.voxels[key])
    assert (got.dtype, got.shape) == (np.dtype("int16"), phantom.voxels[key].shape)


@pytest.mark.parametrize("key", KEYS, ids=str)
async def test_the_asynchronous_twin_gives_the_same(house: House, phantom: Made, key: Any) -> None:
    async with emporter.AsyncClient(house.url) as client:
        volume = await client.volume(phantom.name)
        assert np.array_equal(await volume[key], phantom.voxels[key])
        assert np.array_equal(await volume.level(1)[...], phantom.levels[1])


def test_a_large_read_is_many_requests_and_one_array(volume: emporter.Volume, phantom: Made) -> None:
    with patch.object(indexing, "PIECE_BYTES", 40_000):
        assert np.array_equal(volume[1:, ::-1, 2:], phantom.voxels[1:, ::-1, 2:])


async def test_a_large_read_that_fails_fails_as_one_error(house: House, phantom: Made) -> None:
    async with emporter.AsyncClient(house.url) as client:
        volume = await client.volume(phantom.name)
        wrong = type(volume)(volume._web, {**volume.info, "ref": "reading-phantom@r9"})
        with patch.object(indexing, "PIECE_BYTES", 40_000), pytest.raises(RefusedByServiceError) as raised:
            await wrong[...]
        assert raised.value.code == "volume_unknown"


def test_levels_are_arrays_of_their_own(volume: emporter.Volume, phantom: Made) -> None:
    for number, stored in enumerate(phantom.levels):
        level = volume.level(number)
        assert (level.shape, level.size, level.nbytes, len(level)) == (stored.shape, stored.size, stored.nbytes, len(stored))
        assert np.array_equal(np.asarray(level), stored)
    assert volume.level(-1).grid.level == 2
    assert volume.level(2).voxel_size_nm == (160.0, None, 32.0)
    with pytest.raises(MistakeError, match="no level 3"):
        volume.level(3)


def test_opening_reads_no_voxel_and_shows_what_there_is(house: House, volume: emporter.Volume) -> None:
    page = volume._repr_html_()
    assert "reading-phantom@r1" in page
    assert "40, ?, 8 nm" in page
    assert "CC0-1.0" in page
    assert "&lt;jpeg&gt;" in page
    assert f"{house.url}/v1/volumes/reading-phantom@r1/slice/z/20?level=0" in page
    assert repr(volume) == "<Volume reading-phantom@r1 level 0: (40, 70, 90) int16, 40, ?, 8 nm>"


def test_a_volume_can_be_pickled_and_read_in_another_process(volume: emporter.Volume, phantom: Made) -> None:
    again = pickle.loads(pickle.dumps(volume.level(1)))
    assert np.array_equal(again[3], phantom.levels[1][3])


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # the test's own server runs in a thread
def test_forked_children_read_with_connections_of_their_own(volume: emporter.Volume, phantom: Made) -> None:
    assert volume[0, 0, 0] == phantom.voxels[0, 0, 0]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        sums = pool.map(_plane_sum, [(volume, z) for z in range(16)])
    assert sums == [int(phantom.voxels[z].sum()) for z in range(16)]
    assert volume[1, 1, 1] == phantom.voxels[1, 1, 1]


def _plane_sum(task: tuple[emporter.Volume, int]) -> int:
    volume, z = task
    return int(volume[z].sum())


def test_threads_share_a_volume(volume: emporter.Volume, phantom: Made) -> None:
    wrong: list[int] = []

    def read(z: int) -> None:
        wrong.extend(z for _ in range(5) if not np.array_equal(volume[z], phantom.voxels[z]))

    threads = [threading.Thread(target=read, args=(z,)) for z in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


async def test_the_plain_client_works_where_a_loop_runs_already(house: House, phantom: Made) -> None:
    assert asyncio.get_running_loop().is_running()
    with emporter.Client(house.url) as client:
        assert np.array_equal(client.volume(phantom.name)[2], phantom.voxels[2])
        assert np.array_equal(client.block(str(phantom.ref), (0, 0, 0), (2, 2, 2)), phantom.voxels[:2, :2, :2])


def test_a_server_that_closed_a_kept_connection_is_asked_again(house: House, phantom: Made, volume: emporter.Volume) -> None:
    volume[0, 0, 0]
    volume._wire._local.kept.connection.sock.shutdown(2)
    assert volume[1, 2, 3] == phantom.voxels[1, 2, 3]


def test_what_is_not_there_is_said(house: House) -> None:
    with pytest.raises(RefusedByServiceError) as raised:
        emporter.Client(house.url).volume("nothing-of-the-kind")
    assert raised.value.code == "volume_unknown"
    with pytest.raises(UnreachableError, match="does not answer"):
        Wire("http://127.0.0.1:1").document("/healthz")
    with pytest.raises(MistakeError, match="nobody says where the catalog is"), emporter.Client(house.url) as client:
        client.record("x")


def test_dask_computes_what_is_stored_chunk_by_chunk(volume: emporter.Volume, phantom: Made) -> None:
    pytest.importorskip("dask.array")
    lazy = volume.dask()
    assert lazy.chunksize == (32, 32, 32)
    assert lazy.dtype == np.int16
    assert np.array_equal(lazy[3:39, 5:61, 7].compute(), phantom.voxels[3:39, 5:61, 7])
    assert np.array_equal(volume.level(1).dask(chunks=16).compute(scheduler="processes", num_workers=2), phantom.levels[1])
    assert volume.dask().name == lazy.name != volume.level(1).dask().name


def test_xarray_has_coordinates_in_nm_only_where_the_voxel_size_is_known(volume: emporter.Volume, phantom: Made) -> None:
    pytest.importorskip("xarray")
    found = volume.level(1).xarray()
    assert found.dims == ("z", "y", "x")
    assert sorted(found.coords) == ["x", "z"]
    assert found.coords["z"].attrs["units"] == found.coords["x"].attrs["units"] == "nm"
    # Level 1 begins half a level-0 voxel further, and the archive's region at voxel 5 (z) and 7 (x).
    assert np.allclose(found.coords["z"][:2], [40.0 * 5.5, 40.0 * 7.5])
    assert np.allclose(found.coords["x"][:2], [8.0 * 7.5, 8.0 * 9.5])
    assert found.attrs["licence"] == "CC0-1.0"
    assert found.attrs["caveats"] == ["lossy"]
    assert np.array_equal(found.sel(z=slice(220, 420)).values, phantom.levels[1][0:3])


def test_importing_emporter_loads_nothing_until_something_is_named() -> None:
    program = (
        "import sys, emporter; print([m for m in ('numpy', 'httpx', 'asyncio', 'pydantic') if m in sys.modules]); emporter.Client"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError):
        emporter.nothing  # noqa: B018


ORIGINS = [[0, 0, 0], [5, 6, 7], [24, 50, 60], [5, 6, 7]]


async def test_many_boxes_come_as_one_array(house: House, phantom: Made, volume: emporter.Volume) -> None:
    for level, stored in ((0, phantom.voxels), (1, phantom.levels[1])):
        origins = np.array(ORIGINS) // (level + 1)
        shape = (16, 20, 24) if level == 0 else (8, 8, 8)
        wanted = np.stack([stored[tuple(slice(a, a + n) for a, n in zip(at, shape, strict=True))] for at in origins])
        got = volume.level(level).blocks(origins, shape)
        assert np.array_equal(got, wanted)
        assert got.flags.c_contiguous
        assert got.flags.writeable
        async with emporter.AsyncClient(house.url) as client:
            assert np.array_equal(await (await client.volume(phantom.name)).level(level).blocks(origins, shape), wanted)


async def test_a_sample_says_where_its_boxes_lie(house: House, phantom: Made, volume: emporter.Volume) -> None:
    found = volume.sample(9, (8, 16, 24), seed=5)
    assert found.voxels.shape == (9, 8, 16, 24)
    assert np.array_equal(volume.blocks(found.origins, (8, 16, 24)), found.voxels)
    assert volume.places(9, (8, 16, 24), seed=5).origins == tuple(map(tuple, found.origins.tolist()))
    async with emporter.AsyncClient(house.url) as client:
        twin = await client.volume(phantom.name)
        again = await twin.sample(9, (8, 16, 24), seed=5)
        assert np.array_equal(again.origins, found.origins)
        assert np.array_equal(again.voxels, found.voxels)
        assert (await twin.places(9, (8, 16, 24), seed=5)).origins == volume.places(9, (8, 16, 24), seed=5).origins


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        (lambda v: v.blocks([0, 0, 0], (8, 8, 8)), MistakeError),
        (lambda v: v.blocks([[0.5, 0, 0]], (8, 8, 8)), MistakeError),
        (lambda v: v.blocks([], (8, 8, 8)), MistakeError),
        (lambda v: v.blocks([[0, 0, 0]], (8, 8)), MistakeError),
        (lambda v: v.blocks([[30, 0, 0]], (16, 8, 8)), RefusedByServiceError),
        (lambda v: v.sample(4, (8, 8, 8), sed=1), MistakeError),
        (lambda v: v.sample(4, (80, 8, 8)), RefusedByServiceError),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(volume: emporter.Volume, wanted: Any, error: type[Exception]) -> None:
    with pytest.raises(error) as raised:
        wanted(volume)
    assert raised.value.hint  # type: ignore[attr-defined]
