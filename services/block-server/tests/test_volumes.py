from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import pytest

from block_server.testing import House, Made, bury, house_on
from emporter_contracts import storage
from emporter_contracts.ids import VolumeRef
from emporter_contracts.plans import Caveat
from emporter_runtime.testing import file_store


def small(name: str, **differing) -> Made:
    return Made(np.arange(24**3, dtype="u2").reshape(24, 24, 24), name=name, **differing)


@pytest.fixture
def own(tmp_path: Path):
    """A house with no other volumes, that looks at the store every time."""
    with house_on(file_store(tmp_path), blocks_fresh_seconds=0) as house, httpx.Client(base_url=house.url) as web:
        yield house, web


def test_a_volume_says_what_it_is(house: House, web: httpx.Client):
    caveats = (Caveat(code="lossy", evidence="jpeg in the archive"),)
    made = house.commit(
        small("described", voxel_size_nm=(40.0, None, 8.0), source_origin=(1, 2, 3), caveats=caveats, description="a <b> phantom")
    )
    body = web.get(f"/v1/volumes/{made.name}").json()
    assert body | {"links": None, "levels": None, "statistics": None} == {
        "volume": "described", "revision": 1, "ref": "described@r1", "description": "a <b> phantom", "source": "inbox", "source_id": "described",
        "shape": [24, 24, 24], "dtype": "uint16", "axes": "zyx", "voxel_size_nm": [40.0, None, 8.0], "source_origin": [1, 2, 3],
        "chunk": [16, 16, 16], "shard": [32, 32, 32], "role": "image", "labels": [], "labels_of": None, "citation": [],
        "licence": {"spdx": "CC0-1.0", "url": None, "text": None, "known": True},
        "caveats": [{"code": "lossy", "evidence": "jpeg in the archive", "about": None}],
        "links": None, "levels": None, "statistics": None, "digest": made.digest, "managed": True, "voxels_sha256": None, "files": [],
    }  # fmt: skip
    assert body["levels"][1] == {
        "level": 1, "shape": [12, 12, 12], "chunk": [12, 12, 12], "shard": [12, 12, 12],
        "voxel_size_nm": [80.0, None, 16.0], "translation_nm": [60.0, None, 28.0], "factor": [2, 2, 2],
    }  # fmt: skip
    assert body["statistics"]["minimum"] == 0
    assert body["statistics"]["maximum"] == 24**3 - 1


def test_links_are_pinned_and_lead_somewhere(house: House, web: httpx.Client):
    made = house.commit(small("linked"))
    links = web.get(f"/v1/volumes/{made.name}").json()["links"]
    assert links["self"] == f"{house.url}/v1/volumes/linked@r1"
    assert links["catalog"] is None
    for name in ("self", "current", "block", "view"):
        assert web.get(links[name]).status_code == 200, name
    for path in (links["zarr"] + "/zarr.json", links["zarr2"] + "/.zattrs", links["precomputed"] + "/info"):
        assert web.get(path).status_code == 200
    assert web.post(links["blocks"], json={"shape": [1, 1, 1], "origins": [[0, 0, 0]]}).status_code == 200
    assert all("@r1" in links[name] for name in ("self", "block", "blocks", "zarr", "zarr2", "precomputed", "view"))


def test_links_use_the_public_bases(tmp_path: Path):
    with house_on(file_store(tmp_path), blocks_url="https://em.test/blocks/", catalog_url="https://em.test/catalog") as house:
        made = house.commit(small("public"))
        links = httpx.get(f"{house.url}/v1/volumes/{made.ref}").json()["links"]
        assert links["block"] == "https://em.test/blocks/v1/volumes/public@r1/block"
        assert links["catalog"] == "https://em.test/catalog/v1/volumes/public"
        assert httpx.get(f"{house.url}/v1/volumes").json()["volumes"][0]["links"] == links


def test_only_committed_volumes_that_were_not_removed_are_listed(own):
    house, web = own
    assert web.get("/v1/volumes").json() == {"volumes": [], "next": None}
    for name in ("a", "c", "d"):
        house.commit(small(name))
    house.commit(small("c", revision=2))
    bury(house.objects, VolumeRef("d", 1))
    house.objects.put_sync(storage.VOLUMES, storage.zarr_root("b", 1) + "0/zarr.json", b"{}")  # never committed
    house.objects.put_sync(storage.VOLUMES, "Not A Volume/commits/00000001.json", b"{}")
    listed = web.get("/v1/volumes").json()["volumes"]
    assert [v["ref"] for v in listed] == ["a@r1", "c@r2"]
    assert listed[0]["shape"] == [24, 24, 24]
    assert listed[0]["dtype"] == "uint16"


