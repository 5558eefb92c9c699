from __future__ import annotations

import asyncio

import pytest

from block_server.caching import Kept


async def test_a_value_is_made_once_for_all_who_wait():
    made = 0
    gate = asyncio.Event()

    async def make(key: str) -> str:
        nonlocal made
        made += 1
        await gate.wait()
        return key.upper()

    kept = Kept(make, most=10)
    waiting = [asyncio.create_task(kept.get("a")) for _ in range(5)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    gate.set()
    assert await asyncio.gather(*waiting[1:]) == ["A"] * 4
    assert await kept.get("a") == "A"
    assert made == 1


async def test_a_failure_is_told_to_all_and_not_kept():
    tries = 0

    async def make(_: str) -> str:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise OSError("down")
        return "up"

    kept = Kept(make, most=10)
    answers = await asyncio.gather(kept.get("a"), kept.get("a"), return_exceptions=True)
    assert [str(answer) for answer in answers] == ["down", "down"]
    assert await kept.get("a") == "up"


async def test_the_longest_unused_is_forgotten_first():
    made: list[int] = []

    async def make(key: int) -> int:
        made.append(key)
        return key

    kept = Kept(make, most=2)
    for key in (1, 2, 1, 3, 1, 2):
        assert await kept.get(key) == key
    assert made == [1, 2, 3, 2]


@pytest.mark.parametrize(("seconds", "times"), [(0.0, 3), (3600.0, 1)])
async def test_a_value_is_made_again_when_it_is_too_old(seconds: float, times: int):
    made = 0

    async def make(_: str) -> int:
        nonlocal made
        made += 1
        return made

    kept = Kept(make, most=10, seconds=seconds)
    for _ in range(3):
        await kept.get("a")
    assert made == times
    kept.forget("a")
    assert await kept.get("a") == times + 1
