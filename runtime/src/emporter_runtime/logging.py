"""Structured logs: events with fields, job and task bound once by the worker. JSON in production, columns for people."""

from __future__ import annotations

import logging
import re
import sys
from typing import Any, Literal

import structlog

NOISY = ("alembic", "faststream", "nats", "uvicorn", "httpx", "httpcore", "aiosqlite", "tifffile")
"""Libraries whose informational lines say nothing a user of ours needs."""

_SECRET = re.compile(r"emt_[A-Za-z0-9_-]+|eml1\.[A-Za-z0-9_.-]+|(?<=[Bb]earer )[A-Za-z0-9._~+/=-]+")
"""Bearer tokens and signed links (access_tokens.py, access_links.py), also where a traceback cut them off."""


def without_secrets(_: object, __: str, line: str) -> str:
    """A rendered line in which no token and no link stands. The id of a token stays: it is how an operator names one."""
    return _SECRET.sub(lambda found: found[0][:12] + "…" if found[0].startswith("emt_") else "…", line)


def configure_logging(service: str, level: str = "info", form: Literal["json", "console"] = "json") -> None:
    """Send everything, ours and the libraries', as one line an event to standard error, with the service's name."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    last: list[structlog.typing.Processor] = (
        [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
        if form == "json"
        # Plain, because a secret that is folded into the lines of a box is not found again.
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)]
    )
    structlog.configure(
        processors=[*shared[:2], *shared[3:], structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    rendering: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last, without_secrets]
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=rendering))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.contextvars.bind_contextvars(service=service)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger for the module `name`."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger
