"""Remote arrays through the whole path: what a block gives is what the archive stores, and where it lies in the world."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from emporter.testing import RunningStack, running_stack
from emporter_archives import arrays, hemibrain, openorganelle
from emporter_archives.hemibrain import HemibrainServer
from emporter_archives.s3 import S3Server
from emporter_archives.server import FileServer
from emporter_contracts.commands import IngestRequest, RandomRegion, Region, Select
from emporter_contracts.jobs import JobState, JobStatus


@dataclass
class Archives:
    """A stack, and the archives it was told of."""

    stack: RunningStack
    bucket: S3Server
    flyem: HemibrainServer
    web: FileServer

    def ingest(self, source: str, source_id: str, **fields: Any) -> tuple[JobStatus, str]:
        """The ended job and its one volume."""
        client = self.stack.client()
        status = client.wait(client.ingest(IngestRequest(source=source, source_id=source_id, **fields)).job)
        assert status.state == JobState.COMPLETE, status.error
        (volume,) = client.volumes_of(status.job)
        return status, volume

    def voxels(self, volume: str, shape: tuple[int, ...]) -> NDArray[Any]:
        return self.stack.client().block(volume, (0, 0, 0), shape)  # type: ignore[arg-type]

    def level(self, volume: str, number: int) -> tuple[list[float], list[float]]:
        """Scale and translation of a level in nm, as the stored OME-Zarr says them."""
        group = httpx.get(f"{self.stack.urls.blocks}/zarr/{volume}.ome.zarr/zarr.json", timeout=30).json()
        scale, shift = group["attributes"]["ome"]["multiscales"][0]["datasets"][number]["coordinateTransformations"]
        return scale["scale"], shift["translation"]


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archives]:
    with S3Server() as bucket, HemibrainServer() as flyem, FileServer() as web:
        openorganelle.serve(bucket)
        env = {
            "EMPORTER_OPENORGANELLE_ENDPOINT": bucket.url(""),
            "EMPORTER_HEMIBRAIN_BASE_URL": flyem.base,
            "EMPORTER_HEMIBRAIN_DVID_URL": flyem.dvid,
        }
        with running_stack(tmp_path_factory.mktemp("stack"), env=env) as stack:
            yield Archives(stack, bucket, flyem, web)


def test_openorganelle_keeps_negative_voxels_scale_and_offset(archives: Archives) -> None:
    _, volume = archives.ingest("openorganelle", openorganelle.DATASET)
    em = openorganelle.em()
    assert em.min() < 0
    np.testing.assert_array_equal(archives.voxels(volume, em.shape), em)
    record = archives.stack.record(volume)["metadata"]
    assert record["core"]["voxel_size_nm"] == [2.96, 4.0, 4.0]
    assert record["provenance"]["voxel_size"]["said_by"] == ["file", "file", "file"]
    assert archives.level(volume, 0) == ([2.96, 4.0, 4.0], [0.0, 0.0, 0.0])


def test_a_coarser_level_lies_where_the_archive_says(archives: Archives) -> None:
    _, volume = archives.ingest("openorganelle", openorganelle.DATASET, select=Select(level=1))
    np.testing.assert_array_equal(archives.voxels(volume, (35, 50, 45)), openorganelle.em()[::2, ::2, ::2])
    scale, shift = archives.level(volume, 0)
    assert scale == pytest.approx([5.92, 8.0, 8.0])
    assert shift == pytest.approx([1.48, 2.0, 2.0])


def test_a_region_fetches_its_chunks_only_and_says_where_it_was_cut(archives: Archives) -> None:
    folder = f"/{archives.bucket.bucket}/{openorganelle.DATASET}/{openorganelle.DATASET}.zarr/recon-2/em/fibsem-int16"
    chunks = {f"{folder}/s0/{z}/{y}/{x}" for z in range(2) for y in range(2) for x in range(2)}
    archives.bucket.sent.clear()
    region = Region(origin=(3, 66, 5), shape=(50, 30, 40))
    _, volume = archives.ingest("openorganelle", openorganelle.DATASET, region=region, force="fetch")
    np.testing.assert_array_equal(archives.voxels(volume, (50, 30, 40)), openorganelle.em()[3:53, 66:96, 5:45])
    assert {path for path in chunks if archives.bucket.sent[path]} == {f"{folder}/s0/0/1/0"}
    assert archives.stack.record(volume)["metadata"]["core"]["source_origin"] == [3, 66, 5]
    scale, shift = archives.level(volume, 0)
    assert shift == pytest.approx([3 * 2.96, 66 * 4.0, 5 * 4.0])
    assert scale == [2.96, 4.0, 4.0]


def test_a_random_crop_of_hemibrain_equals_the_decoders_output_and_is_lossy(archives: Archives) -> None:
    random = RandomRegion(shape=(20, 40, 50), seed=7)
    _, volume = archives.ingest("hemibrain", "em", random_region=random)
    record = archives.stack.record(volume)
    z, y, x = record["metadata"]["core"]["source_origin"]
    decoder = arrays.decoded(hemibrain.jpeg(), "neuroglancer_precomputed")[..., 0].T
    np.testing.assert_array_equal(archives.voxels(volume, (20, 40, 50)), decoder[z : z + 20, y : y + 40, x : x + 50])
    assert "lossy" in {caveat["code"] for caveat in record["caveats"]}
    drawn = record["additional_metadata"]["hemibrain_metadata"]["random_region"]
    assert (drawn["seed"], drawn["origin"]) == (7, [z, y, x])
    assert drawn["draws"]


def test_labels_of_hemibrain_are_exact_to_64_bits(archives: Archives) -> None:
    _, volume = archives.ingest("hemibrain", "segmentation")
    np.testing.assert_array_equal(archives.voxels(volume, hemibrain.SHAPE), hemibrain.neurons())
    assert archives.stack.record(volume)["metadata"]["core"]["role"] == "labels"


def test_dvid_gives_the_same_voxels_without_loss(archives: Archives) -> None:
    region = Region(origin=(10, 20, 30), shape=(33, 44, 55))
    _, volume = archives.ingest("hemibrain", "dvid/grayscale", region=region)
    np.testing.assert_array_equal(archives.voxels(volume, (33, 44, 55)), hemibrain.em()[10:43, 20:64, 30:85])
    record = archives.stack.record(volume)
    assert "lossy" not in {caveat["code"] for caveat in record["caveats"]}
    assert record["metadata"]["core"]["voxel_size_nm"] == [8.0, 8.0, 8.0]


def test_a_precomputed_volume_with_an_offset_is_asked_for_in_its_own_index(archives: Archives) -> None:
    data = hemibrain.em((30, 40, 50))
    url = arrays.put(archives.web, "/offset", arrays.precomputed(data, offset=(100, 200, 300), resolution=(40, 8, 8)))
    region = Region(origin=(105, 210, 320), shape=(20, 25, 30))
    _, volume = archives.ingest("url", f"precomputed://{url}", region=region)
    np.testing.assert_array_equal(archives.voxels(volume, (20, 25, 30)), data[5:25, 10:35, 20:50])
    assert archives.stack.record(volume)["metadata"]["core"]["source_origin"] == [105, 210, 320]
    assert archives.level(volume, 0)[1] == [105 * 40.0, 210 * 8.0, 320 * 8.0]


@pytest.mark.parametrize("kind", ["n5", "zarr2", "zarr3"])
def test_a_root_by_its_url_becomes_a_volume(archives: Archives, kind: str) -> None:
    data = openorganelle.em((33, 44, 55), seed=2)
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    tree = {
        "n5": lambda: arrays.n5(data, (16, 16, 16), {"type": "gzip", "level": 1, "useZlib": False}),
        "zarr2": lambda: arrays.zarr2(data, order="F", compressor={"id": "zlib", "level": 1}),
        "zarr3": lambda: arrays.zarr3(data, [little, {"name": "zstd", "configuration": {"level": 1}}], (16, 16, 16)),
    }[kind]()
    url = arrays.put(archives.web, f"/by-url-{kind}", tree)
    _, volume = archives.ingest("url", f"{kind}://{url}", voxel_size_nm=(5, 5, 5))
    np.testing.assert_array_equal(archives.voxels(volume, data.shape), data)


def test_a_folder_of_zarr_is_uploaded_with_its_dotfiles(archives: Archives, tmp_path: Path) -> None:
    data = openorganelle.em((33, 44, 55), seed=4)
    for name, body in openorganelle.image(data).items():
        path = tmp_path / "scan.zarr" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    (tmp_path / "scan.zarr" / ".DS_Store").write_bytes(b"x")
    client = archives.stack.client()
    status = client.wait(client.ingest(client.upload([tmp_path / "scan.zarr"]).request()).job)
    assert status.state == JobState.COMPLETE, status.error
    (volume,) = client.volumes_of(status.job)
    np.testing.assert_array_equal(archives.voxels(volume, data.shape), data)
    assert archives.stack.record(volume)["metadata"]["core"]["voxel_size_nm"] == [2.96, 4.0, 4.0]


def test_a_missing_chunk_is_fill_value_in_the_volume_and_a_caveat_on_it(archives: Archives) -> None:
    data = openorganelle.em((33, 44, 55), seed=3)
    tree = arrays.zarr2(data, fill=-7)
    del tree["1/1/1"]
    _, volume = archives.ingest("url", arrays.put(archives.web, "/sparse", tree) + "/")
    expected = data.copy()
    expected[16:32, 16:32, 16:32] = -7
    np.testing.assert_array_equal(archives.voxels(volume, data.shape), expected)
    (caveat,) = (c for c in archives.stack.record(volume)["caveats"] if c["code"] == "chunks_missing")
    assert caveat["evidence"].startswith("1 of 36")
