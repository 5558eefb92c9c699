"""What every answer has: an ETag made before anything is read, cache rules, and bodies that are not copied."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from block_server.admission import Hold
from block_server.arrays import OpenVolume
from block_server.errors import BlockServerError, ClientGoneError
from emporter_contracts.ids import VolumeRef

T = TypeVar("T")

ENCODING_VERSION = 1
"""Raise it whenever the same request would be answered with other bytes: it is part of every ETag."""
FOR_EVER = "public, max-age=31536000, immutable"
"""A pinned revision never changes."""
ASK_AGAIN = "no-cache"
"""A plain name may mean another revision a moment later; the ETag makes asking cheap."""
PIECE = 4 * 2**20
"""Bytes of a body sent, and asked of the store, at once. For the stored Zarr each is a request of its own to the store, so a slow
client holds two of them and no connection."""
STALL_SECONDS = 60.0
"""How long a client may take for one piece (so 70 kB/s will do) before it is given up."""
PATIENCE_SECONDS = 10.0
"""How long it may (so 400 kB/s will do) while others wait for the memory it holds."""


WATCH_SECONDS = 0.02
"""After so long it is worth looking whether the client is still there: what is in the cache is read in a tenth of it."""


class ClientStalledError(BlockServerError):
    """The client reads no more; nobody is there to be told."""

    code = "client_stalled"


def etag(volume: OpenVolume, *parts: object) -> str:
    """A strong ETag of an answer about one revision: equal only for equal bytes."""
    said = "\0".join(map(str, (ENCODING_VERSION, volume.ref, volume.digest, *parts)))
    return f'"{hashlib.sha256(said.encode()).hexdigest()[:32]}"'


def cache_rule(ref: VolumeRef) -> str:
    """Cache-Control for an answer to `ref` as it was asked for."""
    return ASK_AGAIN if ref.revision is None else FOR_EVER


def unchanged(request: Request, tag: str) -> bool:
    """Whether the client already has what `tag` names (If-None-Match, RFC 9110 13.1.2)."""
    held = request.headers.get("if-none-match")
    if held is None:
        return False
    return held.strip() == "*" or tag in {one.strip().removeprefix("W/") for one in held.split(",")}


def not_modified(headers: Mapping[str, str]) -> Response:
    """304, with the headers a cache may update."""
    return Response(status_code=304, headers=dict(headers))


class PiecewiseResponse(Response):
    """A body of known length in pieces, none of them copied; what it holds is given back when the client has it."""

    def __init__(
        self,
        pieces: Iterable[bytes | memoryview] | AsyncIterator[bytes | memoryview],
        length: int,
        *,
        headers: Mapping[str, str],
        media_type: str,
        status: int = 200,
        hold: Hold | None = None,
    ) -> None:
        super().__init__(status_code=status, headers={**headers, "content-length": str(length)}, media_type=media_type)
        self._pieces = pieces
        self._hold = hold

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._answer(receive, send)
        except ClientStalledError:
            _hang_up(receive)
            raise

    async def _answer(self, receive: Receive, send: Send) -> None:
        with self._hold or nullcontext():
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if isinstance(self._pieces, AsyncIterator):
                try:
                    await while_wanted(receive, _sent_all(send, self._pieces, self._hold))
                except ClientGoneError:
                    return
                finally:
                    if isinstance(self._pieces, AsyncGenerator):
                        await self._pieces.aclose()  # what nobody waits for is not read
            else:
                for piece in _cut(self._pieces):
                    await _sent(send, piece, self._hold)
            # The server waits here until the last piece has left its buffers.
            await _sent(send, b"", self._hold, more=False)


def _hang_up(receive: Receive) -> None:
    """Close the connection at once. ASGI has no word for it, and a server that closes waits until the client has taken what is in
    its buffers: memory that nobody counts any more. uvicorn's `receive` is bound to what holds the connection.
    """
    transport = getattr(getattr(receive, "__self__", None), "transport", None)
    if transport is not None:
        transport.abort()


def _cut(pieces: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """The same bytes in pieces of at most PIECE, so that a client that is slow is told from one that reads no more."""
    for piece in pieces:
        for start in range(0, len(piece), PIECE):
            yield piece[start : start + PIECE]


async def _sent_all(send: Send, pieces: AsyncIterator[bytes | memoryview], hold: Hold | None) -> None:
    async for piece in pieces:
        for small in _cut([piece]):
            await _sent(send, small, hold)


async def while_wanted(receive: Receive, work: Awaitable[T]) -> T:
    """What `work` gives, unless the client hangs up: then it is cancelled, and ClientGoneError raised."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    gone: list[asyncio.Task[None]] = []
    over = left = False

    def leave(done: asyncio.Task[None]) -> None:
        nonlocal left
        if not (over or done.cancelled()):
            left = True
            task.cancel()

    def watch() -> None:
        gone.append(loop.create_task(_hung_up(receive)))
        gone[0].add_done_callback(leave)

    timer = loop.call_later(WATCH_SECONDS, watch)
    try:
        return await work
    except asyncio.CancelledError:
        if not left or task.uncancel():
            raise
        raise ClientGoneError("the client hung up") from None
    finally:
        over = True
        timer.cancel()
        for one in gone:
            one.cancel()


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _sent(send: Send, piece: bytes | memoryview, hold: Hold | None, *, more: bool = True) -> None:
    """Send a piece once the one before it has left the server's buffers. Raises ClientStalledError."""
    loop = asyncio.get_running_loop()
    began, step = loop.time(), min(PATIENCE_SECONDS, STALL_SECONDS)
    timer: asyncio.TimerHandle

    def look() -> None:
        nonlocal timer
        if (hold is not None and hold.contended) or loop.time() - began >= STALL_SECONDS:
            patience.reschedule(loop.time())
        else:
            timer = loop.call_later(step, look)

    timer = loop.call_later(step, look)
    try:
        async with asyncio.timeout(None) as patience:
            await send({"type": "http.response.body", "body": piece, "more_body": more})
    except TimeoutError:
        raise ClientStalledError(f"the client took nothing for {loop.time() - began:.0f} s") from None
    finally:
        timer.cancel()
