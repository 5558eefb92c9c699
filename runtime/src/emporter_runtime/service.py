"""How a service lives: settings, logs, one event loop, and a stop that lets running work finish."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import uvloop
from pydantic import ValidationError

from emporter_contracts.errors import EmporterError
from emporter_runtime.logging import configure_logging, get_logger
from emporter_runtime.settings import HttpSettings, StoreSettings, wrong_setting

S = TypeVar("S", bound=StoreSettings)

log = get_logger(__name__)


def run_service(service: str, settings_type: type[S], serve: Callable[[S], Awaitable[None]]) -> int:
    """Run `serve(settings)` until SIGTERM or SIGINT, which cancel it: its `async with` blocks are the shutdown.

    Returns 0 after a clean stop, 1 with one logged line where the service can't start, 2 where its settings are wrong.
    """
    try:
        settings = settings_type()
    except EmporterError as error:
        configure_logging(service)
        log.critical("settings_wrong", reason=error.message, hint=error.hint)
        return 2
    except ValidationError as error:
        setting, reason = wrong_setting(error)
        configure_logging(service)
        log.critical("settings_wrong", setting=setting, reason=reason)
        return 2
    level, form = (settings.log_level, settings.log_format) if isinstance(settings, HttpSettings) else ("info", "json")
    configure_logging(service, level, form)
    _lend_store_keys(settings)
    # What was imported stays: to look through it for garbage would stop every request for a tenth of a second now and then.
    gc.freeze()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_until_told_to_stop(serve(settings)))
    except (EmporterError, OSError) as error:
        log.critical("cannot_run", error=str(error))
        return 1
    log.info("stopped_cleanly")
    return 0


async def forever() -> None:
    """Until cancelled, which is how a service is told to stop."""
    await asyncio.Event().wait()


async def _until_told_to_stop(serving: Awaitable[None]) -> None:
    task = asyncio.ensure_future(serving)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    with suppress(asyncio.CancelledError):
        await task


def _lend_store_keys(settings: StoreSettings) -> None:
    """TensorStore takes S3 keys from the environment and from nowhere else."""
    if settings.s3_access_key:
        os.environ["AWS_ACCESS_KEY_ID"] = settings.s3_access_key
        os.environ["AWS_SECRET_ACCESS_KEY"] = settings.s3_secret_key.get_secret_value()
