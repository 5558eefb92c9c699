"""Nothing is read without a token or a signed link where one is demanded, on any route there is."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import tensorstore as ts
import zarr

from block_server.app import create_app
from block_server.settings import BlockServerSettings
from block_server.testing import House, Made, bury, house_on
from emporter_contracts.ids import VolumeRef
from emporter_runtime.access import Budget
from emporter_runtime.access_links import Link, LinkKeys
from emporter_runtime.access_tokens import Token, changing, new_token
from emporter_runtime.testing import file_store

SECRET = "s" * 40
SHAPE = (20, 30, 40)


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


@dataclass(frozen=True)
class Closed:
    """A server that demands tokens, and those it knows by what they are for."""

    house: House
    file: Path
    tokens: dict[str, str]
    ids: dict[str, str]

    @property
    def url(self) -> str:
        return self.house.url

    def ask(self, method: str, path: str, token: str | None = None, body: Any = None) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.tokens.get(token, token)}"} if token else {}
        return httpx.request(method, self.url + path, headers=headers, json=body, timeout=60)

    def link(
        self, *volumes: str, seconds: float = 3600, token: str = "", budget: Budget | None = None, secret: str = SECRET
    ) -> str:
        """A prefix, signed as the server would."""
        refs = tuple(VolumeRef.parse(volume) for volume in volumes)
        signer = self.ids.get(token, "")
        return "/s/" + LinkKeys([secret]).sign(Link(refs, int(time.time() + seconds), signer, budget))


def write(file: Path, tokens: list[Token]) -> None:
    with changing(file) as replace:
        replace(tokens)


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Closed]:
    folder = tmp_path_factory.mktemp("closed")
    (folder / "store").mkdir()
    yesterday = datetime.now(UTC) - timedelta(days=1)
    kinds: dict[str, Any] = {
        "mine": new_token("mine", ["mine"]),
        "theirs": new_token("theirs", ["theirs-*"]),
        "all": new_token("all", ["*"]),
        "pinned": new_token("pinned", ["mine@r1", "old@r1"]),
        "metrics": new_token("prometheus", [], metrics=True),
        "late": new_token("late", ["*"], expires_at=yesterday),
    }
    file = folder / "tokens.json"
    write(file, [token for token, _ in kinds.values()])
    rng = np.random.default_rng(0)
    with house_on(file_store(folder / "store"), access_file=file, link_secret_key=SECRET) as house:
        for name in ("mine", "theirs-1", "old"):
            house.commit(Made(rng.integers(0, 256, SHAPE, dtype="u1"), name=name))
        house.commit(Made(rng.integers(0, 256, SHAPE, dtype="u1"), name="old", revision=2))
        house.commit(Made(rng.integers(0, 9, SHAPE, dtype="u4"), name="mine-labels", role="labels", labels_of="mine"))
        yield Closed(house, file, {k: text for k, (_, text) in kinds.items()}, {k: token.id for k, (token, _) in kinds.items()})


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


def raw(url: str, target: str) -> int:
    """Status of a GET whose path is sent as it stands: no client straightens it."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return int(connection.makefile("rb").readline().split()[1])


def test_no_way_leads_out_of_a_link(closed: Closed):
    good, other = closed.link("mine@r1"), closed.link("theirs-1@r1")
    box = "/v1/volumes/theirs-1@r1/block"
    for target, statuses in {
        f"{good}/..{box}": {404},
        f"{good}/../..{box}": {404},
        f"{good}/%2e%2e{box}": {404},
        f"{good}%2f..{box}": {404},
        f"{good}/zarr/mine@r1.ome.zarr/../theirs-1@r1.ome.zarr/zarr.json": {404},
        f"{good}/zarr/mine@r1.ome.zarr/..%2f..%2ftheirs-1%2fr1%2fzarr.json": {404},
        f"{good}/{box}": {404},
        f"/{good}{box}": {401},
        f"/S{good[2:]}{box}": {401},
        f"{good}{other}{box}": {403},
        f"{good}/s/{box}": {403},
        f"{other}{good}{box}": {403},
        f"{good};{box}": {403},
        good: {404},
        f"{good}/healthz": {200},
        f"/healthz/..{box}": {401},
        f"/healthz/../{box}": {401},
        f"//healthz{box}": {401},
        f"/readyz%2f..{box}": {401},
        f"http://x{box}": {401, 404},
    }.items():
        assert raw(closed.url, target) in statuses, target


def test_the_page_under_a_link_leads_nowhere_else(closed: Closed):
    prefix = closed.link("mine@r1", "mine-labels@r1")
    page = closed.ask("GET", f"{prefix}/view/mine@r1")
    assert page.headers["referrer-policy"] == "same-origin"
    assert "mine-labels@r1" in page.text
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?/", page.text), "links of the page are relative"
    info = closed.ask("GET", f"{prefix}/v1/volumes/mine@r1").json()
    assert all(link.startswith(closed.url + prefix) for link in info["links"].values() if link)
    unpinned = closed.ask("GET", f"{prefix}/zarr/mine.ome.zarr/zarr.json")
    assert unpinned.status_code == 404
    assert f"{prefix}/zarr/mine@r1" in unpinned.headers["link"]
    picture = httpx.get(f"{closed.url}{prefix}/view/mine@r1/thumbnail", follow_redirects=True)
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/png")


def test_addresses_in_answers_are_the_public_ones_with_the_link(tmp_path: Path):
    with house_on(file_store(tmp_path), link_secret_key=SECRET, blocks_url="https://em.example/blocks/") as house:
        house.commit(Made(np.ones((5, 5, 5), "u1"), name="mine"))
        prefix = "/s/" + LinkKeys([SECRET]).sign(Link((VolumeRef("mine", 1),), int(time.time()) + 60))
        info = httpx.get(f"{house.url}{prefix}/v1/volumes/mine@r1").json()
        assert info["links"]["zarr"] == f"https://em.example/blocks{prefix}/zarr/mine@r1.ome.zarr"


def test_a_link_is_made_with_a_token_and_ends_with_it(closed: Closed):
    asked = {"volumes": ["mine"], "expires_seconds": 3600}
    made = closed.ask("POST", "/v1/links", "all", asked).json()
    assert made["volumes"] == ["mine@r1", "mine-labels@r1"]
    assert httpx.get(made["base"] + "/v1/volumes/mine-labels@r1/block").status_code == 200
    assert httpx.get(made["base"] + "/v1/volumes/theirs-1@r1").status_code == 403
    assert httpx.post(made["base"] + "/v1/links", json=asked).status_code == 403
    own = closed.ask("POST", "/v1/links", "mine", asked).json()
    assert own["volumes"] == ["mine@r1"], "labels its token may not read are not in it"
    ends = datetime.fromisoformat(made["expires_at"])
    assert timedelta(minutes=59) < ends - datetime.now(UTC) <= timedelta(hours=1)
    revoked = closed.link("mine@r1", token="late")
    assert closed.ask("GET", f"{revoked}/v1/volumes/mine@r1").json()["code"] == "link_refused"
    narrower = closed.link("mine@r1", token="theirs")
    assert closed.ask("GET", f"{narrower}/v1/volumes/mine@r1").status_code == 403, "no more than its token"


@pytest.mark.parametrize(
    "body", [{"volumes": []}, {"volumes": ["mine"], "expires_seconds": 10**9}, {"volumes": ["*"]}, {"volumes": ["mine"] * 40}]
)
def test_a_link_for_nothing_for_everything_or_for_ever_is_refused(closed: Closed, body: dict[str, Any]):
    assert closed.ask("POST", "/v1/links", "all", body).status_code == 400


