"""`emporter set` on a real stack: bus, store, catalog and block-server show the correction, and the revision before as it was."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tensorstore as ts
import tifffile
import zarr
from numpy.typing import NDArray
from ome_zarr_models.v05 import Image

from emporter.testing import RunningStack, running_stack
from emporter_contracts.commands import IngestRequest
from emporter_contracts.jobs import JobState

SHAPE = (70, 90, 130)
WRONG, RIGHT = (50.0, 8.0, 8.0), (40.0, 4.0, 5.0)


@dataclass(frozen=True)
class Stored:
    """A volume that was ingested with a wrong voxel size."""

    stack: RunningStack
    name: str
    voxels: NDArray[Any]

    def blocks(self, path: str, **params: Any) -> httpx.Response:
        return httpx.get(f"{self.stack.urls.blocks}{path}", params=params, timeout=60)

    def catalog(self, path: str, **params: Any) -> Any:
        answer = httpx.get(f"{self.stack.urls.catalog}{path}", params=params, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def post(self, body: dict[str, Any], name: str | None = None) -> httpx.Response:
        return httpx.post(f"{self.stack.urls.catalog}/v1/volumes/{name or self.name}/revisions", json=body, timeout=60)

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "emporter.cli.main", "--stack", str(self.stack.files.root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module", params=["file", "s3"])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    with running_stack(tmp_path_factory.mktemp("set") / "stack", store=request.param) as running:
        yield running


def ingested(stack: RunningStack, folder: Path, name: str) -> Stored:
    voxels = np.random.default_rng(len(name)).integers(0, 255, SHAPE, np.uint8)
    path = folder / f"{name}.tif"
    tifffile.imwrite(path, voxels, photometric="minisblack")
    client = stack.client()
    request = client.upload([path]).request()
    status = client.wait(client.ingest(IngestRequest(**{**request.model_dump(), "voxel_size_nm": WRONG})).job)
    assert status.state == JobState.COMPLETE, status.error
    return Stored(stack, status.volumes[0].volume, voxels)


@pytest.fixture(scope="module")
def stored(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    return ingested(stack, tmp_path_factory.mktemp("first"), "first")


@pytest.fixture(scope="module")
def before(stored: Stored) -> dict[str, bytes]:
    """What r1 answers while it is current."""
    return {path: stored.blocks(path).content for path in paths(f"{stored.name}@r1")}


@pytest.fixture(scope="module")
def corrected(stored: Stored, before: dict[str, bytes]) -> Stored:
    del before
    done = stored.cli("set", stored.name, "--voxel-size-nm", "40,4,5", "--licence", "CC0-1.0", "--reason", "calibrated", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["ref"], said["revises"], said["existing"]) == (f"{stored.name}@r2", 1, False)
    return stored


def paths(ref: str) -> list[str]:
    return [
        f"/zarr/{ref}.ome.zarr/zarr.json",
        f"/zarr/{ref}.ome.zarr/0/zarr.json",
        f"/zarr/{ref}.ome.zarr/0/c/0/0/0",
        f"/zarr2/{ref}.ome.zarr/.zattrs",
        f"/zarr2/{ref}.ome.zarr/0/0/0/0",
        f"/precomputed/{ref}/info",
        f"/v1/volumes/{ref}/block?origin=3,5,7&shape=40,50,60",
        f"/v1/volumes/{ref}/slice/z/5",
    ]


def test_the_revision_before_answers_byte_for_byte_what_it_answered(corrected: Stored, before: dict[str, bytes]) -> None:
    assert {path: corrected.blocks(path).content for path in before} == before


def test_zarr_python_opens_a_valid_ome_zarr_of_the_new_scale(corrected: Stored) -> None:
    url = f"{corrected.stack.urls.blocks}/zarr/{corrected.name}@r2.ome.zarr"
    image = Image.from_zarr(zarr.open_group(url, mode="r"))
    multiscale = image.ome_attributes.multiscales[0]
    assert tuple(multiscale.datasets[0].coordinateTransformations[0].scale) == RIGHT
    assert [axis.unit for axis in multiscale.axes] == ["nanometer"] * 3
    assert np.array_equal(zarr.open_array(f"{url}/0", mode="r")[:], corrected.voxels)


def test_tensorstore_reads_every_voxel_through_the_corrected_revision(corrected: Stored) -> None:
    url = f"{corrected.stack.urls.blocks}/zarr/{corrected.name}@r2.ome.zarr/0/"
    array = ts.open({"driver": "zarr3", "kvstore": url, "fill_missing_data_reads": False}, open=True, read=True).result()
    assert np.array_equal(array.read().result(), corrected.voxels)


def test_the_views_of_others_show_the_new_scale_and_the_same_voxels(corrected: Stored) -> None:
    blocks = corrected.stack.urls.blocks
    attributes = corrected.blocks(f"/zarr2/{corrected.name}@r2.ome.zarr/.zattrs").json()
    assert tuple(attributes["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"]) == RIGHT
    spec = {"driver": "zarr", "kvstore": f"{blocks}/zarr2/{corrected.name}@r2.ome.zarr/0/"}
    assert np.array_equal(ts.open(spec, open=True, read=True).result().read().result(), corrected.voxels)
    info = corrected.blocks(f"/precomputed/{corrected.name}@r2/info").json()
    assert tuple(info["scales"][0]["resolution"]) == RIGHT[::-1]
    spec = {"driver": "neuroglancer_precomputed", "kvstore": f"{blocks}/precomputed/{corrected.name}@r2/"}
    other = ts.open(spec, open=True, read=True).result().read().result()
    assert np.array_equal(other[..., 0].transpose(2, 1, 0), corrected.voxels)


def test_blocks_of_the_plain_name_say_the_new_voxel_size(corrected: Stored) -> None:
    answer = corrected.blocks(f"/v1/volumes/{corrected.name}/block", origin="3,5,7", shape="4,5,6")
    assert answer.content == corrected.voxels[3:7, 5:10, 7:13].tobytes()
    assert answer.headers["x-emporter-revision"] == "2"
    assert [float(v) for v in answer.headers["x-emporter-voxel-size-nm"].split(",")] == list(RIGHT)
    described = corrected.blocks(f"/v1/volumes/{corrected.name}").json()
    assert (described["ref"], tuple(described["voxel_size_nm"])) == (f"{corrected.name}@r2", RIGHT)
    old = corrected.blocks(f"/v1/volumes/{corrected.name}@r1").json()
    assert (tuple(old["voxel_size_nm"]), old["digest"]) == (WRONG, described["digest"])
    in_nm = corrected.blocks(f"/v1/volumes/{corrected.name}/block", origin_nm="120,20,35", shape_nm="160,20,30")
    assert in_nm.content == corrected.voxels[3:7, 5:10, 7:13].tobytes()
    sample = httpx.post(
        f"{corrected.stack.urls.blocks}/v1/volumes/{corrected.name}/sample",
        json={"n": 3, "shape": [8, 8, 8], "seed": 1, "min_foreground": 0.1},
        timeout=60,
    )
    assert sample.status_code == 200
    assert corrected.blocks(f"/view/{corrected.name}").status_code == 200


def test_the_catalog_shows_the_correction_and_what_was_said_before(corrected: Stored) -> None:
    record = corrected.catalog(f"/v1/volumes/{corrected.name}")
    assert (record["revision"], tuple(record["metadata"]["core"]["voxel_size_nm"])) == (2, RIGHT)
    (correction,) = record["metadata"]["provenance"]["corrections"]
    assert correction["before"]["voxel_size_nm"] == {"nm": list(WRONG), "said_by": ["user"] * 3}
    assert (correction["reason"], record["licence"]["spdx"]) == ("calibrated", "CC0-1.0")
    (row,) = [r for r in corrected.catalog("/v1/volumes")["items"] if r["volume"] == corrected.name]
    assert (row["revision"], tuple(row["voxel_size_nm"]), row["licence"]) == (2, RIGHT, "CC0-1.0")
    assert tuple(corrected.catalog(f"/v1/volumes/{corrected.name}@r1")["metadata"]["core"]["voxel_size_nm"]) == WRONG
    lineage = corrected.catalog(f"/v1/volumes/{corrected.name}/lineage")
    edge = {"from": f"volume:{corrected.name}@r1", "to": f"volume:{corrected.name}@r2", "kind": "corrected_as"}
    assert edge in lineage["edges"]
    assert f"run:{corrected.name}@r2" not in {node["id"] for node in lineage["nodes"]}
    job = corrected.catalog(f"/v1/jobs/{corrected.name}")
    assert (job["state"], job["revision"]) == ("complete", 1)

    def told() -> bool:
        events = corrected.catalog(f"/v1/volumes/{corrected.name}/events")["items"]
        return any(e["revision"] == 2 and "volume_complete" in e["type"] for e in events)

    corrected.stack.until(told, "the event of the correction is in the history")


def test_the_corrected_revision_is_verified(corrected: Stored) -> None:
    done = corrected.cli("verify", f"{corrected.name}@r2", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(finding["well"] for finding in json.loads(done.stdout))


def test_what_can_not_be_is_refused(corrected: Stored) -> None:
    for body in (
        {"voxel_size_nm": [-1, 4, 4]}, {"voxel_size_nm": [0, 4, 4]}, {"voxel_size_nm": [1e9, 4, 4]}, {"voxel_size_nm": [4, 4]},
        {"voxel_size": [4, 4, 4]}, {}, {"reason": "nothing else"}, {"name": ""}, {"licence": 5}, {"voxel_size_nm": ["NaN", 4, 4]},
    ):  # fmt: skip
        answer = corrected.post(body)
        assert (answer.status_code, answer.headers["content-type"]) in {
            (400, "application/problem+json"), (422, "application/problem+json"),
        }, (body, answer.text)  # fmt: skip
    unknown = corrected.post({"name": "x"}, "url-nothing")
    assert (unknown.status_code, "there is no volume url-nothing" in unknown.text) == (404, True)
    done = corrected.cli("set", "url-nothing", "--name", "x")
    assert (done.returncode, "there is no volume url-nothing" in done.stderr) == (2, True), done.stderr
    stale = corrected.post({"name": "x"}, f"{corrected.name}@r1")
    assert (stale.status_code, "not current" in stale.text) == (409, True)
    again = corrected.post({"voxel_size_nm": RIGHT})
    assert (again.status_code, again.json()["ref"]) == (200, f"{corrected.name}@r2")


def test_two_at_once_lose_nothing_and_a_later_ingest_takes_the_next_number(stack: RunningStack, tmp_path: Path) -> None:
    volume = ingested(stack, tmp_path, "contested")
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda n: volume.post({"description": f"said by {n}", "by": f"user {n}"}), range(4)))
    assert {a.status_code for a in answers} <= {201, 409}
    made = sorted(a.json()["revision"] for a in answers if a.status_code == 201)
    assert made
    assert all(a.json()["code"] == "conflict" for a in answers if a.status_code == 409)
    current = volume.catalog(f"/v1/volumes/{volume.name}")
    assert [c["revises"] for c in current["metadata"]["provenance"]["corrections"]] == list(range(1, current["revision"]))
    client = stack.client()
    request = IngestRequest.model_validate(json.loads(stack_request(volume)))
    status = client.wait(client.ingest(IngestRequest(**{**request.model_dump(), "force": "convert"})).job)
    assert (status.state, status.revision) == (JobState.COMPLETE, current["revision"] + 1)
    assert client.volume(volume.name).ref.revision == status.revision


def stack_request(volume: Stored) -> bytes:
    import asyncio

    from emporter_contracts import storage

    found = asyncio.run(volume.stack.objects().get(storage.RAW, storage.request(volume.name, 1)))
    return json.dumps(json.loads(found)["request"]).encode()


def test_what_shows_arrays_keeps_them_and_the_last_takes_them_along(stack: RunningStack, tmp_path: Path) -> None:
    volume = ingested(stack, tmp_path, "removed")
    assert volume.post({"voxel_size_nm": RIGHT, "by": "ada"}).status_code == 201
    assert volume.cli("rm", f"{volume.name}@r1", "--yes").returncode == 0
    assert volume.blocks(f"/v1/volumes/{volume.name}@r2/block", shape="70,90,130").content == volume.voxels.tobytes()
    stack.until(lambda: volume.blocks(f"/v1/volumes/{volume.name}@r1").status_code == 410, "the removed revision is gone")
    assert volume.cli("gc", "--yes").returncode == 0
    assert volume.cli("reconcile").returncode == 0
    assert volume.cli("verify", f"{volume.name}@r2").returncode == 0
    assert volume.cli("rm", f"{volume.name}@r2", "--yes").returncode == 0
    left = volume.cli("rm", volume.name, "--yes", "--json")
    assert json.loads(left.stdout)["objects"] == 0
