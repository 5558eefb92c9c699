"""Errors over HTTP: RFC 9457 problem+json, one line that names the thing, one that says what to do."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse

from emporter_contracts.errors import EmporterError


def problem(status: int, code: str, title: str, hint: str = "", headers: Mapping[str, str] | None = None) -> JSONResponse:
    """A problem document: `title` names the thing, `code` is stable, `hint` is an action."""
    body = {"type": f"https://emporter.invalid/problems/{code}", "title": title, "status": status, "code": code}
    if hint:
        body["hint"] = hint
    return JSONResponse(body, status, headers=dict(headers or {}), media_type="application/problem+json")


def problem_of(error: EmporterError, status: int, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The problem document of one of our errors."""
    return problem(status, error.code, error.message, error.hint, headers)