def test_a_link_never_outlives_its_token(tmp_path: Path):
    soon = datetime.now(UTC) + timedelta(minutes=5)
    token, text = new_token("soon", ["*"], expires_at=soon)
    write(tmp_path / "tokens.json", [token])
    (tmp_path / "store").mkdir()
    with house_on(file_store(tmp_path / "store"), access_file=tmp_path / "tokens.json", link_secret_key=SECRET) as house:
        house.commit(Made(np.ones((5, 5, 5), "u1"), name="mine"))
        made = httpx.post(f"{house.url}/v1/links", json={"volumes": ["mine"]}, headers={"authorization": f"bearer {text}"}).json()
        assert datetime.fromisoformat(made["expires_at"]) <= soon


def test_where_no_link_can_be_signed_it_is_said_what_to_do(tmp_path: Path):
    with house_on(file_store(tmp_path)) as house:
        house.commit(Made(np.ones((5, 5, 5), "u1"), name="mine"))
        answer = httpx.post(f"{house.url}/v1/links", json={"volumes": ["mine"]})
        assert (answer.status_code, answer.json()["code"]) == (409, "links_off")
        assert "EMPORTER_LINK_SECRET_KEY" in answer.json()["hint"]
        assert httpx.get(f"{house.url}/s/x/v1/volumes").status_code == 404


def test_on_loopback_without_tokens_everything_is_open(tmp_path: Path):
    with house_on(file_store(tmp_path)) as house:
        made = house.commit(Made(np.ones((5, 5, 5), "u1"), name="mine"))
        answer = httpx.get(f"{house.url}/v1/volumes/{made.ref}/block")
        assert answer.status_code == 200
        assert "public" in answer.headers["cache-control"]


def test_what_may_be_kept_may_not_be_shared(closed: Closed):
    answer = closed.ask("GET", "/v1/volumes/mine@r1/block", "mine")
    assert "private" in answer.headers["cache-control"]
    assert "immutable" in answer.headers["cache-control"]


def test_a_browser_may_ask_before_it_sends_a_token(closed: Closed):
    answer = httpx.options(f"{closed.url}/v1/volumes/mine@r1/block")
    assert answer.status_code == 204
    assert "Authorization" in answer.headers["access-control-allow-headers"]


def test_tokens_are_read_again_when_their_file_changes(tmp_path: Path):
    file, other = tmp_path / "tokens.json", new_token("other", ["*"])
    (first, text), (second, late) = new_token("first", ["*"]), new_token("second", ["*"])
    write(file, [first, other[0]])
    (tmp_path / "store").mkdir()
    with house_on(file_store(tmp_path / "store"), access_file=file, link_secret_key=SECRET) as house:
        made = house.commit(Made(np.ones((5, 5, 5), "u1"), name="mine"))

        def status(token: str) -> int:
            return httpx.get(f"{house.url}/v1/volumes/mine", headers={"authorization": f"Bearer {token}"}).status_code

        def until(token: str, wanted: int) -> None:
            deadline = time.monotonic() + 30
            while status(token) != wanted:
                assert time.monotonic() < deadline
                time.sleep(0.05)

        link = httpx.post(
            f"{house.url}/v1/links", json={"volumes": ["mine"]}, headers={"authorization": f"Bearer {text}"}
        ).json()["base"]
        assert (status(text), status(late)) == (200, 401)
        assert httpx.get(f"{link}/v1/volumes/{made.ref}").status_code == 200
        write(file, [second, other[0]])
        until(late, 200)
        assert status(text) == 401
        assert httpx.get(f"{link}/v1/volumes/{made.ref}").json()["code"] == "link_refused"
        file.unlink()
        until(late, 401)
        write(file, [second])
        until(late, 200)


