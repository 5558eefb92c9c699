"""The operator's rules at access: on every route of a volume, by licence, embargo, purpose and caller, at no cost per block."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from block_server.app import create_app
from block_server.policing import AccessRules
from block_server.settings import BlockServerSettings
from block_server.testing import House, Made, house_on
from emporter_contracts import storage
from emporter_contracts.ids import VolumeRef
from emporter_contracts.records import MetadataRecord
from emporter_runtime.objects import Objects, json_bytes
from emporter_runtime.policy.documents import parse_document
from emporter_runtime.policy.errors import PolicyFileError
from emporter_runtime.policy.judging import Policy
from emporter_runtime.testing import file_store

EMBARGO = """
rules:
  - name: embargo
    at: [access]
    when: embargo_until != null && now < embargo_until && request.purpose != "review"
    then: deny
    status: 451
    message: not before the paper is out
"""
NOT_FOR_SALE = """
rules:
  - {name: non-commercial, at: [access], when: 'request.purpose.startsWith("commercial")', then: deny}
"""
BLOCK = "/v1/volumes/brain@r1/block?origin=0,0,0&shape=4,4,4"
BOX = {"shape": [4, 4, 4], "origins": [[0, 0, 0]]}
BODIES: dict[str, Any] = {
    "/v1/volumes/{v}/blocks": BOX,
    "/v1/volumes/{v}/sample": {"n": 1, "shape": [4, 4, 4], "seed": 1},
    "/v1/blocks": {"volumes": [{"volume": "brain@r1"}], **BOX},
}
PARTS = {
    "v": "brain@r1", "axis": "z", "index": "1", "key": "zarr.json", "scale": "0", "chunk": "0-8_0-8_0-8", "collection": "c",
    "experiment": "e", "resolution": "0", "x": "0:4", "y": "0:4", "z": "0:4", "uuid": "n", "size": "4_4_4", "offset": "0_0_0",
}  # fmt: skip
QUERIES = {
    "/v1/volumes/{v}/block": "?origin=0,0,0&shape=4,4,4",
    "/api/node/{uuid}/{v}/specificblocks": "?compression=uncompressed&blocks=0,0,0",
}
TOKENLESS = {"/v1/links"}
"""Of which the test with tokens speaks: without keys this server signs nothing."""


def routes_of_a_volume(house: House) -> list[tuple[str, str]]:
    paths = create_app(BlockServerSettings(store_url=house.settings.store_url)).openapi()["paths"]
    ours = {path: said for path, said in paths.items() if ("{v}" in path or path in BODIES) and path not in TOKENLESS}
    return [(method.upper(), path) for path, said in ours.items() for method in said if method != "head"]


def the_policy(folder: Path, text: str) -> Path:
    path = folder / "policy.yaml"
    path.write_text(text)
    return path


def put_record(objects: Objects, **fields: Any) -> None:
    """A record of the committed volume that says something else besides."""
    key = storage.record("brain", 1)
    record = MetadataRecord.model_validate_json(objects.get_sync(storage.VOLUMES, key))
    objects.put_sync(storage.VOLUMES, key, json_bytes(record.model_copy(update=fields)))


def a_house(folder: Path, text: str, **said: Any) -> Any:
    return house_on(file_store(folder / "store"), policy=the_policy(folder, text), **said)


@pytest.fixture
def under_embargo(tmp_path: Path) -> Iterator[House]:
    with a_house(tmp_path, EMBARGO) as house:
        house.commit(Made(np.arange(16**3, dtype=np.uint8).reshape(16, 16, 16), "brain"))
        put_record(house.objects, embargo_until=datetime.now(UTC) + timedelta(days=30))
        yield house


def test_an_embargo_is_451_that_names_the_rule(under_embargo: House) -> None:
    answer = httpx.get(under_embargo.url + BLOCK)
    assert (answer.status_code, answer.headers["content-type"]) == (451, "application/problem+json")
    assert answer.json()["code"] == "policy_denied"
    assert "embargo" in answer.json()["title"]
    assert "not before the paper is out" in answer.json()["title"]
    assert answer.headers["emporter-policy-rule"] == "embargo"
    assert answer.headers["cache-control"] == "no-store"


def test_no_route_of_a_volume_goes_round_the_rules(under_embargo: House) -> None:
    routes = routes_of_a_volume(under_embargo)
    assert len(routes) > 10
    for method, path in routes:
        url = under_embargo.url + re.sub(r"{(\w+)(:path)?}", lambda part: PARTS.get(part[1], "0"), path) + QUERIES.get(path, "")
        refused = httpx.request(method, url, json=BODIES.get(path) if method == "POST" else None)
        assert refused.status_code == 451, (method, path, refused.text[:200])


def test_a_purpose_by_header_or_query_opens_what_a_rule_opens_for_it(under_embargo: House) -> None:
    by_header = httpx.get(under_embargo.url + BLOCK, headers={"Emporter-Purpose": "review"})
    by_query = httpx.get(under_embargo.url + BLOCK + "&purpose=review")
    assert (by_header.status_code, by_query.status_code) == (200, 200)
    assert by_header.content == by_query.content
    assert "Emporter-Purpose" in by_header.headers["vary"]


def test_a_purpose_that_is_no_line_of_text_is_400(under_embargo: House) -> None:
    assert httpx.get(under_embargo.url + BLOCK, headers={"Emporter-Purpose": "x" * 200}).status_code == 400


def test_an_embargo_that_is_over_is_none(tmp_path: Path) -> None:
    with a_house(tmp_path, EMBARGO) as house:
        house.commit(Made(np.zeros((8, 8, 8), np.uint8), "brain"))
        put_record(house.objects, embargo_until=datetime.now(UTC) - timedelta(seconds=1))
        assert httpx.get(house.url + BLOCK).status_code == 200


def test_a_rule_that_cant_be_evaluated_refuses_and_says_so(tmp_path: Path) -> None:
    broken = "rules: [{name: broken, at: [access], when: 'volume.shape[7] > 1', then: warn}]"
    with a_house(tmp_path, broken) as house:
        house.commit(Made(np.zeros((8, 8, 8), np.uint8), "brain"))
        answer = httpx.get(house.url + BLOCK)
    assert (answer.status_code, answer.headers["emporter-policy-rule"]) == (403, "broken")
    assert "could not be evaluated" in answer.json()["title"]


def test_without_rules_at_access_nothing_is_said_or_asked(tmp_path: Path) -> None:
    elsewhere = "rules: [{name: elsewhere, at: [request], when: 'true', then: deny}]"
    with a_house(tmp_path, elsewhere) as house:
        house.commit(Made(np.zeros((8, 8, 8), np.uint8), "brain"))
        answer = httpx.get(house.url + BLOCK, headers={"Emporter-Purpose": "x" * 200})
    assert answer.status_code == 200
    assert "Emporter-Purpose" not in answer.headers["vary"]


def test_a_thousand_blocks_are_judged_once(tmp_path: Path) -> None:
    told = "rules: [{name: told, at: [access], when: 'true', then: warn}]"
    labels = {"point": "access", "rule": "told", "outcome": "warn"}
    before = REGISTRY.get_sample_value("emporter_policy_decisions_total", labels) or 0
    with a_house(tmp_path, told, blocks_fresh_seconds=3600) as house, httpx.Client(base_url=house.url) as client:
        house.commit(Made(np.zeros((8, 8, 8), np.uint8), "brain"))
        for _ in range(100):
            assert client.get(BLOCK).status_code == 200
    assert REGISTRY.get_sample_value("emporter_policy_decisions_total", labels) == before + 1


def test_a_judgement_is_made_anew_when_it_is_old(tmp_path: Path) -> None:
    with a_house(tmp_path, EMBARGO, blocks_fresh_seconds=0) as house:
        house.commit(Made(np.zeros((8, 8, 8), np.uint8), "brain"))
        record = MetadataRecord.model_validate_json(house.objects.get_sync(storage.VOLUMES, storage.record("brain", 1)))
    at = datetime(2030, 1, 1, tzinfo=UTC)
    days = iter((-1, 1))
    rules = AccessRules(Policy(parse_document(EMBARGO)), 0, lambda: at + timedelta(days=next(days)))
    under = record.model_copy(update={"embargo_until": at})
    assert rules.judge(VolumeRef("brain", 1), under, "", "").denied is not None
    assert rules.judge(VolumeRef("brain", 1), under, "", "").denied is None


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=120))
def test_whatever_somebody_says_it_is_for_the_answer_is_a_block_or_a_refusal(served: House, purpose: str) -> None:
    answer = httpx.get(served.url + BLOCK, params={**dict(httpx.URL(BLOCK).params), "purpose": purpose})
    refused = purpose.strip().startswith("commercial")
    assert answer.status_code in {403 if refused else 200, 400}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with a_house(tmp_path_factory.mktemp("served"), NOT_FOR_SALE) as house:
        house.commit(Made(np.zeros((8, 8, 8), np.uint8), "brain"))
        yield house


def test_a_policy_that_is_wrong_stops_the_server_with_line_and_rule(tmp_path: Path) -> None:
    path = the_policy(tmp_path, "rules:\n  - name: typo\n    at: [access]\n    when: volume.license == ''\n    then: deny\n")
    with pytest.raises(PolicyFileError, match=r"policy\.yaml:4: rule typo: when: volume has no license"):
        create_app(BlockServerSettings(store_url=f"file://{tmp_path}", policy=path))
