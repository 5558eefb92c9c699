"""The routes of webhooks: who may write may also subscribe, and see what was told."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from cataloger.api.guard import WriteGuard, json_body, json_object
from cataloger.api.rest import Routes
from cataloger.webhooks import Subscription, Webhooks


def routes(webhooks: Webhooks, guard: WriteGuard) -> Routes:
    """Adds the routes to an application."""

    def add(app: FastAPI) -> None:
        @app.post("/v1/webhooks", status_code=201, openapi_extra=json_body(Subscription.model_json_schema()))
        async def subscribe(request: Request) -> JSONResponse:
            """Subscribe: `{"url": …, "types": ["io.emporter.volume_complete.v1"], "filter": {"source": "idr"}}`.

            The answer holds the secret signatures are made with, this once.
            """
            guard.check(request)
            return JSONResponse(await webhooks.subscribe(Subscription.model_validate(await json_object(request))), 201)

        @app.get("/v1/webhooks")
        async def subscriptions(request: Request) -> dict[str, Any]:
            """All subscriptions, without their secrets."""
            guard.check(request)
            return {"items": await webhooks.all()}

        @app.delete("/v1/webhooks/{webhook}", status_code=204)
        async def unsubscribe(webhook: str, request: Request) -> Response:
            """End a subscription; what was not told yet is not told any more."""
            guard.check(request)
            await webhooks.unsubscribe(webhook)
            return Response(status_code=204)

        @app.get("/v1/webhooks/{webhook}/deliveries")
        async def deliveries(
            webhook: str,
            request: Request,
            state: Literal["pending", "delivered", "dead"] | None = None,
            limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        ) -> dict[str, Any]:
            """What was told or is to be told, the newest first; `dead` is what no try could deliver."""
            guard.check(request)
            return {"items": await webhooks.deliveries(webhook, state, limit)}

        @app.post("/v1/webhooks/{webhook}/retry")
        async def retry(webhook: str, request: Request) -> dict[str, int]:
            """Send everything dead once more."""
            guard.check(request)
            return {"again": await webhooks.retry(webhook)}

    return add
