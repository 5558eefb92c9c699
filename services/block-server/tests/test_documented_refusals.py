"""The OpenAPI document says which answers may come where tokens are demanded, or a rule of the operator refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from block_server.app import create_app
from block_server.settings import BlockServerSettings

BY_BODY = {"/v1/blocks", "/v1/links"}
"""Routes whose volumes are named in the body."""


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    return create_app(BlockServerSettings(store_url=f"file://{tmp_path}")).openapi()


def problems_of(document: dict[str, Any], path: str, method: str) -> set[int]:
    answers = document["paths"][path][method]["responses"]
    return {int(status) for status, said in answers.items() if "application/problem+json" in said.get("content", {})}


def test_every_route_of_a_volume_may_be_refused_by_a_rule(document: dict[str, Any]) -> None:
    paths = [path for path in document["paths"] if "{v}" in path or path in BY_BODY]
    assert len(paths) > 10
    for path in paths:
        for method in document["paths"][path]:
            assert {403, 451} <= problems_of(document, path, method), (method, path)
    assert 451 not in problems_of(document, "/v1/volumes", "get")


def test_every_route_may_demand_a_token(document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        for method in methods:
            assert {401, 403, 429} <= problems_of(document, path, method), (method, path)
