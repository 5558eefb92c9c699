"""What the OpenAPI document says of answers that are no success: RFC 9457 problems, by what an operation is asked with."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI

PROBLEM = {
    "title": "Problem",
    "description": "RFC 9457: `title` names the thing, `code` is stable, `hint` is what to do.",
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string"},
        "hint": {"type": "string"},
    },
    "required": ["type", "title", "status", "code"],
}
ALWAYS = (401, 403, 429, 503)
"""A token is demanded, is not for this, or is spent (decisions/0014); the database, the bus or the store is away."""


def tell_refusals(app: FastAPI) -> None:
    """Make the document of `app` say what may be refused, and how. No 451: rules of access are asked where voxels are read."""
    plain = app.openapi
    app.openapi = lambda: _told(plain())  # type: ignore[method-assign]  # FastAPI's own way to extend its document


def _told(document: dict[str, Any]) -> dict[str, Any]:
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for gone in ("HTTPValidationError", "ValidationError"):
        schemas.pop(gone, None)
    schemas["Problem"] = PROBLEM
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            responses = operation["responses"]
            responses.pop("422", None)  # FastAPI's own; we say 400
            for status in _statuses(path, method, operation):
                responses.setdefault(str(status), {"description": HTTPStatus(status).phrase, "content": content})
    return document


def _statuses(path: str, method: str, operation: dict[str, Any]) -> list[int]:
    changes = method != "get"
    conditions = {400: changes or "parameters" in operation, 404: "{" in path, 409: changes}
    return sorted([*ALWAYS, *(status for status, may_be in conditions.items() if may_be)])
