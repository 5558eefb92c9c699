"""The demo, as a newcomer runs it; and the parts it is made of."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile

from emporter.cli import demonstrating
from emporter.cli.demo import demo as demo_command
from emporter.demo import archives
from emporter.demo.archive import archive
from emporter.demo.comparing import read_tiff_box
from emporter.demo.phantom import VOXEL_SIZE_NM, phantom, write_tiff
from emporter.pictures import grey, three_slices
from emporter.stack.files import StackFiles, StackInfo, write_model
from emporter.stack.identity import ProcessIdentity
from emporter_contracts.geometry import Box

EMPORTER = Path(sys.executable).with_name("emporter")


def demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(EMPORTER), "demo", *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=240
    )


def test_the_demo_takes_a_volume_of_each_of_five_archives_and_compares_every_voxel(tmp_path: Path) -> None:
    done = demo(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines() if line.endswith("\tyes")]
    assert {row[4]: (row[1], row[2], row[3], row[6]) for row in rows} == {
        "idr": ("64,180,210", "uint8", "20,20,20", "complete"),
        "empiar": ("16,190,230", "uint8", "50,7.998,7.998", "complete"),
        "epfl": ("65,160,220", "uint8", "5,5,5", "complete"),
        "openorganelle": ("90,150,170", "int16", "2.96,4,4", "complete"),
        "hemibrain": ("64,64,64", "uint8", "8,8,8", "complete"),
    }
    assert (tmp_path / "emporter-demo.png").exists()
    assert "FTP session" not in done.stderr
    info = StackFiles.at(tmp_path / ".emporter-demo").info()
    assert info is not None
    assert not info.live
    said = done.stdout.partition("Drawing three orthogonal slices")[2]
    assert "http" not in said, "what is gone with the demo is no address to look at"


def test_where_the_archives_are_not_installed_one_volume_stands_for_them_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(archives, "entry_points", lambda group: [])
    monkeypatch.setattr(demonstrating, "run_demo", lambda *given, keep: asked.append(given) or 0)
    assert demo_command(None, None, tmp_path / "x.png", keep=False) == 0
    assert asked == [(None, None, tmp_path / "x.png")]
    assert "repository" in capsys.readouterr().out


def test_a_stack_that_stays_says_where_to_look_and_how_to_stop_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = StackFiles.at(tmp_path)
    files.make()
    known = {
        "nats": "nats://here:1",
        "catalog": "http://here:2",
        "blocks": "http://here:3",
        "store": "s3://",
        "s3": "http://here:4",
    }
    words = {"nats_user": "client", "nats_password": "word"}
    write_model(files.stack, StackInfo.model_validate({**known, **words, "supervisor": ProcessIdentity.mine()}))
    demonstrating.say_what_next(files)
    said = capsys.readouterr().out
    assert "http://here:3" in said
    assert f"emporter down --data {tmp_path}" in said


def test_the_demo_goes_all_the_way_and_leaves_nothing_running(tmp_path: Path) -> None:
    done = demo(tmp_path, "--single")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all 2,097,152 voxels are equal" in done.stdout
    assert "phantom" in done.stdout
    assert "emporter demo FILE.tif" in done.stdout
    assert "emporter demo --keep" in done.stdout
    assert "160,192,224 uint8  16,8,8 nm" in done.stdout
    picture = imagecodecs.png_decode((tmp_path / "emporter-demo.png").read_bytes())
    assert np.array_equal(picture[:192, :224], phantom()[80])
    info = StackFiles.at(tmp_path / ".emporter-demo").info()
    assert info is not None
    assert not info.live
    assert info.processes == {}


def test_the_demo_with_a_file_of_ones_own(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "mine.tif", np.random.default_rng(1).integers(0, 999, (5, 40, 50), dtype=np.uint16), photometric="minisblack"
    )
    done = demo(tmp_path, "mine.tif", "-o", "mine.png")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "compared with the source: all 10,000 voxels are equal" in done.stdout
    assert (tmp_path / "mine.png").exists()


def test_the_phantom_is_the_same_on_every_machine() -> None:
    assert hashlib.sha256(phantom().tobytes()).hexdigest() == "03093890e9aa5c3e492fad7e5924224c819dfa18ecb505faaf98e8b6259fd3cf"


def test_the_phantoms_file_holds_its_voxels_their_size_and_what_it_is(tmp_path: Path) -> None:
    write_tiff(tmp_path / "phantom.tif", phantom())
    with tifffile.TiffFile(tmp_path / "phantom.tif") as tiff:
        assert np.array_equal(tiff.asarray(), phantom())
        assert tiff.imagej_metadata is not None
        assert (tiff.imagej_metadata["spacing"], tiff.imagej_metadata["unit"]) == (VOXEL_SIZE_NM[0], "nm")
        assert "no microscopy" in tiff.imagej_metadata["Info"]


@pytest.mark.parametrize(
    ("header", "status", "wanted"),
    [
        (None, 200, slice(0, 100)),
        ("bytes=10-19", 206, slice(10, 20)),
        ("bytes=90-500", 206, slice(90, 100)),
        ("bytes=50-", 206, slice(50, 100)),
    ],
)
def test_the_archive_serves_ranges(tmp_path: Path, header: str | None, status: int, wanted: slice) -> None:
    data = bytes(range(100))
    (tmp_path / "x.tif").write_bytes(data)
    with archive(tmp_path) as url:
        request = urllib.request.Request(f"{url}/x.tif", headers={"Range": header} if header else {})
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert (answer.status, answer.read()) == (status, data[wanted])
            assert answer.headers["ETag"]


@pytest.mark.parametrize(("path", "header", "status"), [("y.tif", "", 404), ("x.tif", "bytes=100-", 416), ("../x.tif", "", 200)])
def test_the_archive_refuses_what_it_has_not(tmp_path: Path, path: str, header: str, status: int) -> None:
    (tmp_path / "x.tif").write_bytes(bytes(100))
    with archive(tmp_path) as url:
        assert status_of(urllib.request.Request(f"{url}/{path}", headers={"Range": header} if header else {})) == status


def status_of(request: urllib.request.Request) -> int:
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.mark.parametrize("layout", ["pages", "one page", "tiles", "imagej"])
def test_a_box_of_a_plain_tiff_is_what_tifffile_reads(tmp_path: Path, layout: str) -> None:
    shape = (1, 40, 48) if layout == "one page" else (6, 40, 48)
    voxels = np.random.default_rng(2).integers(0, 999, shape, dtype=np.uint16)
    options = {"tiles": {"tile": (16, 16)}, "imagej": {"imagej": True}}.get(layout, {})
    tifffile.imwrite(tmp_path / "x.tif", voxels, **({} if layout == "imagej" else {"photometric": "minisblack"}), **options)
    box = Box((0, 3, 5), (shape[0], 30, 40))
    read = read_tiff_box(tmp_path / "x.tif", box, shape, np.dtype("uint16"))
    assert read is not None
    assert np.array_equal(read, voxels[box.slices()])


def test_a_tiff_that_is_no_plain_volume_is_not_compared(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros((4, 8, 8, 3), np.uint8), photometric="rgb")
    (tmp_path / "no.tif").write_bytes(b"no tiff")
    box = Box.whole((4, 8, 8))
    for name in ("rgb.tif", "no.tif", "nowhere.tif"):
        assert read_tiff_box(tmp_path / name, box, (4, 8, 8), np.dtype("uint8")) is None


def test_three_slices_are_laid_side_by_side_without_losing_a_voxel() -> None:
    voxels = np.random.default_rng(3).integers(0, 255, (3, 5, 7), dtype=np.uint8)
    picture = three_slices(voxels)
    assert picture.shape == (5 + 4 + 3, 7 + 4 + 3)
    assert np.array_equal(picture[:5, :7], voxels[1])
    assert np.array_equal(picture[9:, :7], voxels[:, 2])
    assert np.array_equal(picture[:5, 11:], voxels[:, :, 3].T)


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32", "float64", "uint64"])
def test_grey_keeps_the_order_of_voxels(dtype: str) -> None:
    voxels = np.linspace(0, 1000, 8000).astype(dtype).reshape(20, 20, 20)
    shown = grey(voxels).ravel()
    assert (np.diff(shown.astype(int)) >= 0).all()
    assert (shown.min(), shown.max()) == (0, 255)


def test_grey_of_what_has_no_range_is_black() -> None:
    assert grey(np.full((2, 2, 2), np.nan, np.float32)).max() == 0
    assert grey(np.full((2, 2, 2), 7, np.uint16)).max() == 0
