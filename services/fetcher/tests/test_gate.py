from __future__ import annotations

import asyncio
from contextlib import suppress

from fetcher.gate import Gate


async def test_never_more_bytes_are_held_than_the_gate_allows() -> None:
    gate, held, most = Gate(100), 0, 0

    async def one(size: int) -> None:
        nonlocal held, most
        async with gate.room(size):
            held += size
            most = max(most, held)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            held -= size

    await asyncio.gather(*(one(size) for size in (60, 60, 30, 100, 10, 10, 40) * 5))
    assert most <= 100
    assert held == 0


async def test_more_than_there_is_goes_through_alone() -> None:
    async with asyncio.timeout(5), Gate(10).room(1000):
        pass


async def test_the_first_to_come_is_the_first_to_go_even_when_it_is_large() -> None:
    gate, order = Gate(10), []

    async def one(size: int) -> None:
        async with gate.room(size):
            order.append(size)

    async with gate.room(5):
        waiting = [asyncio.create_task(one(size)) for size in (10, 1, 2)]
        await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    assert order == [10, 1, 2]


async def test_who_gives_up_waiting_leaves_no_hole() -> None:
    gate = Gate(10)

    async def one(size: int) -> None:
        async with gate.room(size):
            await asyncio.sleep(0)

    async with gate.room(10):
        waiting = [asyncio.create_task(one(7)) for _ in range(4)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        waiting[2].cancel()
        with suppress(asyncio.CancelledError):
            await waiting[0]
    waiting[1].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    async with asyncio.timeout(5), gate.room(10):
        pass


async def test_one_at_a_time_by_name() -> None:
    gate, inside, most = Gate(1), 0, 0

    async def one() -> None:
        nonlocal inside, most
        async with gate.alone("origin"):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(one() for _ in range(5)))
    assert most == 1
    assert not gate._turns
