"""A few tries in a row, before a failure is the job's to wait for."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

import stamina

from emporter_runtime.errors import RateLimitedError
from fetcher.errors import ArchiveUnreachableError

TRIES = 4
"""Of one request in a row, before its failure is the job's: with back-off about five seconds, what a restart of a proxy takes."""
SHORT_PATIENCE = 2.0
"""Seconds of a Retry-After that are waited here; longer ones are the job's to wait."""
FIRST_WAIT = 0.2
"""Seconds after the first failure, half of them by chance; each further wait is about twice the one before."""


def tries() -> AsyncIterator[AbstractContextManager[Any]]:
    """A few tries with jittered back-off, each a context that swallows what is worth another."""
    return _Tries()


def worth_another_try(error: Exception) -> bool | float:
    """Whether, or after how many seconds, the same request may go better."""
    if isinstance(error, RateLimitedError):
        return error.retry_after if error.retry_after is not None and error.retry_after <= SHORT_PATIENCE else False
    return isinstance(error, ArchiveUnreachableError)


class _Tries:
    """The first try costs next to nothing, thousands of small objects need no other; stamina sees to those after it."""

    def __init__(self) -> None:
        self._first: _FirstTry | None = None
        self._further: AsyncIterator[stamina.Attempt] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AbstractContextManager[Any]:
        if self._first is None:
            self._first = _FirstTry()
            return self._first
        if self._first.wait is None:
            raise StopAsyncIteration
        if self._further is None:
            await asyncio.sleep(self._first.wait)
            further = stamina.retry_context(
                on=worth_another_try, attempts=TRIES - 1, timeout=None, wait_initial=2 * FIRST_WAIT, wait_max=5.0
            )
            self._further = aiter(further)
        return await anext(self._further)


class _FirstTry:
    """Swallows an error that is worth another try, and notes how long to wait before it."""

    wait: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> bool:
        if not isinstance(error, Exception):
            return False
        worth = worth_another_try(error)
        if worth is False:
            return False
        self.wait = random.uniform(0.5, 1) * FIRST_WAIT if worth is True else worth
        return True
