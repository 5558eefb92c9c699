"""Links and budgets: where they lead, when they end, and that no way leads around them."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import tensorstore as ts
import zarr

from block_server.testing import Made, bury, house_on
from block_server.testing_access import SECRET, SHAPE, Closed, closed_house, write
from emporter_contracts.ids import VolumeRef
from emporter_runtime.access import Budget
from emporter_runtime.access_links import Link, LinkKeys
from emporter_runtime.access_tokens import new_token
from emporter_runtime.testing import file_store


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Closed]:
    with closed_house(tmp_path_factory.mktemp("closed")) as closed:
        yield closed


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
    write(tmp_path / "tokens.json", token)
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
    write(file, first, other[0])
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
        write(file, second, other[0])
        until(late, 200)
        assert status(text) == 401
        assert httpx.get(f"{link}/v1/volumes/{made.ref}").json()["code"] == "link_refused"
        file.unlink()
        until(late, 401)
        write(file, second)
        until(late, 200)


def test_a_spent_budget_is_429_until_the_period_ends(tmp_path: Path):
    box = "/v1/volumes/mine@r1/block?shape=10,10,10"
    token, text = new_token("small", ["*"], budget=Budget(bytes=2500, seconds=10**9))
    free, other = new_token("free", ["*"])
    write(tmp_path / "tokens.json", token, free)
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
