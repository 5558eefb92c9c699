"""A few tries in a row, before a failure is the job's to wait for."""

from __future__ import annotations

from collections.abc import AsyncIterator

import stamina

from emporter_runtime.errors import RateLimitedError
from fetcher.errors import ArchiveUnreachableError

TRIES = 4
"""Of one request in a row, before its failure is the job's: with back-off about five seconds, what a restart of a proxy takes."""
SHORT_PATIENCE = 2.0
"""Seconds of a Retry-After that are waited here; longer ones are the job's to wait."""


def tries() -> AsyncIterator[stamina.Attempt]:
    """A few tries with jittered back-off."""
    return aiter(stamina.retry_context(on=worth_another_try, attempts=TRIES, timeout=None, wait_initial=0.2, wait_max=5.0))


def worth_another_try(error: Exception) -> bool | float:
    """Whether, or after how many seconds, the same request may go better."""
    if isinstance(error, RateLimitedError):
        return error.retry_after if error.retry_after is not None and error.retry_after <= SHORT_PATIENCE else False
    return isinstance(error, ArchiveUnreachableError)
