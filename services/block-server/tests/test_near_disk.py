"""Copies of shards on a near disk: voxels are those of the store whatever happens to the disk, the process or the copies."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import google_crc32c
import httpx
import numpy as np
import pytest

from block_server.near import CHECKSUM, OWN, PART, NearShards
from block_server.testing import House, Made, house_on, serving_process
from emporter_contracts import storage
from emporter_runtime.objects import Objects
from emporter_runtime.settings import StoreSettings
from emporter_runtime.testing import file_store, s3_server

SHAPE = (64, 64, 64)


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreSettings]:
    with s3_server(tmp_path_factory.mktemp("far")) as settings:
        yield settings


def phantom(name: str, seed: int = 0) -> Made:
    """Eight shards of 32³ incompressible voxels: some 33 kB each."""
    voxels = np.random.default_rng(seed).integers(0, 256, SHAPE, dtype="u1")
    return Made(voxels, name=name, halvings=())


@contextmanager
def near(far: StoreSettings, folder: Path, **settings) -> Iterator[House]:
    with house_on(far, blocks_disk_cache=folder, blocks_cache_bytes=0, **settings) as house:
        yield house


def whole(url: str, made: Made) -> None:
    """Every voxel, shard by shard."""
    with httpx.Client(base_url=url, timeout=60) as web:
        for z, y, x in np.ndindex(2, 2, 2):
            answer = web.get(f"/v1/volumes/{made.ref}/block?origin={32 * z},{32 * y},{32 * x}&shape=32,32,32")
            assert answer.status_code == 200, answer.text
            at = (slice(32 * z, 32 * z + 32), slice(32 * y, 32 * y + 32), slice(32 * x, 32 * x + 32))
            assert answer.content == np.ascontiguousarray(made.voxels[at]).tobytes()


def counted(url: str, name: str) -> float:
    text = httpx.get(f"{url}/metrics", timeout=60).text
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith(f"emporter_blocks_disk_cache_{name} ")))


def copies(folder: Path) -> list[Path]:
    there = [path for path in (folder / OWN).rglob("*") if path.is_file() and path.name != ".lock"]
    return [path for path in there if not path.name.endswith((CHECKSUM, PART))]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: body(path) for path in copies(folder)}


def checksums(folder: Path) -> dict[Path, bytes]:
    """What is written beside every copy."""
    return {path: body(path.with_name(path.name + CHECKSUM)) for path in copies(folder)}


def body(path: Path) -> bytes:
    """Empty for what is just being given up."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def crc(copy: bytes) -> bytes:
    return bytes(google_crc32c.Checksum(copy).hexdigest())


def removed(objects: Objects, made: Made) -> None:
    """So that it can be stored anew, as a store does that is made again from nothing."""
    keys = list(objects.sizes_sync(storage.VOLUMES, f"{made.name}/"))
    asyncio.run(objects.delete(storage.VOLUMES, keys))
    made.levels.clear()


def until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_there_is_none_unless_it_is_asked_for_and_the_store_is_far(far: StoreSettings, tmp_path: Path):
    with house_on(far) as house:
        whole(house.url, house.commit(phantom("not-asked")))
    with house_on(file_store(tmp_path / "store"), blocks_disk_cache=tmp_path / "near") as house:
        made = house.commit(phantom("not-far"))
        for _ in range(3):
            whole(house.url, made)
    assert not (tmp_path / "near").exists()


def test_what_is_read_twice_is_copied_and_then_read_without_the_store(far: StoreSettings, tmp_path: Path):
    with near(far, tmp_path) as house:
        made = house.commit(phantom("copied"))
        whole(house.url, made)
        assert copies(tmp_path) == []  # once is no reason
        whole(house.url, made)
        until(lambda: len(copies(tmp_path)) == 8)
        hits = counted(house.url, "hits_total")
        shards = [f"{storage.zarr_root(made.name, 1)}0/c/{z}/{y}/{x}" for z, y, x in np.ndindex(2, 2, 2)]
        until(lambda: counted(house.url, "bytes") == sum(path.stat().st_size for path in copies(tmp_path)))
        asyncio.run(house.objects.delete(storage.VOLUMES, shards))
        whole(house.url, made)
        box = httpx.get(f"{house.url}/v1/volumes/{made.ref}/block?origin=5,6,7&shape=50,50,50", timeout=60).content
        assert box == np.ascontiguousarray(made.voxels[5:55, 6:56, 7:57]).tobytes()
        assert counted(house.url, "hits_total") == hits + 8 + 8


def test_the_bytes_are_bounded_and_the_longest_unused_go_first(far: StoreSettings, tmp_path: Path):
    with near(far, tmp_path, blocks_disk_cache_bytes=3 * 34_000) as house:
        made = house.commit(phantom("bounded"))
        evicted = counted(house.url, "evictions_total")
        for _ in range(4):
            whole(house.url, made)
            until(lambda: not list(tmp_path.rglob("*" + PART)))
            assert sum(path.stat().st_size for path in copies(tmp_path)) <= 3 * 34_000
        until(lambda: counted(house.url, "evictions_total") > evicted)


async def test_the_one_that_was_just_used_is_kept(tmp_path: Path):
    objects = Objects.open(file_store(tmp_path / "store"))
    for name in "abc":
        await objects.put(storage.VOLUMES, f"k/{name}", name.encode() * 1000)
    shards = NearShards.open(objects, tmp_path / "near", 2000)
    assert shards is not None
    for name in "abac":
        for _ in range(2):
            shards.have([(name, f"k/{name}")])
        await shards.idle()
    assert [shards.have([(name, f"k/{name}")]) for name in "abc"] == [True, False, True]
    await shards.close()


