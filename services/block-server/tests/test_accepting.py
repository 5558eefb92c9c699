"""Accept is obeyed by routes whose format is in their body, too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from block_server.testing import Made, house_on
from emporter_runtime.testing import file_store

SAMPLE = {"n": 2, "shape": [4, 4, 4], "seed": 1}
PLACES = {"shape": [4, 4, 4], "origins": [[0, 0, 0]], "volumes": [{"volume": "accepting@r1"}]}
RAW, JSON, TENSORS = "application/octet-stream", "application/json", "application/x-safetensors"
REQUESTS: dict[str, dict[str, Any]] = {"/v1/volumes/accepting@r1/sample": SAMPLE, "/v1/blocks": PLACES}


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with house_on(file_store(tmp_path_factory.mktemp("store"))) as house, httpx.Client(base_url=house.url) as client:
        house.commit(Made(np.arange(32**3, dtype="u2").reshape(32, 32, 32), name="accepting"))
        yield client


@pytest.mark.parametrize("path", REQUESTS)
@pytest.mark.parametrize("accept", ["image/png", "text/html, image/*", "*/*;q=0"])
def test_what_can_not_be_given_is_406(web: httpx.Client, path: str, accept: str):
    refused = web.post(path, json=REQUESTS[path], headers={"accept": accept})
    assert (refused.status_code, refused.json()["code"]) == (406, "not_acceptable")
    assert refused.headers["content-type"] == "application/problem+json"
    assert {"/v1/blocks": TENSORS}.get(path, RAW) in refused.json()["hint"]


@pytest.mark.parametrize(
    ("accept", "given"),
    [("*/*", RAW), (RAW, RAW), (JSON, JSON), ("application/json, text/plain, */*", RAW), (f"{RAW};q=0.5, {JSON}", JSON)],
)
def test_a_sample_is_what_is_accepted(web: httpx.Client, accept: str, given: str):
    answer = web.post("/v1/volumes/accepting@r1/sample", json=SAMPLE, headers={"accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (200, given)
    if given == JSON:
        assert len(answer.json()["origins"]) == SAMPLE["n"]


@pytest.mark.parametrize(("said", "given"), [("raw", RAW), ("places", JSON)])
def test_the_format_that_a_sample_names_counts_more(web: httpx.Client, said: str, given: str):
    answer = web.post("/v1/volumes/accepting@r1/sample", json=SAMPLE | {"format": said}, headers={"accept": "image/png"})
    assert answer.headers["content-type"] == given


@pytest.mark.parametrize("accept", ["*/*", "application/*", TENSORS])
def test_tensors_are_given_to_who_accepts_them(web: httpx.Client, accept: str):
    answer = web.post("/v1/blocks", json=PLACES, headers={"accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (200, TENSORS)


def test_what_can_be_accepted_is_documented(web: httpx.Client):
    paths = web.get("/openapi.json").json()["paths"]
    assert set(paths["/v1/volumes/{v}/sample"]["post"]["responses"]["200"]["content"]) == {RAW, JSON}
    assert all("406" in paths[path]["post"]["responses"] for path in ("/v1/volumes/{v}/sample", "/v1/blocks"))
