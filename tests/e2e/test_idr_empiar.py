"""Two archives of files through the real stack: what they serve is what comes out, with who said what."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from emporter.testing import RunningStack, running_stack
from emporter_archives import empiar, omero
from emporter_archives.faults import Drop, Status
from emporter_archives.ftp import FtpArchive
from emporter_archives.omero import IMAGE, REFERENCE, Image
from emporter_archives.server import FileServer
from emporter_contracts.commands import IngestRequest
from emporter_contracts.jobs import JobState

SLICES = f"{empiar.FILES}/{empiar.NUMBER}"
SHAPE = (16, 70, 61)


@pytest.fixture(scope="module")
def archive() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


@pytest.fixture(scope="module")
def ftp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FtpArchive]:
    with FtpArchive(tmp_path_factory.mktemp("ftp")) as server:
        yield server


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, archive: FileServer, ftp: FtpArchive) -> Iterator[RunningStack]:
    """A stack whose archives are the emulators; nothing but their addresses says so."""
    settings = omero.serve(archive, [Image(IMAGE, omero.voxels((40, 77, 111)), said_shape=(41, 77, 111))])
    said = empiar.entry(empiar.image_set(num_images_or_tilt_series=16, image_width="5628", image_height="5632"))
    settings |= empiar.serve(archive, empiar.tree(empiar.voxels(SHAPE)), said)
    settings |= {"idr_ftp_url": ftp.url(omero.FILES), "empiar_ftp_url": ftp.url(empiar.FILES)}
    env = {f"EMPORTER_{name.upper()}": value for name, value in settings.items()}
    with running_stack(tmp_path_factory.mktemp("stack"), env=env) as running:
        yield running


def test_idr_9846137_comes_out_voxel_for_voxel_with_who_said_what(stack: RunningStack, archive: FileServer) -> None:
    data = omero.voxels((40, 77, 111))
    archive.misbehave(f"{omero.FILES}/{REFERENCE}", Drop(1000))
    client = stack.client()
    status = client.wait(client.ingest(IngestRequest(source="idr", source_id=str(IMAGE))).job)
    assert status.state == JobState.COMPLETE, status.error
    (volume,) = client.volumes_of(status.job)
    assert volume == "idr-9846137@r1"
    np.testing.assert_array_equal(client.block(volume, (0, 0, 0), data.shape), data)
    record = stack.record(volume)
    metadata = record["metadata"]
    assert metadata["core"]["volume_shape"] == [40, 77, 111]
    assert metadata["core"]["voxel_size_nm"] == [20.0, 20.0, 20.0]
    assert metadata["provenance"]["voxel_size"]["said_by"] == ["file", "file", "file"]
    assert metadata["acquisition"]["acquired_at"] == "2018-06-11T22:27:00Z"
    assert metadata["acquisition"]["significant_bits"] == 8
    assert metadata["acquisition"]["said_by"] == {"acquired_at": "api", "significant_bits": "api"}
    assert metadata["provenance"]["download_url"] == archive.url(f"{omero.FILES}/{REFERENCE}")
    assert record["licence"]["spdx"] == "CC-BY-4.0"
    assert {c["code"] for c in record["caveats"]} == {"resampled", "archive_disagrees"}
    said = record["additional_metadata"]["idr_metadata"][str(IMAGE)]
    assert ["Cell Line", "U2OS"] in said["map_annotations"]
    assert said["image"]["data"]["Pixels"]["SizeZ"] == 41


def test_empiar_11759_is_one_volume_of_its_slices_in_their_order(stack: RunningStack) -> None:
    data = empiar.voxels(SHAPE)
    client = stack.client()
    status = client.wait(client.ingest(IngestRequest(source="empiar", source_id="EMPIAR-11759")).job)
    assert status.state == JobState.COMPLETE, status.error
    (volume,) = client.volumes_of(status.job)
    np.testing.assert_array_equal(client.block(volume, (0, 0, 0), SHAPE), data)
    np.testing.assert_array_equal(client.block(volume, (3, 5, 7), (9, 60, 50)), data[3:12, 5:65, 7:57])
    record = stack.record(volume)
    core = record["metadata"]["core"]
    assert core["volume_shape"] == list(SHAPE)
    assert core["voxel_size_nm"] == pytest.approx([50.0, 7.998, 7.998])
    assert core["modality"] == "SBF-SEM"
    assert record["metadata"]["provenance"]["voxel_size"]["said_by"] == ["file", "file", "file"]
    assert record["licence"]["spdx"] == "CC0-1.0"
    assert {c["code"] for c in record["caveats"]} == {"unaligned", "archive_disagrees"}
    assert record["files"] == [f"data/{name}" for name in empiar.names(16)]
    assert f"data/{empiar.MIPMAPS}/" in record["additional_metadata"]["empiar_metadata"]["skipped"]


def test_slices_come_by_ftp_while_https_is_down_and_a_killed_fetcher_goes_on(
    stack: RunningStack, archive: FileServer, ftp: FtpArchive
) -> None:
    data = empiar.voxels(SHAPE, seed=2)
    files = empiar.tree(data)
    empiar.put_files(archive, files, "11760")
    empiar.put_entry(archive, empiar.entry(empiar.image_set(num_images_or_tilt_series=16), number="11760"), "11760")
    for path, content in files.items():
        ftp.put(f"{empiar.FILES}/11760/{path}", content)
    for path in [path for path in archive.files if path.startswith(f"{empiar.FILES}/11760/")]:
        archive.always(path, Status(503))
    ftp.drops.extend([200, 300])
    client = stack.client()
    job = client.ingest(IngestRequest(source="empiar", source_id="11760")).job
    stack.until(lambda: len(ftp.asked("RETR")) > 20, "headers are read, files are fetched")
    stack.kill("fetcher")
    status = client.wait(job)
    assert status.state == JobState.COMPLETE, status.error
    np.testing.assert_array_equal(client.block(job, (0, 0, 0), SHAPE), data)
    assert all(o["url"].startswith("ftp://") for o in stack.record(job)["metadata"]["provenance"]["objects"])


def test_an_api_that_is_down_is_a_caveat_where_the_file_is_known(stack: RunningStack, archive: FileServer) -> None:
    down = [path for path in archive.files if path.startswith(("/api/", "/web"))]
    for path in down:
        archive.always(path, Status(502))
    client = stack.client()
    request = IngestRequest(source="idr", source_id=str(IMAGE), voxel_size_nm=(21.0, 20.0, 20.0))
    status = client.wait(client.ingest(request).job)
    for path in down:
        archive.always(path, None)
    assert status.state == JobState.COMPLETE, status.error
    record = stack.record(status.job)
    assert {"api_down", "voxel_size_by_user"} <= {c["code"] for c in record["caveats"]}
    assert record["licence"]["spdx"] == "CC-BY-4.0"
