"""POSTing one event to one receiver, signed.

Signatures and headers are those of Standard Webhooks (https://www.standardwebhooks.com): `webhook-id`, `webhook-timestamp`,
`webhook-signature: v1,<base64 of HMAC-SHA256 over "<id>.<timestamp>.<body>">`; the body is a CloudEvent in structured mode.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime

import httpcore

from cataloger.models import Delivery, Webhook
from emporter_contracts.errors import EmporterError
from emporter_runtime.addresses import PublicBackend

TIMEOUT_SECONDS = 15.0
"""Of connecting, of sending and of an answer; Standard Webhooks asks receivers to answer within 15 s."""
CONNECTIONS = 32
"""At once, to all receivers together: one for each subscription that is told at the same time."""


class DeliveryFailedError(EmporterError):
    """A receiver did not take an event."""

    code = "delivery_failed"


class Post:
    """POSTs a delivery; follows no redirect, and connects to public addresses only unless told otherwise."""

    def __init__(self, *, allow_private: bool) -> None:
        backend = None if allow_private else PublicBackend()
        self._pool = httpcore.AsyncConnectionPool(max_connections=CONNECTIONS, network_backend=backend)

    async def close(self) -> None:
        await self._pool.aclose()

    async def __call__(self, hook: Webhook, delivery: Delivery) -> None:
        """Raises DeliveryFailedError for any answer but 2xx."""
        body = json.dumps(delivery.body, separators=(",", ":")).encode()
        seconds = dict.fromkeys(("connect", "read", "write", "pool"), TIMEOUT_SECONDS)
        signed = headers(hook.secret, delivery.event, body, int(datetime.now(UTC).timestamp()))
        async with self._pool.stream(
            "POST", hook.url, headers=list(signed.items()), content=body, extensions={"timeout": seconds}
        ) as answer:
            if not 200 <= answer.status < 300:
                raise DeliveryFailedError(f"the receiver answered {answer.status}")


def headers(secret: str, identity: str, body: bytes, timestamp: int) -> dict[str, str]:
    """The headers of a signed body (Standard Webhooks 1.0)."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"{identity}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return {
        "content-type": "application/cloudevents+json; charset=utf-8",
        "content-length": str(len(body)),
        "user-agent": "emporter-cataloger",
        "webhook-id": identity,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
