"""How much may be in memory at once: a semaphore counted in bytes of decoded voxels, first come, first served."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import Self

from block_server.errors import BusyError, TooLargeError


class Hold:
    """Some bytes of an Admission, to be given back; all of them at the end of a `with`."""

    def __init__(self, admission: Admission, held: int) -> None:
        self._admission = admission
        self.bytes = held

    @classmethod
    def nothing(cls) -> Self:
        """Of no admission: for whoever holds the memory in another way."""
        return cls(Admission(0, 0), 0)

    @property
    def contended(self) -> bool:
        """Whether others wait for bytes that it is of."""
        return self._admission.contended

    def shrink(self, to: int) -> None:
        """Give back all but `to` bytes."""
        spare = self.bytes - to
        if spare > 0:
            self.bytes = to
            self._admission.give(spare)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.shrink(0)


class Admission:
    """`limit` bytes for all. Who finds too little left waits at most `wait_seconds`; nobody overtakes."""

    def __init__(self, limit: int, wait_seconds: float) -> None:
        self.limit = limit
        self.held = 0
        self._wait_seconds = wait_seconds
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def contended(self) -> bool:
        """Whether others wait for what is held."""
        return bool(self._waiting)

    def hold_now(self, wanted: int) -> Hold | None:
        """Take `wanted` bytes if nobody has to wait for it."""
        if self._waiting or self.held + wanted > self.limit:
            return None
        self.held += wanted
        return Hold(self, wanted)

    async def hold(self, wanted: int) -> Hold:
        """Take `wanted` bytes. Raises TooLargeError where no wait could help, BusyError after a wait that did not."""
        if wanted > self.limit:
            raise TooLargeError(
                f"the request needs {wanted} bytes at once, the limit is {self.limit}",
                hint="ask for it in several smaller boxes, take a coarser level, or open the Zarr itself; if one chunk is that "
                "large, ingest it with smaller ones",
            )
        if self._waiting or self.held + wanted > self.limit:
            await self._turn(wanted)
        else:
            self.held += wanted
        return Hold(self, wanted)

    async def _turn(self, wanted: int) -> None:
        """Wait in line until `wanted` bytes were taken for us."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((wanted, turn))
        try:
            async with asyncio.timeout(self._wait_seconds):
                await turn
        except TimeoutError:
            if turn.done() and not turn.cancelled():  # admitted in the same moment
                return
            # A big one that gives up in front may have been all that kept smaller ones waiting.
            self._admit()
            raise BusyError(f"others read {self.held} of {self.limit} bytes just now", hint="ask again in a second") from None
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(wanted)
            turn.cancel()
            self._admit()
            raise

    def give(self, spare: int) -> None:
        """Give back what was taken."""
        self.held -= spare
        self._admit()

    def _admit(self) -> None:
        while self._waiting:
            wanted, turn = self._waiting[0]
            if not turn.done():
                if self.held + wanted > self.limit:
                    return
                self.held += wanted
                turn.set_result(None)
            self._waiting.popleft()
