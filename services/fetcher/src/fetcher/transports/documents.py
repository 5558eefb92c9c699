"""Small JSON answers of an archive's API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from emporter_runtime.errors import RateLimitedError
from fetcher.errors import ArchiveMisbehavesError, ArchiveRefusedError
from fetcher.transports.http import NOTHING, HttpClient
from fetcher.transports.trying import tries

LONGEST_ANSWER = 16 * 2**20
"""Bytes of one answer: thousands of entries; what is longer is no description."""


async def json_object(client: HttpClient, url: str, headers: Mapping[str, str] = NOTHING) -> dict[str, JsonValue]:
    """An answer that is a JSON object. What OMERO says is wrong inside an answer of status 200 is raised as if it had said so.

    Raises ArchiveMisbehavesError for what is no JSON object, RateLimitedError, ArchiveRefusedError, and what HttpClient raises.
    """
    async for attempt in tries():
        with attempt:
            said = parsed(url, await client.document(url, LONGEST_ANSWER, headers))
            _check(url, said)
            return said
    raise AssertionError("stamina ends by returning or raising")


def parsed(url: str, body: bytes) -> dict[str, JsonValue]:
    """A body as a JSON object. Raises ArchiveMisbehavesError."""
    try:
        said: Any = json.loads(body, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise ArchiveMisbehavesError(f"{url}: answers no JSON", hint="open the URL in a browser; try again later") from error
    if not isinstance(said, dict):
        raise ArchiveMisbehavesError(f"{url}: answers a JSON {type(said).__name__}", hint="open the URL in a browser")
    return said


def _check(url: str, said: dict[str, JsonValue]) -> None:
    """OMERO.web answers 200 with `ConcurrencyException` where its renderer is busy, and with `Exception` where it failed."""
    busy = said.get("ConcurrencyException")
    if isinstance(busy, dict):
        wait = busy.get("backOff")
        seconds = wait / 1000 if isinstance(wait, int | float) and wait > 0 else None
        raise RateLimitedError(f"{url}: the archive is busy", retry_after=seconds)
    if "Exception" in said or "ConcurrencyException" in said:
        raise ArchiveRefusedError(f"{url}: {str(said.get('Exception'))[:200]}", hint="open the URL in a browser")