async def test_a_limit_that_was_made_smaller_holds_from_the_start_on(tmp_path: Path):
    objects = Objects.open(file_store(tmp_path / "store"))
    for name in "abc":
        await objects.put(storage.VOLUMES, f"k/{name}", name.encode() * 1000)
    for limit, read in ((3000, "abcabc"), (2000, "")):
        shards = NearShards.open(objects, tmp_path / "near", limit)
        assert shards is not None
        for name in read:
            shards.have([(name, f"k/{name}")])
        await shards.idle()
        assert (shards.used, len(copies(tmp_path / "near"))) == (limit, limit // 1000)
        await shards.close()


def test_a_revision_of_the_same_name_with_other_voxels_never_gets_its_copies(far: StoreSettings, tmp_path: Path):
    for seed in (1, 2):
        with near(far, tmp_path) as house:
            made = phantom("made-anew", seed)
            removed(house.objects, made)
            house.commit(Made(made.voxels, name="made-anew", halvings=(), digest=f"{seed:064x}"))
            for _ in range(3):
                whole(house.url, made)
            until(lambda n=8 * seed: len(copies(tmp_path)) == n)


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "gone", "unknown", "checksum"])
@pytest.mark.parametrize("when", ["while it runs", "between two runs"])
def test_a_damaged_copy_is_never_served(far: StoreSettings, tmp_path: Path, damage: str, when: str):
    def spoil() -> None:
        for path in copies(tmp_path):
            spoiled = bytearray(path.read_bytes())
            spoiled[len(spoiled) // 2] ^= 1
            match damage:
                case "cut":
                    path.write_bytes(spoiled[:1000])
                case "flipped":
                    path.write_bytes(spoiled)
                case "emptied":
                    path.write_bytes(b"")
                case "gone":
                    path.unlink()
                case "unknown":
                    path.with_name(path.name + CHECKSUM).unlink()
                case "checksum":
                    path.with_name(path.name + CHECKSUM).write_text("00000000")

    name = f"damaged-{damage}-{when.replace(' ', '-')}"
    with ExitStack() as stack:
        house = stack.enter_context(near(far, tmp_path))
        made = house.commit(phantom(name))
        for _ in range(2):
            whole(house.url, made)
        until(lambda: len(copies(tmp_path)) == 8)
        before = contents(tmp_path)
        if when == "between two runs":
            stack.close()
            spoil()
            house = stack.enter_context(near(far, tmp_path))
        else:
            spoil()
        for _ in range(4):
            whole(house.url, made)
        until(lambda: contents(tmp_path) == before)  # made again
        if when == "between two runs":
            until(lambda: checksums(tmp_path) == {path: crc(copy) for path, copy in before.items()})


def test_two_processes_do_not_share_a_folder(far: StoreSettings, tmp_path: Path):
    with near(far, tmp_path) as first, near(far, tmp_path) as second:
        made = first.commit(phantom("shared"))
        for _ in range(3):
            whole(second.url, made)
        assert copies(tmp_path) == []


def test_files_of_others_in_the_folder_stay(far: StoreSettings, tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with near(far, tmp_path) as house:
        whole(house.url, house.commit(phantom("beside")))
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.skipif(sys.platform != "linux", reason="limits another process by prlimit(2)")
def test_a_full_disk_costs_copies_and_no_answer(far: StoreSettings, tmp_path: Path):
    made = phantom("full")
    settings = {"EMPORTER_BLOCKS_DISK_CACHE": str(tmp_path), "EMPORTER_BLOCKS_CACHE_BYTES": "0"}
    with serving_process(far, made, settings) as (url, pid):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (10_000, 10_000))  # writing past it fails, as past the end of a disk
        for _ in range(4):
            whole(url, made)
        until(lambda: counted(url, "failures_total") > 0)
        whole(url, made)
        assert copies(tmp_path) == []
        until(lambda: not list(tmp_path.rglob("*" + PART)))
        assert counted(url, "bytes") == 0


@pytest.mark.chaos
def test_killed_at_any_moment_it_starts_again_with_whole_copies_only(far: StoreSettings, tmp_path: Path):
    made, limit, rng = phantom("killed"), 6 * 34_000, random.Random(0)
    settings = {
        "EMPORTER_BLOCKS_DISK_CACHE": str(tmp_path),
        "EMPORTER_BLOCKS_DISK_CACHE_BYTES": str(limit),
        "EMPORTER_BLOCKS_CACHE_BYTES": "0",
    }
    for _ in range(5):
        removed(Objects.open(far), made)
        with serving_process(far, made, settings) as (url, pid):
            whole(url, made)
            for _ in range(rng.randint(1, 12)):
                httpx.get(f"{url}/v1/volumes/{made.ref}/block?origin=3,3,3&shape=60,60,60", timeout=60)
            os.kill(pid, signal.SIGKILL)
        # as a power cut leaves them: begun, and whole by name only
        place = tmp_path / OWN / f"{made.name}/r1-{made.digest}/0/c/0/0"
        place.mkdir(parents=True, exist_ok=True)
        (place / ("1" + PART)).write_bytes(b"begun")
        (place / "0").write_bytes(bytes(33_000))
        (place / ("0" + CHECKSUM)).write_text("12345678")
    removed(Objects.open(far), made)
    with serving_process(far, made, settings) as (url, _):
        for _ in range(4):
            whole(url, made)
        until(lambda: not list(tmp_path.rglob("*" + PART)))
        assert sum(path.stat().st_size for path in copies(tmp_path)) <= limit
