"""The one route that is asked a thousand times a second, by the shortest way."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from block_server.faults import answer_of
from emporter_contracts.errors import EmporterError

_BLOCK = re.compile(r"/v1/volumes/([^/]+)/block\Z")


class Direct:
    """Hands `GET …/block` to its handler without the framework's routing: it takes 0.1 ms, a fifth of a crop in the cache.

    Everything else, and what the route is to OpenAPI, is the framework's.
    """

    def __init__(self, app: ASGIApp, handler: Callable[[Request], Awaitable[Response]], route: Any) -> None:
        self._app = app
        self._handler = handler
        self._route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match = None
        if scope["type"] == "http" and scope["method"] == "GET":
            match = _BLOCK.match(scope["path"].removeprefix(scope.get("root_path", "")))
        if match is None:
            await self._app(scope, receive, send)
            return
        scope["path_params"] = {"v": match[1]}
        scope["route"] = self._route
        request = Request(scope, receive, send)
        try:
            response = await self._handler(request)
        except EmporterError as error:
            response = await answer_of(request, error)
        await response(scope, receive, send)
