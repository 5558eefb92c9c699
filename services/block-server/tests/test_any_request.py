"""Whatever is asked, as the OpenAPI document has it and as it has not: no 5xx, and every refusal is a problem+json with a hint."""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from block_server.app import create_app
from block_server.settings import BlockServerSettings
from block_server.testing import House, Made, house_on
from block_server.testing_access import SECRET
from emporter_contracts.ids import VolumeRef
from emporter_runtime.access_links import Link, LinkKeys
from emporter_runtime.testing import file_store

EXAMPLES = int(os.environ.get("EMPORTER_FUZZ_EXAMPLES", "8"))
"""Of each operation and either mode; making them takes longer than asking."""
PHASES = [Phase.generate, Phase.shrink]
"""To explain a failure takes a minute, and is not needed where one sees the request."""
LONGEST_URL = 65_000
"""Longer ones uvicorn refuses itself, before any of it is ours to answer."""
OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, methods in create_app(BlockServerSettings(store_url="file:///tmp")).openapi()["paths"].items()
    for method, operation in methods.items()
}


def can_be_wrong(operation: dict[str, Any]) -> bool:
    """Whether anything is asked for but words of any kind."""
    schemas = [parameter["schema"] for parameter in operation.get("parameters", [])]
    return "requestBody" in operation or any(
        set(one) - {"type", "title", "description"} or one["type"] != "string" for one in schemas
    )


ASKED = [
    (operation, mode)
    for operation, said in OPERATIONS.items()
    for mode in GenerationMode
    if mode == GenerationMode.POSITIVE or can_be_wrong(said)
]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """On files only: what a request means does not depend on the store."""
    with house_on(file_store(tmp_path_factory.mktemp("any")), access="open", link_secret_key=SECRET) as house:
        yield house


@pytest.fixture(scope="module")
def phantom(house: House) -> Made:
    voxels = np.random.default_rng(0).integers(0, 2**16, (40, 50, 60), dtype="u2")
    house.commit(Made((voxels % 7).astype("u8"), name="any-labels", role="labels", labels_of="any-request"))
    return house.commit(Made(voxels, name="any-request"))


def refusal(status: int, headers: Any, text: str) -> None:
    assert status < 500, (status, text[:500])
    if status >= 400:
        assert headers["content-type"] == "application/problem+json", (status, headers["content-type"])
        assert '"code"' in text


@pytest.fixture(scope="module")
def schema(house: House) -> Any:
    return schemathesis.openapi.from_dict(httpx.get(f"{house.url}/openapi.json").json())


@pytest.mark.parametrize(("operation", "mode"), ASKED, ids=lambda given: getattr(given, "value", given))
def test_no_request_that_openapi_allows_or_forbids_is_an_error_of_ours(
    house: House, phantom: Made, schema: Any, operation: str, mode: GenerationMode
):
    method, path = operation.split(" ", 1)
    strategy = schema[path][method].as_strategy(generation_mode=mode)

    @settings(
        max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None, phases=[Phase.generate]
    )
    @given(case=strategy, volume=st.sampled_from([str(phantom.ref), phantom.name, "any-labels@r1", None]))
    def ask(case: Any, volume: str | None) -> None:
        if volume is not None and "v" in (case.path_parameters or {}):
            case.path_parameters["v"] = volume
        answer = case.call(base_url=house.url, timeout=60)
        if len(str(answer.request.url)) > LONGEST_URL:
            assert answer.status_code < 500
            return
        text = (answer.content or b"").decode(errors="replace") if method != "HEAD" else '"code"'
        refusal(answer.status_code, {k.lower(): v[0] for k, v in answer.headers.items()}, text)

    ask()


LINK = "/s/" + LinkKeys([SECRET]).sign(Link((VolumeRef("any-request", 1),), int(time.time()) + 86_400))
NASTY = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["..", ".", "%2e%2e", "..%2f..", "%00", "\\", "../../etc/passwd", "9" * 400, "-1", "1e999", "NaN", "0x10", "²", "@r0", "@r99999999", "any-request@r1", "any-request@r01"]),
    st.integers(-(10**30), 10**30).map(str),
    st.lists(st.integers(-(10**20), 10**20), min_size=3, max_size=3).map(lambda v: ",".join(map(str, v))),
)  # fmt: skip
ROUTES = (
    "/v1/volumes/{a}", "/v1/volumes/{a}/block", "/v1/volumes/{a}/slice/{b}/{c}", "/v1/volumes/{a}/provenance",
    "/zarr/{a}.ome.zarr/{b}/{c}", "/zarr2/{a}.ome.zarr/{b}/{c}", "/precomputed/{a}/info", "/precomputed/{a}/{b}/{c}",
    "/v1/cutout/any/request/{a}/0/{b}/{c}/0:8", "/v1/cutout/{b}/{c}/{a}/{b}/0:8/0:8/{c}", "/api/node/{b}/{a}/raw/0_1_2/{b}/{c}",
    "/api/node/{b}/{a}/raw/0_1_2/8_8_8/{c}", "/api/node/{b}/{a}/specificblocks?blocks={c}",
    "/s/{b}/v1/volumes/{a}", LINK + "/v1/volumes/{a}/block", LINK + "/zarr/{a}.ome.zarr/{b}/{c}", LINK + "/{b}/{c}",
    "/view/{a}", "/view/{a}/thumbnail", "/neuroglancer/v/client/{b}", "/{a}/{b}",
)  # fmt: skip
NASTY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | NASTY
    | st.lists(st.integers(-(10**20), 10**20), min_size=3, max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=6,
)  # fmt: skip
BODIES: dict[str, dict[str, Any]] = {
    "/v1/volumes/{a}/blocks": {"shape": [8, 8, 8], "origins": [[0, 0, 0], [1, 2, 3]]},
    "/v1/blocks": {"shape": [8, 8, 8], "origins": [[0, 0, 0]], "volumes": [{"volume": "any-request"}, {"volume": "any-labels"}]},
    "/v1/volumes/{a}/sample": {"n": 2, "shape": [8, 8, 8], "min_foreground": 0.1},
    "/v1/links": {"volumes": ["any-request"]},
}
"""What each POST takes, before some of it is spoilt."""
WORDS = ("shape", "origins", "origins_nm", "volumes", "level", "voxel_size_nm", "frame", "format", "dtype", "window", "outside",
         "labels", "min_foreground", "seed", "n", "exclude", "split", "within", "order", "expires_seconds", "budget")  # fmt: skip