def test_pages_follow_each_other_without_gap_or_overlap(own):
    house, web = own
    names = sorted(f"v{k:02}" for k in range(7))
    for name in names:
        house.commit(small(name, halvings=()))
    seen, cursor = [], ""
    for _ in range(10):
        page = web.get("/v1/volumes", params={"limit": 3, "cursor": cursor}).json()
        seen += [v["volume"] for v in page["volumes"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert seen == names
    assert web.get("/v1/volumes?limit=7").json()["next"] is None
    for query in ("limit=0", "limit=1001", "cursor=..%2F"):
        assert web.get(f"/v1/volumes?{query}").status_code == 400


def test_an_image_lists_its_labels(own):
    house, web = own
    house.commit(small("image"))
    house.commit(small("cells", role="labels", labels_of="image"))
    house.commit(small("membranes", role="labels", labels_of="image@r1"))
    assert web.get("/v1/volumes/image@r1").json()["labels"] == ["cells", "membranes"]
    assert web.get("/v1/volumes/cells").json()["labels_of"] == "image"


def test_a_volume_whose_record_is_lost_is_still_listed(own):
    house, web = own
    house.commit(small("sick"))
    house.objects.put_sync(storage.VOLUMES, storage.record("sick", 1), b"{}")
    [listed] = web.get("/v1/volumes").json()["volumes"]
    assert (listed["ref"], listed["shape"]) == ("sick@r1", None)
    assert "can't be read" in web.get("/").text


def test_the_description_is_asked_for_again_and_saved_by_its_etag(house: House, web: httpx.Client):
    made = house.commit(small("asked-again"))
    answer = web.get(f"/v1/volumes/{made.ref}")
    assert answer.headers["cache-control"] == "no-cache"
    assert web.get(f"/v1/volumes/{made.ref}", headers={"if-none-match": answer.headers["etag"]}).status_code == 304


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [("nobody", 404, "volume_unknown"), ("nobody@r1", 404, "volume_unknown"), ("Nobody", 400, "invalid_request"), ("a@r0", 400, "invalid_request"), ("a@2", 400, "invalid_request")],
)  # fmt: skip
def test_a_name_that_is_no_volume_is_refused(web: httpx.Client, name: str, status: int, code: str):
    for route in (
        f"/v1/volumes/{name}",
        f"/v1/volumes/{name}/block",
        f"/v1/volumes/{name}/slice/z/0",
        f"/zarr/{name}.ome.zarr/zarr.json",
        f"/view/{name}",
    ):
        answer = web.get(route)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert answer.json()["hint"]


def test_every_route_and_problem_is_in_the_openapi_document(web: httpx.Client):
    document = web.get("/openapi.json").json()
    assert set(document["paths"]) >= {
        "/v1/volumes", "/v1/volumes/{v}", "/v1/volumes/{v}/block", "/v1/volumes/{v}/slice/{axis}/{index}", "/zarr/{v}.ome.zarr/{key}", "/view/{v}",
    }  # fmt: skip
    block = document["paths"]["/v1/volumes/{v}/block"]["get"]
    refusals = {"400", "401", "403", "404", "406", "409", "410", "413", "415", "416", "429", "451", "502", "503"}
    assert set(block["responses"]) == {"200", "304"} | refusals
    assert "X-Emporter-Shape" in block["responses"]["200"]["headers"]
    assert {"VolumeInfo", "VolumeList", "Problem"} <= set(document["components"]["schemas"])


def test_no_metric_is_labelled_by_volume(house: House, web: httpx.Client):
    made = house.commit(small("unmeasured"))
    web.get(f"/v1/volumes/{made.ref}/block?shape=1,1,1")
    web.get("/somewhere/unmeasured")
    text = web.get("/metrics").text
    assert 'emporter_blocks_requests_answered_total{method="GET",route="/v1/volumes/{v}/block",status="200"}' in text
    assert "unmeasured" not in text
