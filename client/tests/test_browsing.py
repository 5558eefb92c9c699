"""What archives hold, seen without a stack: lists, annotations as ordered pairs, pictures marked as pictures, ids for an ingest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from emporter.archive_settings import ArchiveSettings
from emporter.browsing import empiar as empiar_browser
from emporter.browsing import openorganelle as openorganelle_browser
from emporter.browsing.omero import Omero
from emporter.browsing.pictures import marked, save_thumbnails
from emporter.browsing.things import Thing
from emporter.cli.main import run
from emporter.errors import MistakeError, UnreachableError
from emporter.listed import requests_in
from emporter.remote import NotThereError
from emporter_archives import empiar, openorganelle
from emporter_archives.omero import DATASET, IMAGE, PROJECT, Image, put_json, voxels
from emporter_archives.omero_tree import PLATE, SCREEN, SCREEN_PAIRS, WELL, serve_tree
from emporter_archives.s3 import S3Server
from emporter_archives.server import FileServer

NOTEBOOK = Path(__file__).parents[2] / "examples" / "browse_idr.ipynb"


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as made:
        serve_tree(made, [Image(IMAGE, voxels()), Image(IMAGE + 1, voxels(seed=2), nm=(None, 8.0, 8.0))])
        yield made


@pytest.fixture
def idr(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Omero]:
    monkeypatch.setenv("EMPORTER_IDR_BASE_URL", server.url("").rstrip("/"))
    with Omero() as omero:
        yield omero


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert run(["browse", *words]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "number", "inside"),
    [
        ("project", PROJECT, [("dataset", str(DATASET))]),
        ("dataset", DATASET, [("image", str(IMAGE)), ("image", str(IMAGE + 1))]),
        ("screen", SCREEN, [("plate", str(PLATE))]),
        ("plate", PLATE, [("well", str(WELL)), ("well", str(WELL + 1))]),
        ("well", WELL, [("image", str(IMAGE))]),
        ("image", IMAGE, []),
    ],
)
def test_each_kind_holds_what_is_in_it(idr: Omero, kind: str, number: int, inside: list[tuple[str, str]]) -> None:
    thing = idr.look(kind, number)
    assert (thing.kind, thing.id) == (kind, str(number))
    assert [(one.kind, one.id) for one in thing.children] == inside


def test_an_image_is_described_in_our_axes_and_units(idr: Omero) -> None:
    details = idr.look("image", IMAGE).details
    assert (details["shape"], details["pixel_type"]) == ([9, 31, 47], "uint8")
    assert details["voxel_size_nm"] == [20.0, 20.0, 20.0]
    assert idr.look("image", IMAGE + 1).details["voxel_size_nm"] == [None, 8.0, 8.0]


def test_annotations_are_pairs_in_their_order_and_a_key_may_come_twice(idr: Omero) -> None:
    assert idr.look("screen", SCREEN, annotations=True).annotations == tuple(map(tuple, SCREEN_PAIRS))
    assert idr.look("plate", PLATE, annotations=True).annotations == ()
    assert idr.look("plate", PLATE).annotations is None


def test_wells_are_named_as_on_the_plate(idr: Omero) -> None:
    assert [well.name for well in idr.look("plate", PLATE).children] == ["A1", "A2"]


def test_a_list_is_read_page_by_page(idr: Omero, server: FileServer) -> None:
    numbers = list(range(1, 251))
    for offset in (0, 200):
        page = [{"@id": n, "Name": str(n)} for n in numbers[offset : offset + 200]]
        meta = {"totalCount": len(numbers), "limit": 200, "offset": offset}
        put_json(server, f"/api/v0/m/datasets/{DATASET}/images/?limit=200&offset={offset}", {"data": page, "meta": meta})
    assert [int(one.id) for one in idr.look("dataset", DATASET).children] == numbers


def test_a_server_that_fails_with_200_is_not_believed(idr: Omero, server: FileServer) -> None:
    put_json(server, "/api/v0/m/images/5/", {"Exception": "broken"})
    with pytest.raises(UnreachableError, match="broken"):
        idr.look("image", 5)
    with pytest.raises(NotThereError):
        idr.look("image", 6)
    with pytest.raises(MistakeError, match="no 'roi' to browse"):
        idr.look("roi", 6)


def test_pictures_are_saved_as_pictures(idr: Omero, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = ("--thumbnails", str(tmp_path / "small"), "--render", str(tmp_path / "planes"))
    out = json.loads(said(capsys, "idr", "plate", str(PLATE), *folders, "--json"))
    assert {picture["kind"] for picture in out["pictures"]} == {"picture, not data"}
    assert sorted(path.name for path in (tmp_path / "small").iterdir()) == [
        f"image-{IMAGE}.thumbnail.jpg",
        f"image-{IMAGE + 1}.thumbnail.jpg",
    ]
    body = (tmp_path / "planes" / f"image-{IMAGE}.rendered-z4-t0.jpg").read_bytes()
    assert b"Not the image's data" in body[:300]
    assert imagecodecs.jpeg_decode(body).shape == (31, 47)


def test_a_png_is_marked_too_and_what_is_no_picture_is_refused() -> None:
    plane = np.arange(64, dtype=np.uint8).reshape(8, 8)
    body = marked(imagecodecs.png_encode(plane), "no data")
    assert b"tEXtComment\x00no data" in body
    np.testing.assert_array_equal(imagecodecs.png_decode(body), plane)
    with pytest.raises(UnreachableError, match="no picture"):
        marked(b"<html>", "no data")


def test_without_an_image_there_is_nothing_to_show(idr: Omero, tmp_path: Path) -> None:
    with pytest.raises(MistakeError, match="no image here"):
        save_thumbnails(idr, Thing(kind="screen", id="1").images(), tmp_path)


@pytest.mark.usefixtures("idr")
def test_what_is_found_can_be_piped_into_an_ingest(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "idr", "dataset", str(DATASET), "--ids").split() == [str(IMAGE), str(IMAGE + 1)]
    listed = requests_in(said(capsys, "idr", "plate", str(PLATE), "--requests"), "standard input")
    assert [(one.request.source, one.request.source_id) for one in listed] == [("idr", str(IMAGE)), ("idr", str(IMAGE + 1))]
    table = said(capsys, "idr", "dataset", str(DATASET), "--annotations")
    assert "Study Type = micrograph" in table
    assert f"idr {IMAGE}" in table


@pytest.mark.usefixtures("idr")
@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["idr"], "screen|plate|well|image|dataset|project ID"),
        (["idr", "plate", "x"], "screen|plate|well|image|dataset|project ID"),
        (["idr", "roi", "5"], "one of screen"),
        (["empiar"], "can't be listed"),
        (["empiar", "nonsense"], "EMPIAR-11759"),
        (["openorganelle", "x", "--annotations"], "are of idr"),
        (["elsewhere"], "idr"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["browse", *words]) == 2
    told = capsys.readouterr().err
    assert hint in told
    assert len(told.splitlines()) == 1


def test_an_entry_of_empiar_lists_its_image_sets_each_with_its_request(server: FileServer) -> None:
    empiar.put_entry(server, empiar.entry(empiar.image_set(), empiar.image_set(name="Second")))
    entry = empiar_browser.entry("11759", ArchiveSettings(empiar_base_url=server.url("/empiar")))
    assert entry.id == "EMPIAR-11759"
    assert [(one.id, one.name) for one in entry.children] == [("0", "Developing retina"), ("1", "Second")]
    assert entry.children[0].details["pixel_width"] == 80.0
    assert [request.parameters for request in entry.requests()] == [{"imageset": 0}, {"imageset": 1}]
    with pytest.raises(NotThereError):
        empiar_browser.entry("EMPIAR-99999", ArchiveSettings(empiar_base_url=server.url("/empiar")))


def test_openorganelle_lists_its_data_sets_and_their_arrays() -> None:
    with S3Server(page=2) as bucket:
        openorganelle.serve(bucket)
        settings = ArchiveSettings(openorganelle_endpoint=bucket.url(""))
        names = [one.id for one in openorganelle_browser.datasets(settings).children]
        assert sorted(names) == sorted([openorganelle.DATASET, openorganelle.OLDER, "two"])
        found = openorganelle_browser.dataset(openorganelle.DATASET, settings)
        assert [one.id for one in found.children] == ["recon-1/em/fibsem-uint8", "recon-2/em/fibsem-int16"]
        assert found.requests()[1].parameters == {"array": "recon-2/em/fibsem-int16"}
        older = openorganelle_browser.dataset(openorganelle.OLDER, settings)
        assert [one.id for one in older.children] == ["em/fibsem-int16"]
        with pytest.raises(NotThereError):
            openorganelle_browser.dataset("jrc_nothing", settings)


@pytest.mark.usefixtures("idr")
def test_the_notebook_runs_and_holds_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = json.loads(NOTEBOOK.read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for number, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, cell {number}", "exec"), names)
    pictures = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert pictures == [
        f"image-{IMAGE}.rendered-z4-t0.jpg",
        f"image-{IMAGE}.thumbnail.jpg",
        f"image-{IMAGE + 1}.thumbnail.jpg",
    ]