@settings(max_examples=10 * EXAMPLES, deadline=None, phases=PHASES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    route=st.sampled_from(ROUTES),
    parts=st.tuples(NASTY, NASTY, NASTY),
    known=st.booleans(),
    query=st.dictionaries(
        st.sampled_from(["level", "origin", "shape", "origin_nm", "shape_nm", "frame", "format", "outside", "dtype", "window", "depth", "voxel_size_nm"]),
        NASTY,
        max_size=4,
    ),
    head=st.booleans(),
)  # fmt: skip
def test_nothing_that_can_be_written_in_a_url_is_an_error_of_ours(house: House, phantom: Made, route, parts, known, query, head):
    a, b, c = parts
    path = route.format(a=str(phantom.ref) if known else a, b=b, c=c)
    raw = httpx.URL(house.url).copy_with(raw_path=quoted(path, query))
    with httpx.Client(timeout=60) as web:
        answer = web.head(raw) if head else web.get(raw)
    refusal(answer.status_code, answer.headers, '"code"' if head else answer.text)


@settings(max_examples=5 * EXAMPLES, deadline=None, phases=PHASES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    route=st.sampled_from(list(BODIES)),
    wrong=st.dictionaries(st.sampled_from(WORDS), NASTY_JSON, max_size=3),
    left_out=st.sampled_from([None, "shape", "volumes", "n"]),
    raw=st.none() | st.binary(max_size=40),
)
def test_nothing_that_can_be_sent_as_a_body_is_an_error_of_ours(house: House, phantom: Made, route, wrong, left_out, raw):
    body = {word: value for word, value in (BODIES[route] | wrong).items() if word != left_out}
    sent = raw if raw is not None else json.dumps(body).encode()  # NaN and Infinity too, as some clients write them
    path = route.format(a=phantom.ref)
    answer = httpx.post(house.url + path, content=sent, headers={"content-type": "application/json"}, timeout=60)
    refusal(answer.status_code, answer.headers, '"code"' if answer.status_code < 400 else answer.text)


@pytest.mark.parametrize("route", BODIES)
def test_the_bodies_that_are_spoilt_are_taken_as_they_are(house: House, phantom: Made, route: str):
    assert httpx.post(house.url + route.format(a=phantom.ref), json=BODIES[route]).status_code == 200


def quoted(path: str, query: dict[str, str]) -> bytes:
    """As a client would write it that resolves nothing: `..` stays."""
    path, _, own = path.partition("?")
    asked = "&".join(filter(None, (quote(own, safe="=,%"), urlencode(query))))
    return (quote(path, safe="/%:.") + ("?" + asked if asked else "")).encode()


@pytest.mark.parametrize(
    "path",
    [
        "/zarr/any-request@r1.ome.zarr/../record.json",
        "/zarr/any-request@r1.ome.zarr/../../any-labels/r1/record.json",
        "/zarr/any-request@r1.ome.zarr/%2e%2e/%2e%2e/any-labels/r1/record.json",
        "/zarr/any-request@r1.ome.zarr/..%2f..%2fany-labels%2fr1%2frecord.json",
        "/zarr/any-request@r1.ome.zarr//etc/passwd",
        "/zarr2/any-request@r1.ome.zarr/../record.json",
        "/zarr2/any-request@r1.ome.zarr/0/../../record.json",
        "/zarr/../v1/volumes",
        "/zarr/any-request@r1/../any-labels@r1.ome.zarr/zarr.json",
        "/precomputed/any-request@r1/../../etc/passwd",
        "/v1/volumes/..%2f..%2fetc",
        "/v1/volumes/../../../../etc/passwd",
    ],
)
def test_no_path_leads_out_of_a_volume(house: House, phantom: Made, path: str):
    connection = http.client.HTTPConnection(house.url.removeprefix("http://"))
    connection.request("GET", path)  # as it stands
    answer = connection.getresponse()
    text = answer.read().decode()
    assert answer.status in {400, 404}, text
    assert answer.headers["content-type"] == "application/problem+json"
    connection.close()
