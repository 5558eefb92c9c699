"""Every error as RFC 9457 problem+json, and how OpenAPI says so."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from block_server.errors import BlockServerError
from emporter_contracts.errors import EmporterError, InvalidValueError
from emporter_runtime.access import AccessError
from emporter_runtime.errors import RuntimeFaultError, TransientError
from emporter_runtime.logging import get_logger
from emporter_runtime.problems import problem, problem_of

NOT_KEPT = {"cache-control": "no-store"}
"""404 and 410 may be cached without being told; a volume may be there a moment later."""

_STORE_HINT = "ask again in a moment; if it stays so, the operator finds the reason in the block-server's log"

log = get_logger(__name__)


class Problem(BaseModel):
    """RFC 9457: `title` names the thing, `code` is stable, `hint` is what to do."""

    type: str
    title: str
    status: int
    code: str
    hint: str | None = None


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The part of a route's OpenAPI `responses` that may go wrong."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


def answer_faults(app: FastAPI) -> None:
    """Make `app` answer every exception with a problem, and its OpenAPI say so."""
    plain = app.openapi
    app.openapi = lambda: _described(plain())  # type: ignore[method-assign]  # FastAPI's own way to extend its document
    app.add_exception_handler(EmporterError, answer_of)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _routing)
    app.add_exception_handler(Exception, _bug)


GATED = (401, 403, 429)
"""What the gate may answer on any route: a token is demanded, is not for this, or is spent (decisions/0014)."""
OF_A_VOLUME = (403, 451)
"""What the operator's rules may answer (docs/policy.md) where a volume is looked for, which is where one may be gone (410)."""


def _described(document: dict[str, Any]) -> dict[str, Any]:
    """FastAPI's document without its own 422, which we say as 400, with the schema of a problem and what any route may refuse."""
    schemas = document["components"]["schemas"]
    for gone in ("HTTPValidationError", "ValidationError"):
        schemas.pop(gone, None)
    schemas["Problem"] = Problem.model_json_schema()
    for path in document["paths"].values():
        for operation in path.values():
            answers = operation["responses"]
            answers.pop("422", None)
            for status, problem_said in problems(*GATED, *(OF_A_VOLUME if "410" in answers else ())).items():
                answers.setdefault(str(status), problem_said)
    return document


async def answer_of(_: Request, error: Exception) -> Response:
    """The problem that an error of ours is."""
    assert isinstance(error, EmporterError)
    status, headers = _status(error)
    if status >= 500:
        log.warning("not_served", code=error.code, error=str(error))
    if isinstance(error, RuntimeFaultError):
        # Its message tells where the store is and what it said: the log's business, not the reader's.
        return problem(status, error.code, "the store does not answer as it should", _STORE_HINT, NOT_KEPT | headers)
    return problem_of(error, status, NOT_KEPT | headers)


def _status(error: EmporterError) -> tuple[int, dict[str, str]]:
    match error:
        case BlockServerError():
            return error.status, error.headers
        case AccessError():
            return error.status, error.headers
        case TransientError():
            return 503, {"retry-after": "2"}
        case RuntimeFaultError():  # keys, rights or buckets of the store are not as they should be
            return 502, {}
        case InvalidValueError():
            return 400, {}
        case _:
            return 500, {}


async def _malformed(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"][1:]))
    return problem(400, "invalid_request", f"{where}: {first['msg']}", "/openapi.json says what may be asked", NOT_KEPT)


async def _routing(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    codes = {404: "route_unknown", 405: "method_not_allowed"}
    headers = NOT_KEPT | dict(error.headers or {})
    return problem(
        error.status_code, codes.get(error.status_code, "http_error"), error.detail, "/openapi.json lists the routes", headers
    )


async def _bug(_: Request, error: Exception) -> Response:
    ours = error if isinstance(error, EmporterError) else error.__cause__
    if isinstance(ours, EmporterError):
        # It came after the head of an answer (Starlette wraps it then): the connection is cut, and that is all that can be said.
        log.warning("cut_short", code=ours.code, error=str(ours))
    else:
        log.error("bug", error=repr(error), exc_info=error)
    return problem(500, "internal", "a fault of this server", "please report it with the server's log", NOT_KEPT)
