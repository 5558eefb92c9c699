"""`/healthz`, `/readyz`, `/metrics`: alive is the event loop, ready is what the service stands on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from emporter_runtime.logging import get_logger

Check = Callable[[], Awaitable[bool]]
READY_TIMEOUT = 3.0
"""Seconds one readiness check may take: longer counts as not ready."""
KEEP_ALIVE_SECONDS = 75
"""How long an idle connection stays open. Longer than clients' pools keep theirs: who closes first loses no request."""
GRACE_SECONDS = 20
"""How long an open response may take to end after a stop; a client that reads no more must not hold the service."""

log = get_logger(__name__)


def health_routes(checks: dict[str, Check], registry: CollectorRegistry = REGISTRY) -> list[Route]:
    """The three routes every service has; `checks` are named in the answer of /readyz."""

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        answers = {name: await _passes(check) for name, check in checks.items()}
        return JSONResponse({"ready": all(answers.values()), "checks": answers}, 200 if all(answers.values()) else 503)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]


def health_app(checks: dict[str, Check]) -> Starlette:
    """An ASGI app of nothing but health, for services without an API of their own."""
    return Starlette(routes=health_routes(checks))


async def _passes(check: Check) -> bool:
    try:
        async with asyncio.timeout(READY_TIMEOUT):
            return await check()
    except Exception as error:  # noqa: BLE001  # whatever a check raises, the answer is the same: not ready
        log.warning("check_failed", error=repr(error))
        return False


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: the service decides when it stops."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving(app: ASGIApp, host: str, port: int) -> AsyncIterator[int]:
    """Serve `app` in this event loop while inside; yields the port it listens on."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(), name="http")
    while not server.started:
        if task.done():
            await task
            raise OSError(f"can't listen on {host}:{port}")
        await asyncio.sleep(0.01)
    bound: int = server.servers[0].sockets[0].getsockname()[1]
    log.info("listening", host=host, port=bound)
    try:
        yield bound
    finally:
        server.should_exit = True
        await task