def test_a_spent_budget_is_429_until_the_period_ends(tmp_path: Path):
    box = "/v1/volumes/mine@r1/block?shape=10,10,10"
    token, text = new_token("small", ["*"], budget=Budget(bytes=2500, seconds=10**9))
    free, other = new_token("free", ["*"])
    write(tmp_path / "tokens.json", [token, free])
    (tmp_path / "store").mkdir()
    with house_on(file_store(tmp_path / "store"), access_file=tmp_path / "tokens.json", link_secret_key=SECRET) as house:
        house.commit(Made(np.ones((20, 20, 20), "u1"), name="mine"))

        def ask(path: str = box, who: str = text) -> httpx.Response:
            return httpx.get(house.url + path, headers={"authorization": f"Bearer {who}"})

        made = httpx.post(f"{house.url}/v1/links", json={"volumes": ["mine@r1"]}, headers={"authorization": f"Bearer {text}"})
        assert [ask().status_code for _ in range(3)] == [200, 200, 200]  # one that has begun is finished
        spent = ask()
        assert (spent.status_code, spent.headers["content-type"]) == (429, "application/problem+json")
        assert spent.json()["code"] == "budget_spent"
        assert 0 < int(spent.headers["retry-after"]) <= 10**9
        assert httpx.get(made.json()["base"] + box).status_code == 429, "links take from the token that made them"
        assert ask(who=other).status_code == 200
        assert ask("/healthz").status_code == 200


def test_a_link_may_have_a_budget_of_its_own(closed: Closed):
    prefix = closed.link("mine@r1", budget=Budget(bytes=1000, seconds=10**9))
    box = f"{prefix}/v1/volumes/mine@r1/block?shape=10,10,10"
    heads = [closed.ask("HEAD", f"{prefix}/zarr/mine@r1.ome.zarr/0/c/0/0/0").status_code for _ in range(3)]
    assert heads == [200, 200, 200], "what has no body costs nothing"
    assert [closed.ask("GET", box).status_code for _ in range(2)] == [200, 429]
    assert closed.ask("GET", closed.link("mine@r1") + "/v1/volumes/mine@r1/block").status_code == 200


def test_real_readers_read_through_a_link(closed: Closed):
    prefix = f"{closed.url}{closed.link('mine@r1')}"
    voxels = np.frombuffer(closed.ask("GET", "/v1/volumes/mine@r1/block", "mine").content, "u1").reshape(SHAPE)
    for spec in (
        {"driver": "zarr3", "kvstore": f"{prefix}/zarr/mine@r1.ome.zarr/0/"},
        {"driver": "zarr", "kvstore": f"{prefix}/zarr2/mine@r1.ome.zarr/0/"},
    ):
        assert np.array_equal(ts.open(spec, read=True).result().read().result(), voxels)
    precomputed = ts.open({"driver": "neuroglancer_precomputed", "kvstore": f"{prefix}/precomputed/mine@r1/"}, read=True).result()
    assert np.array_equal(precomputed.read().result()[..., 0].T, voxels)
    assert np.array_equal(zarr.open_group(f"{prefix}/zarr/mine@r1.ome.zarr", mode="r")["0"][:], voxels)
    assert np.array_equal(zarr.open_array(f"{prefix}/zarr2/mine@r1.ome.zarr/0", mode="r", zarr_format=2)[:], voxels)
    other = f"{closed.url}{closed.link('theirs-1@r1')}/zarr/mine@r1.ome.zarr/0/"
    with pytest.raises(ValueError, match="403"):
        ts.open({"driver": "zarr3", "kvstore": other}, read=True).result()


def test_a_removed_revision_is_410_to_those_who_might_have_read_it(closed: Closed):
    made = closed.house.commit(Made(np.ones((5, 5, 5), "u1"), name="theirs-gone"))
    bury(closed.house.objects, made.ref)
    assert closed.ask("GET", f"/v1/volumes/{made.ref}", "theirs").status_code == 410
    assert closed.ask("GET", f"/v1/volumes/{made.ref}", "mine").status_code == 403


async def test_many_at_once_can_not_all_begin_on_the_last_byte(closed: Closed):
    prefix = closed.link("mine@r1", budget=Budget(bytes=24_000, seconds=10**9))
    async with httpx.AsyncClient(base_url=closed.url + prefix, timeout=60) as client:
        for _ in range(2):
            await asyncio.gather(*(client.get("/v1/volumes/mine@r1/block") for _ in range(20)))
        assert (await client.get("/v1/volumes/mine@r1/block")).status_code == 429
