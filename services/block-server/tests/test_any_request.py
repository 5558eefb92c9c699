"""Whatever is asked, as the OpenAPI document has it and as it has not: no 5xx, and every refusal is a problem+json with a hint."""

from __future__ import annotations

import http.client
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from block_server.app import create_app
from block_server.settings import BlockServerSettings
from block_server.testing import House, Made, house_on
from emporter_runtime.testing import file_store

EXAMPLES = int(os.environ.get("EMPORTER_FUZZ_EXAMPLES", "8"))
"""Of each operation; making them takes longer than asking."""
OPERATIONS = [
    f"{method.upper()} {path}"
    for path, methods in create_app(BlockServerSettings(store_url="file:///tmp")).openapi()["paths"].items()
    for method in methods
]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """On files only: what a request means does not depend on the store."""
    with house_on(file_store(tmp_path_factory.mktemp("any"))) as house:
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


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_request_that_openapi_allows_is_an_error_of_ours(house: House, phantom: Made, operation: str):
    document = httpx.get(f"{house.url}/openapi.json").json()
    method, path = operation.split(" ", 1)
    schema = schemathesis.openapi.from_dict(document)
    strategy = schema[path][method].as_strategy()
    if "stream" in path or "events" in path:
        pytest.skip("does not end")

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=strategy, volume=st.sampled_from([str(phantom.ref), phantom.name, "any-labels@r1", None]))
    def ask(case: Any, volume: str | None) -> None:
        if volume is not None and "v" in (case.path_parameters or {}):
            case.path_parameters["v"] = volume
        answer = case.call(base_url=house.url, timeout=60)
        text = (answer.content or b"").decode(errors="replace") if method != "HEAD" else '"code"'
        refusal(answer.status_code, {k.lower(): v[0] for k, v in answer.headers.items()}, text)

    ask()


NASTY = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["..", ".", "%2e%2e", "..%2f..", "%00", "\\", "../../etc/passwd", "9" * 400, "-1", "1e999", "NaN", "0x10", "²", "@r0", "@r99999999", "any-request@r1", "any-request@r01"]),
    st.integers(-(10**30), 10**30).map(str),
    st.lists(st.integers(-(10**20), 10**20), min_size=3, max_size=3).map(lambda v: ",".join(map(str, v))),
)  # fmt: skip
ROUTES = (
    "/v1/volumes/{a}", "/v1/volumes/{a}/block", "/v1/volumes/{a}/slice/{b}/{c}", "/zarr/{a}.ome.zarr/{b}/{c}", "/zarr2/{a}.ome.zarr/{b}/{c}",
    "/precomputed/{a}/info", "/precomputed/{a}/{b}/{c}", "/view/{a}", "/{a}/{b}",
)  # fmt: skip


@settings(max_examples=10 * EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    route=st.sampled_from(ROUTES),
    parts=st.tuples(NASTY, NASTY, NASTY),
    known=st.booleans(),
    query=st.dictionaries(
        st.sampled_from(["level", "origin", "shape", "origin_nm", "shape_nm", "frame", "format", "outside", "dtype", "window", "depth", "voxel_size_nm"]),
        NASTY,
        max_size=4,
    ),
)  # fmt: skip
def test_nothing_that_can_be_written_in_a_url_is_an_error_of_ours(house: House, phantom: Made, route, parts, known, query):
    a, b, c = parts
    path = route.format(a=str(phantom.ref) if known else a, b=b, c=c)
    raw = httpx.URL(house.url).copy_with(raw_path=quoted(path, query))
    with httpx.Client(timeout=60) as web:
        answer = web.get(raw)
    refusal(answer.status_code, answer.headers, answer.text)


def quoted(path: str, query: dict[str, str]) -> bytes:
    """As a client would write it that resolves nothing: `..` stays."""
    return (quote(path, safe="/%") + ("?" + urlencode(query) if query else "")).encode()


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
