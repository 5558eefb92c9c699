"""Objects of the store read back in order, the next piece on its way while one is looked at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from emporter_readers.errors import CorruptObjectError
from emporter_runtime.objects import Objects

PIECE_BYTES = 8 * 2**20
"""Of one read: on a local folder twenty times as fast as the store's own stream, on S3 as fast."""


async def stored_pieces(objects: Objects, bucket: str, key: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
    """Bytes `start` to `stop` (exclusive). Raises CorruptObjectError where the object ends before, ObjectMissingError."""

    def ordered(begin: int) -> asyncio.Task[bytes]:
        return asyncio.create_task(objects.get_range(bucket, key, begin, min(begin + PIECE_BYTES, stop)))

    following = ordered(start) if start < stop else None
    try:
        for begin in range(start, stop, PIECE_BYTES):
            assert following is not None
            piece = await following
            end = begin + len(piece)
            following = ordered(end) if end < stop else None
            if end != min(begin + PIECE_BYTES, stop):
                raise CorruptObjectError(f"{bucket}/{key} ends at byte {end}, needed up to {stop}")
            yield piece
    finally:
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
