"""What a file, a folder or a URL holds, told without a stack: equal to the facts, or why not, by few bytes."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from emporter.archive_settings import ArchiveSettings
from emporter.cli.main import run
from emporter.errors import MistakeError, UnreachableError
from emporter.inspecting.looking import inspect
from emporter.remote import NotThereError
from emporter_archives import arrays, openorganelle
from emporter_archives.ftp import FtpArchive
from emporter_archives.hemibrain import HemibrainServer
from emporter_archives.omero import imagej_tiff
from emporter_archives.s3 import S3Server
from emporter_archives.server import FileServer
from emporter_contracts.commands import Select
from emporter_readers.protocol import Hints
from emporter_testing.samples import ROOT, samples_of, wants_samples
from fetcher.settings import FetcherSettings

ENTRIES = samples_of()
COLOURED = {"tiff-stack/D75_08b_3page.tiff", "tiff-stack/D75_08b_tiled.tiff"}
GREY_RGB = {"tiff-stack/re05.tiff"}
"""Three equal samples, read as one grey volume."""
UNREADABLE = {
    "dm3/AL-DFoffset0.00.dm3": "spectral data",
    "dm4/DMReader_EELS_STO.dm4": "spectral data",
    "dm3/rs2D_test-3.dm3": "complex64",
    "dm3/rs3D_test-3.dm3": "complex64",
    "dm3/rs2D_test-23.dm3": "RGBA",
    "dm4/rs2D_test-3.dm4": "complex64",
    "dm4/rs2D_test-27.dm4": "complex64",
    "dm4/rs3D_test-27.dm4": "complex64",
    "zarr2/ng_1d.contiguous.lz4.i2": "one axis",
    "zarr2/ng_1d.contiguous.zstd.i2": "one axis",
    "zarr2/ng_1d.contiguous.raw.i2": "one axis",
    "zarr2/ng_1d.contiguous.f4.le": "one axis",
    "zarr3/ng_1d.contiguous.gzip.i2": "one axis",
    "zarr3/ng_1d.contiguous.blosc.i2": "one axis",
    "zarr3/ng_1d.contiguous.compressed.sharded.u1": "one axis",
    "n5/ng_multiscale_modern.n5": "none of its chunks",
    "precomputed/ng_one_channel_info.json": "JSON document",
}
"""What is no volume, and words of the reason; texts about images and packed files beside these."""
TEXTS = {"ome-xml", "archive-metadata"}


def facts_of(entry: dict[str, Any]) -> tuple[int, str] | None:
    """Voxels in all of the finest level, and dtype, as independent readers saw them; None where they saw no image."""
    expected = entry["expected"]
    if "data" in expected:
        one = expected["data"]
    elif "rosettasciio" in expected:
        one = expected["rosettasciio"][0]
    elif "series" in expected:
        one = expected["series"][0]
    elif "datasets" in expected:
        one = next(iter(dict(sorted(expected["datasets"].items())).values()))["reversed_zyx"]
    elif "scales" in expected:
        one = expected["scales"][0]["reversed_czyx"]
    elif expected.get("arrays"):
        one = next(iter(dict(sorted(expected["arrays"].items())).values()))
    else:
        return None
    return math.prod(one["shape"]), one["dtype"]


@wants_samples
@pytest.mark.parametrize("path", sorted(ENTRIES))
def test_a_sample_is_seen_as_its_facts_say_or_the_reason_is_named(path: str) -> None:
    entry = ENTRIES[path]
    seen = inspect([str(ROOT / path)])
    if path in UNREADABLE or entry["format"] in TEXTS or path.endswith((".zip", ".gz")):
        assert seen.unreadable is not None
        assert seen.volumes == ()
        assert UNREADABLE.get(path, "") in seen.unreadable.message
        assert seen.unreadable.hint
        return
    if path in COLOURED:
        assert seen.unreadable is not None
        assert "rgb: luma" in seen.unreadable.hint
        seen = inspect([str(ROOT / path)], Hints(rgb="split"))
    assert seen.unreadable is None, seen.unreadable
    facts = facts_of(entry)
    assert facts is not None, "no independent reader says anything about this: an expectation is missing"
    voxels = sum(math.prod(volume.shape) for volume in seen.volumes) * (3 if path in GREY_RGB else 1)
    assert (voxels, {volume.dtype for volume in seen.volumes}) == (facts[0], {facts[1]})
    assert all(volume.compression and min(volume.native_chunk) >= 1 for volume in seen.volumes)
    assert seen.series * seen.channels * seen.times >= len(seen.volumes)
    assert [who is None for volume in seen.volumes for who in volume.voxel_size.said_by] == [
        nm is None for volume in seen.volumes for nm in volume.voxel_size.nm
    ]


@wants_samples
def test_what_headers_say_of_a_real_pyramid_is_told() -> None:
    (volume,) = inspect([str(ROOT / "ome-tiff-pyramid/em_2z_pyramid.ome.tif")]).volumes
    assert volume.voxel_size.nm == (40.0, 8.0, 8.0)
    assert volume.voxel_size.said_by == ("file", "file", "file")


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as made:
        yield made


def settings(**fields: str) -> ArchiveSettings:
    return ArchiveSettings(**fields)


def stack(shape: tuple[int, int, int] = (30, 400, 500)) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


def test_a_file_behind_http_is_told_by_its_headers_alone(server: FileServer) -> None:
    body = imagej_tiff(stack())
    seen = inspect([server.put("/a stack.tif".replace(" ", "%20"), body)])
    (volume,) = seen.volumes
    assert (volume.shape, volume.dtype, volume.compression) == ((30, 400, 500), "uint8", "none")
    assert volume.voxel_size.nm == pytest.approx((20.0, 20.0, 20.0))
    assert volume.native_chunk == (1, 1, 500)
    sent = sum(server.sent.values())
    assert seen.bytes == len(body)
    assert seen.bytes_read == sent
    assert sent < len(body) / 3


def test_a_server_without_ranges_is_read_no_further_than_the_headers_reach(server: FileServer) -> None:
    file = io.BytesIO()
    tifffile.imwrite(file, stack((40, 512, 512)), photometric="minisblack", metadata=None, rowsperstrip=512)
    head = inspect([server.put("/a.tif", file.getvalue(), ranges=False)])
    assert head.volumes[0].shape == (40, 512, 512)


def test_a_file_over_ftp(tmp_path: Path) -> None:
    with FtpArchive(tmp_path) as ftp:
        body = imagej_tiff(stack((5, 200, 300)))
        ftp.put("/pub/a.tif", body)
        seen = inspect([ftp.url("/pub/a.tif")])
        assert seen.volumes[0].shape == (5, 200, 300)
        assert seen.bytes == len(body)
        with pytest.raises(NotThereError):
            inspect([ftp.url("/pub/b.tif")])


def test_an_array_in_a_public_bucket_is_told_by_its_documents() -> None:
    with S3Server() as bucket:
        openorganelle.serve(bucket)
        url = f"s3://janelia-cosem-datasets/{openorganelle.DATASET}/{openorganelle.DATASET}.zarr/recon-2/em/fibsem-int16/"
        seen = inspect([url], settings=settings(url_s3_endpoint=bucket.url("").rstrip("/")))
        (volume,) = seen.volumes
        assert (volume.format, volume.shape, volume.dtype) == ("zarr", (70, 100, 90), "int16")
        assert volume.voxel_size.nm == (2.96, 4.0, 4.0)
        assert (volume.native_chunk, volume.levels, volume.compression) == ((64, 64, 64), 2, "zstd level 1")
        assert not [path for path, sent in bucket.sent.items() if sent and path.endswith(tuple("0123456789"))]
        assert seen.bytes_read == sum(bucket.sent.values()) < 10_000
        coarser = inspect([url], Hints(select=Select(level=1)), settings(url_s3_endpoint=bucket.url("").rstrip("/")))
        assert coarser.volumes[0].shape == (35, 50, 45)
        assert coarser.volumes[0].translation_nm == (1.48, 2.0, 2.0)
        older = url.replace(openorganelle.DATASET, openorganelle.OLDER).replace(".zarr/recon-2", ".n5")
        (n5,) = inspect([older], settings=settings(url_s3_endpoint=bucket.url("").rstrip("/"))).volumes
        assert (n5.format, n5.shape, n5.voxel_size.nm) == ("n5", (20, 30, 40), (5.24, 4.0, 4.0))
        assert n5.compression == "gzip level 6"


def test_a_sharded_zarr_v3_array_is_told_without_a_chunk(server: FileServer) -> None:
    inner = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "zstd", "configuration": {"level": 1}}]
    sharding = {
        "name": "sharding_indexed",
        "configuration": {"chunk_shape": [8, 8, 8], "codecs": inner, "index_codecs": inner[:1]},
    }
    objects = arrays.zarr3(stack((40, 50, 60)), [sharding], (32, 32, 32), dimension_names=["z", "y", "x"])
    seen = inspect([arrays.put(server, "/a.zarr", objects)])
    (volume,) = seen.volumes
    assert (volume.shape, volume.dtype, volume.native_chunk) == ((40, 50, 60), "uint8", (8, 8, 8))
    assert volume.compression == "zstd level 1, sharded"
    assert not any(sent for path, sent in server.sent.items() if "/c/" in path)


def test_a_precomputed_root_is_told_by_its_info() -> None:
    with HemibrainServer() as flyem:
        seen = inspect([f"precomputed://{flyem.base.rstrip('/')}/emdata/raw/jpeg"])
        (volume,) = seen.volumes
        assert volume.shape == arrays.decoded(flyem.em, "neuroglancer_precomputed")[..., 0].T.shape
        assert (volume.voxel_size.nm, volume.compression, volume.role) == ((8.0, 8.0, 8.0), "jpeg, sharded", "image")
        assert [caveat.code for caveat in volume.caveats] == ["lossy"]
        assert not any(sent for path, sent in flyem.sent.items() if path.endswith(".shard"))


def test_what_is_not_there_or_does_not_answer_is_said(server: FileServer) -> None:
    with pytest.raises(NotThereError, match="not there"):
        inspect([server.url("/nothing.tif")])
    with pytest.raises(UnreachableError, match="does not answer"):
        inspect(["http://127.0.0.1:9/x.tif"])
    with pytest.raises(NotThereError, match="no Zarr"):
        inspect([server.url("/nothing.zarr/")])


def test_a_page_of_an_archive_is_no_data() -> None:
    with pytest.raises(MistakeError) as refused:
        inspect(["https://www.ebi.ac.uk/empiar/EMPIAR-11759/"])
    assert "emporter ingest empiar EMPIAR-11759 --plan" in refused.value.hint


def test_channels_and_times_of_a_file_are_counted(tmp_path: Path) -> None:
    voxels = np.zeros((2, 3, 4, 20, 30), np.uint16)
    tifffile.imwrite(
        tmp_path / "many.ome.tif", voxels, ome=True, metadata={"axes": "TCZYX"}, photometric="minisblack", compression="zlib"
    )
    seen = inspect([str(tmp_path / "many.ome.tif")])
    assert (seen.series, seen.channels, seen.times, len(seen.volumes)) == (1, 3, 2, 6)
    assert {(volume.shape, volume.dtype) for volume in seen.volumes} == {((4, 20, 30), "uint16")}
    assert {volume.compression for volume in seen.volumes} == {"adobe_deflate"}


def test_the_command_needs_no_stack_and_its_status_says_whether_it_is_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("a.tif", stack((3, 20, 30)), photometric="minisblack")
    assert run(["inspect", "a.tif"]) == 0
    told = capsys.readouterr().out
    assert "3,20,30" in told
    assert "?,?,? nm (? is not known" in told
    assert run(["inspect", "a.tif", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["volumes"][0]["voxel_size"]["said_by"] == [None, None, None]
    Path("a.txt").write_text("no image at all, but some text")
    assert run(["inspect", "a.txt"]) == 1
    assert "a text file" in capsys.readouterr().out
    assert run(["inspect", "nowhere.tif"]) == 2
    assert "there is no file" in capsys.readouterr().err


def test_archives_are_asked_where_the_services_ask_them() -> None:
    ours, theirs = ArchiveSettings.model_fields, FetcherSettings.model_fields
    assert {name: field.default for name, field in ours.items()} == {name: theirs[name].default for name in ours}
