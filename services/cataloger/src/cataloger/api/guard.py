"""Who may write, and how a body comes in: a token, or nobody but this machine; JSON of a bounded size and depth."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json
from starlette.requests import Request

from cataloger.errors import InvalidQueryError, NotAuthorizedError, WriteRefusedError
from emporter_runtime.access_gate import is_loopback

BODY_BYTES = 2**20
"""Of one written record; what archives say in full is rarely a tenth of it."""


@dataclass(frozen=True, slots=True)
class WriteGuard:
    """`token` empty: writes only where `host`, the address this service listens on, is loopback."""

    token: str
    host: str

    def check(self, request: Request) -> None:
        """Raises WriteRefusedError or NotAuthorizedError."""
        if not self.token:
            if not is_loopback(self.host):
                raise WriteRefusedError(
                    "this catalog takes no writes: others can reach it and it has no token",
                    hint="an operator sets EMPORTER_CATALOG_TOKEN; send it as Authorization: Bearer …",
                )
            return
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self.token.encode()):
            raise NotAuthorizedError("the token is missing or wrong", hint="send Authorization: Bearer <EMPORTER_CATALOG_TOKEN>")


def json_body(schema: dict[str, Any]) -> dict[str, Any]:
    """What the OpenAPI document says of an operation that reads `json_object`."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


async def json_object(request: Request, kinds: tuple[str, ...] = ("application/json",)) -> dict[str, Any]:
    """The body, a JSON object. Raises InvalidQueryError.

    The content type is insisted on: a page of another origin can send JSON as text/plain without asking first.
    """
    if request.headers.get("content-type", "").split(";", 1)[0].strip().lower() not in kinds:
        raise InvalidQueryError("the body is not JSON", hint=f"send Content-Type: {kinds[0]}")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_BYTES:
            raise InvalidQueryError(f"the body is larger than {BODY_BYTES} bytes", hint="name large things by URL instead")
    try:
        # Not json.loads: that one recurses as deep as the sender likes.
        found = from_json(bytes(body))
    except ValueError as error:
        raise InvalidQueryError(f"the body can't be read: {error}"[:300], hint="send one JSON object") from error
    if not isinstance(found, dict):
        raise InvalidQueryError("the body is no JSON object", hint='send {"name": value, …}')
    return found
