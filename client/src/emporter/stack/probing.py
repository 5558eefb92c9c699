"""Asking a process of this machine whether it is ready, without a library: `emporter up` starts faster for it."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

ANSWER_SECONDS = 5.0
"""A check of readiness asks the bus and the store in turn, which may take a few seconds when they are slow."""


async def answers_ok(url: str) -> bool:
    """Whether GET `url` answers 200."""
    return (await get(url))[0] == 200


async def get(url: str) -> tuple[int, str]:
    """Status and the beginning of the body; status 0 where nothing answers."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await _get(url)
    except (OSError, TimeoutError, ValueError, IndexError, asyncio.IncompleteReadError):
        return 0, ""


async def _get(url: str) -> tuple[int, str]:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        answer = await reader.read(65_536)
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1]), body.decode(errors="replace")
    finally:
        writer.close()
