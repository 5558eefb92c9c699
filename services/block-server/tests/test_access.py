"""Nothing is read without a token or a signed link where one is demanded, on any route there is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from block_server.app import create_app
from block_server.settings import BlockServerSettings
from block_server.testing_access import Closed, closed_house
from emporter_runtime.testing import file_store


@dataclass(frozen=True)
class Asked:
    """A request that a route answers with 200 (or as `status` says) to who may read `mine@r1`."""

    path: str
    body: dict[str, Any] | None = None
    kind: str = "volume"
    status: int = 200


BOX = {"shape": [5, 6, 7], "origins": [[1, 2, 3]]}
ROUTES: dict[tuple[str, str], Asked] = {
    ("GET", "/"): Asked("/", kind="listing"),
    ("GET", "/v1/volumes"): Asked("/v1/volumes", kind="listing"),
    ("GET", "/v1/volumes/{v}"): Asked("/v1/volumes/mine@r1"),
    ("GET", "/v1/volumes/{v}/block"): Asked("/v1/volumes/mine@r1/block?origin=1,2,3&shape=5,6,7"),
    ("GET", "/v1/volumes/{v}/slice/{axis}/{index}"): Asked("/v1/volumes/mine@r1/slice/z/3"),
    ("GET", "/v1/volumes/{v}/provenance"): Asked("/v1/volumes/mine@r1/provenance", status=404),
    ("POST", "/v1/volumes/{v}/blocks"): Asked("/v1/volumes/mine@r1/blocks", BOX),
    ("POST", "/v1/volumes/{v}/sample"): Asked("/v1/volumes/mine@r1/sample", {"n": 2, "shape": [4, 4, 4], "seed": 1}),
    ("POST", "/v1/blocks"): Asked("/v1/blocks", {"volumes": [{"volume": "mine@r1"}], **BOX}),
    ("POST", "/v1/links"): Asked("/v1/links", {"volumes": ["mine@r1"]}),
    ("GET", "/v1/cutout/{collection}/{experiment}/{v}/{resolution}/{x}/{y}/{z}"): Asked("/v1/cutout/c/e/mine@r1/0/0:5/0:6/0:7"),
    ("GET", "/api/node/{uuid}/{v}/raw/0_1_2/{size}/{offset}"): Asked("/api/node/n/mine@r1/raw/0_1_2/5_6_7/0_0_0"),
    ("GET", "/api/node/{uuid}/{v}/specificblocks"): Asked(
        "/api/node/n/mine@r1/specificblocks?compression=uncompressed&blocks=0,0,0"
    ),
    ("GET", "/zarr/{v}.ome.zarr/{key:path}"): Asked("/zarr/mine@r1.ome.zarr/0/c/0/0/0"),
    ("HEAD", "/zarr/{v}.ome.zarr/{key:path}"): Asked("/zarr/mine@r1.ome.zarr/zarr.json"),
    ("GET", "/zarr2/{v}.ome.zarr/{key:path}"): Asked("/zarr2/mine@r1.ome.zarr/0/0/0/0"),
    ("HEAD", "/zarr2/{v}.ome.zarr/{key:path}"): Asked("/zarr2/mine@r1.ome.zarr/.zattrs"),
    ("GET", "/precomputed/{v}/info"): Asked("/precomputed/mine@r1/info"),
    ("GET", "/precomputed/{v}/{scale}/{chunk}"): Asked("/precomputed/mine@r1/0/0-16_0-16_0-16"),
    ("GET", "/view/{v}"): Asked("/view/mine@r1"),
    ("GET", "/view/{v}/thumbnail"): Asked("/view/mine@r1/thumbnail", status=307),
    ("GET", "/neuroglancer/v/client/{file}"): Asked("/neuroglancer/v/client/index.html", kind="any"),
    ("GET", "/openapi.json"): Asked("/openapi.json", kind="any"),
    ("GET", "/metrics"): Asked("/metrics", kind="metrics"),
    ("GET", "/healthz"): Asked("/healthz", kind="open"),
    ("GET", "/readyz"): Asked("/readyz", kind="open"),
}
CLOSED = {route: asked for route, asked in ROUTES.items() if asked.kind != "open"}
OF_A_VOLUME = {route: asked for route, asked in ROUTES.items() if asked.kind == "volume"}
THROUGH_A_LINK = {
    route: asked
    for route, asked in ROUTES.items()
    if asked.kind in {"volume", "listing", "any"} and route != ("POST", "/v1/links")
}


def every(table: dict[tuple[str, str], Asked]) -> Any:
    return pytest.mark.parametrize(("route", "asked"), table.items(), ids=[" ".join(route) for route in table])


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Closed]:
    with closed_house(tmp_path_factory.mktemp("closed")) as closed:
        yield closed


def routes_of(routes: Any) -> Iterator[tuple[str, str]]:
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from routes_of(inner.routes)
            continue
        methods = set(route.methods)
        yield from ((method, route.path) for method in (methods - {"HEAD"} if "GET" in methods else methods))


def test_every_route_of_the_service_stands_in_the_table(tmp_path: Path):
    app = create_app(BlockServerSettings(**file_store(tmp_path).model_dump()))
    assert set(routes_of(app.routes)) == set(ROUTES)


@every(CLOSED)
def test_without_a_token_there_is_401_and_what_to_do(closed: Closed, route: tuple[str, str], asked: Asked):
    method, _ = route
    for token in (None, "emt_00000000_" + "x" * 43, "nonsense", "late"):
        answer = closed.ask(method, asked.path, token, asked.body)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert ("invalid_token" in answer.headers["www-authenticate"]) == (token is not None)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["access-control-allow-origin"] == "*"
        if method != "HEAD":
            assert answer.json()["hint"]
            assert "mine" not in answer.text.replace("Bearer", "")


@every(OF_A_VOLUME)
def test_with_a_token_of_other_volumes_there_is_403(closed: Closed, route: tuple[str, str], asked: Asked):
    answer = closed.ask(route[0], asked.path, "theirs", asked.body)
    assert answer.status_code == 403
    assert answer.headers["content-type"] == "application/problem+json"
    missing = closed.ask(
        route[0], asked.path.replace("mine", "nowhere"), "theirs", json.loads(json.dumps(asked.body).replace("mine", "nowhere"))
    )
    assert missing.status_code == 403, "whether a volume is there is not told"


@every(OF_A_VOLUME)
def test_with_a_token_of_the_volume_it_is_answered(closed: Closed, route: tuple[str, str], asked: Asked):
    for token in ("mine", "all", "pinned"):
        assert closed.ask(route[0], asked.path, token, asked.body).status_code == asked.status


@every({route: asked for route, asked in ROUTES.items() if asked.kind == "any"})
def test_what_is_of_no_volume_needs_any_token(closed: Closed, route: tuple[str, str], asked: Asked):
    assert closed.ask(route[0], asked.path, "theirs").status_code == 200


@every({route: asked for route, asked in ROUTES.items() if asked.kind == "open"})
def test_what_watches_processes_needs_none(closed: Closed, route: tuple[str, str], asked: Asked):
    assert closed.ask(route[0], asked.path).status_code == 200


def test_metrics_need_a_token_for_them(closed: Closed):
    assert closed.ask("GET", "/metrics", "metrics").status_code == 200
    assert closed.ask("GET", "/metrics", "all").status_code == 403
    assert closed.ask("GET", closed.link("mine@r1") + "/metrics").status_code == 403
    assert closed.ask("GET", "/v1/volumes/mine@r1", "metrics").status_code == 403


@every({route: asked for route, asked in ROUTES.items() if asked.kind == "listing"})
def test_lists_name_what_may_be_read_and_nothing_else(closed: Closed, route: tuple[str, str], asked: Asked):
    for token, named, unnamed in (
        ("mine", ["mine@r1"], ["theirs", "old", "mine-labels"]),
        ("theirs", ["theirs-1@r1"], ["mine", "old"]),
        ("pinned", ["mine@r1", "old@r1"], ["theirs", "old@r2", "mine-labels"]),
        ("all", ["mine@r1", "theirs-1@r1", "old@r2", "mine-labels@r1"], ["old@r1"]),
    ):
        text = closed.ask("GET", asked.path, token).text
        assert all(name in text for name in named), token
        assert not any(name in text for name in unnamed), token
    text = closed.ask("GET", closed.link("old@r1") + asked.path).text
    assert "old@r1" in text
    assert "old@r2" not in text


def test_pages_of_a_list_are_filled_with_what_may_be_read(closed: Closed):
    page = closed.ask("GET", "/v1/volumes?limit=1", "pinned").json()
    assert [one["ref"] for one in page["volumes"]] == ["mine@r1"]
    page = closed.ask("GET", f"/v1/volumes?limit=1&cursor={page['next']}", "pinned").json()
    assert [one["ref"] for one in page["volumes"]] == ["old@r1"]
    assert page["next"] is None


def test_labels_are_named_to_those_who_may_read_them(closed: Closed):
    assert closed.ask("GET", "/v1/volumes/mine", "all").json()["labels"] == ["mine-labels"]
    assert closed.ask("GET", "/v1/volumes/mine", "mine").json()["labels"] == []
    assert "mine-labels" in closed.ask("GET", "/view/mine", "all").text
    assert "mine-labels" not in closed.ask("GET", "/view/mine", "mine").text
    drawn = {"n": 2, "shape": [4, 4, 4], "seed": 1, "labels": "mine-labels", "min_foreground": 0.1}
    assert closed.ask("POST", "/v1/volumes/mine/sample", "mine", drawn).status_code == 403
    assert closed.ask("POST", "/v1/volumes/mine/sample", "all", drawn).status_code == 200


def test_one_volume_out_of_scope_refuses_a_request_for_several(closed: Closed):
    body = {"volumes": [{"volume": "mine@r1"}, {"volume": "theirs-1@r1"}], **BOX}
    assert closed.ask("POST", "/v1/blocks", "mine", body).status_code == 403
    assert closed.ask("POST", "/v1/blocks", "all", body).status_code == 200


def test_a_pinned_scope_opens_no_other_revision(closed: Closed):
    for path, status in (("old@r1", 200), ("old@r2", 403), ("old", 403), ("mine@r1", 200), ("mine", 200), ("mine@r2", 403)):
        assert closed.ask("GET", f"/v1/volumes/{path}", "pinned").status_code == status, path


@every(THROUGH_A_LINK)
def test_through_a_link_every_route_gives_the_same_bytes(closed: Closed, route: tuple[str, str], asked: Asked):
    prefix = closed.link("mine@r1")
    straight = closed.ask(route[0], asked.path, "pinned" if asked.kind != "listing" else "mine", asked.body)
    linked = closed.ask(route[0], prefix + asked.path, None, asked.body)
    assert linked.status_code == straight.status_code == asked.status
    if straight.headers.get("content-type", "").startswith(("application/json", "text/html")):
        said = linked.text.replace(prefix, "")
        if asked.path == "/openapi.json":
            said = json.dumps({k: v for k, v in json.loads(said).items() if k != "servers"})
            assert json.loads(said) == straight.json()
        else:
            assert said == straight.text
    else:
        assert linked.content == straight.content
    assert "public" not in linked.headers.get("cache-control", "")


@every(OF_A_VOLUME)
def test_a_link_opens_no_other_volume_and_no_other_revision(closed: Closed, route: tuple[str, str], asked: Asked):
    for prefix in (closed.link("theirs-1@r1"), closed.link("mine@r2"), closed.link("mine-labels@r1")):
        answer = closed.ask(route[0], prefix + asked.path, None, asked.body)
        assert answer.status_code == 403
        assert answer.headers["content-type"] == "application/problem+json"


@every(CLOSED)
def test_a_link_that_was_changed_or_has_expired_is_403_and_says_so(closed: Closed, route: tuple[str, str], asked: Asked):
    good, other = closed.link("mine@r1"), closed.link("theirs-1@r1")
    version, payload, mac = good.removeprefix("/s/").split(".")
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    changed = [
        f"/s/{version}.{other.split('.')[1]}.{mac}",
        f"/s/{version}.{payload}.{mac[:-1]}{last[last.index(mac[-1]) ^ 1]}",  # the same bytes, spelt otherwise
        f"/s/{version}.{payload}.{mac[::-1]}",
        f"/s/{version}.{payload}.",
        f"/s/{payload}",
        "/s/",
        f"/s/eml2.{payload}.{mac}",
        closed.link("mine@r1", secret="t" * 40),
    ]
    for prefix in changed:
        answer = closed.ask(route[0], prefix + asked.path, None, asked.body)
        assert (answer.status_code, answer.headers["content-type"]) == (403, "application/problem+json"), prefix
        if route[0] != "HEAD":
            assert answer.json()["code"] == "link_refused"
    answer = closed.ask(route[0], closed.link("mine@r1", seconds=-1) + asked.path, None, asked.body)
    assert answer.status_code == 403
    if route[0] != "HEAD":
        assert answer.json()["code"] == "link_expired"
        assert "expired" in answer.json()["title"]
        assert "emporter link" in answer.json()["hint"]
