"""Who waits for what of a source: what nobody waits for any more is not fetched and not decoded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from emporter_contracts.errors import EmporterError
from emporter_contracts.geometry import Box

T = TypeVar("T")


class AbandonedError(EmporterError):
    """A chunk was not read, as everybody who had asked for it was gone; who came at that very moment asks again."""

    code = "abandoned"


class Wanted:
    """Boxes of one level that are being waited for. TensorStore does not tell a virtual chunk that its readers have gone."""

    def __init__(self) -> None:
        self._boxes: dict[object, Box] = {}

    def wants(self, box: Box) -> bool:
        """Whether anybody waits for a voxel of `box`."""
        return any(box.overlap(one) is not None for one in self._boxes.values())

    def while_read(self, box: Box, read: Callable[[], Awaitable[T]]) -> asyncio.Future[T]:
        """What `read` gives, which is begun now and waits for `box`, until it is done or cancelled."""
        waits = object()
        self._boxes[waits] = box
        reading = asyncio.ensure_future(_again(read(), read))
        reading.add_done_callback(lambda done: self._over(waits, done))
        return reading

    def _over(self, waits: object, done: asyncio.Future[T]) -> None:
        del self._boxes[waits]
        if not done.cancelled():
            done.exception()  # told to whoever waits; where the box before it failed nobody does, and asyncio would complain


async def _again(begun: Awaitable[T], read: Callable[[], Awaitable[T]]) -> T:
    while True:
        try:
            return await begun
        except AbandonedError:
            begun = read()
