"""Around every route: who may read it from a browser, which revision it was, how long it took."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from block_server import telemetry
from block_server.policing import POLICED
from block_server.rooms import REVISION
from emporter_contracts.policy import PURPOSE_HEADER

EXPOSED = (
    "Content-Range, Content-Length, ETag, Accept-Ranges, Retry-After, Link, X-Emporter-Revision, X-Emporter-Shape, "
    "X-Emporter-Dtype, X-Emporter-Origin, X-Emporter-Voxel-Size-Nm, X-Emporter-Caveats, X-Emporter-Window, "
    "X-Emporter-Level, Emporter-Policy-Rule, Server-Timing"
)
CROSS_ORIGIN = [(b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", EXPOSED.encode())]
PREFLIGHT = {
    "access-control-allow-methods": "GET, HEAD, POST, OPTIONS",
    "access-control-allow-headers": "Authorization, Emporter-Purpose, Range, If-Range, If-None-Match, Accept, Content-Type",
    "access-control-max-age": "86400",
}


class Surroundings:
    """Cross-origin headers on every answer, not only where an Origin came: caches keep answers for those who come later."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, sent = time.perf_counter(), 500, 0

        async def surrounded(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                revision = [(b"x-emporter-revision", b"%d" % scope[REVISION])] if REVISION in scope else []
                varies = [(b"vary", PURPOSE_HEADER.encode())] if POLICED in scope else []
                message["headers"] = [*message["headers"], *CROSS_ORIGIN, *revision, *varies]
            else:
                sent += len(message.get("body", b""))
            await send(message)

        try:
            if scope["method"] == "OPTIONS":
                await _preflight(surrounded)
            else:
                await self._app(scope, receive, surrounded)
        finally:
            telemetry.observe(scope, status, sent, time.perf_counter() - began)


async def _preflight(send: Send) -> None:
    headers = [(name.encode(), value.encode()) for name, value in PREFLIGHT.items()]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
