"""Links to a volume that is read where it lies: each one that is given works, and what is not given is said with its reason."""

from __future__ import annotations

import json
import re

import httpx
import numpy as np
import pytest
import tensorstore as ts

from emporter.cli.main import run
from emporter_archives import arrays
from emporter_contracts.ids import VolumeRef
from emporter_testing.places import Place, noise, served


def told(
    place: Place, ref: VolumeRef, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[dict[str, str], str]:
    """The lines of `emporter link`, and what it says beside them."""
    monkeypatch.setenv("EMPORTER_BLOCKS_URL", place.house.url)
    assert run(["link", str(ref), "--at", "1,2,3", "--json"]) == 0
    said = capsys.readouterr()
    return json.loads(said.out[said.out.index("{") :]), said.err


def test_only_what_opens_it_gets_a_line_and_the_rest_a_reason(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    voxels = noise((10, 12, 14), "uint8")
    ref = place.register(served(place, "files", "precomputed", voxels))
    lines, beside = told(place, ref, monkeypatch, capsys)
    assert set(lines) == {"page", "neuroglancer", "webknossos", "tensorstore"}
    assert lines["page"] == f"{place.house.url}/view/{ref}#z=1&y=2&x=3"
    assert httpx.get(lines["page"]).status_code == 200
    for tool in ("neuroglancer", "webknossos"):
        base = lines[tool].removeprefix("precomputed://").partition(" ")[0]
        assert httpx.get(f"{base}/info").json()["scales"][0]["size"] == [14, 12, 10], tool
    match = re.search(r"open\((.*)\)\.result", lines["tensorstore"])
    assert match is not None
    found = ts.open(json.loads(match[1])).result().read().result()
    np.testing.assert_array_equal(found[..., 0].transpose(), voxels)
    assert "napari and Fiji" in beside
    assert f"emporter ingest {ref.volume}" in beside


@pytest.mark.parametrize(("dtype", "reason"), [("uint8", "needs its voxel size"), ("float64", "knows no float64")])
def test_what_precomputed_can_not_say_has_its_page_alone(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], dtype: str, reason: str
) -> None:
    root = place.put_files(f"linked-{dtype}", arrays.zarr2(np.ones((10, 12, 14), dtype)))
    ref = place.register(root, voxel_size_nm=(40.0, 8.0, 8.0 if dtype == "float64" else None))
    lines, beside = told(place, ref, monkeypatch, capsys)
    assert set(lines) == {"page"}
    assert httpx.get(lines["page"]).status_code == 200
    assert reason in beside


def test_no_link_of_a_description_is_refused(place: Place) -> None:
    ref = place.register(served(place, "files", "n5", noise((10, 12, 14), "uint8")))
    for links in (place.info(ref)["links"], place.get("/v1/volumes", limit=1000).json()["volumes"][-1]["links"]):
        assert (links["zarr"], links["zarr2"]) == (None, None)
        assert httpx.get(links["precomputed"] + "/info").status_code == 200
