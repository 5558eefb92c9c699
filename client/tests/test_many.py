"""Several requests side by side, on a stack whose archives are emulated: one view, one table, and whether the bytes are the same."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from emporter.testing import RunningStack, running_stack
from emporter_archives.demo import IDR_SHAPE, archives, tissue
from emporter_archives.omero import DATASET, IMAGE, Image, voxels
from emporter_archives.omero_tree import serve_tree
from emporter_archives.server import FileServer

EMPORTER = Path(sys.executable).with_name("emporter")
FIVE = Path(__file__).parents[2] / "examples" / "five.yaml"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    with archives() as up, FileServer() as omero:
        images = [Image(IMAGE, tissue(IDR_SHAPE, 1)), Image(IMAGE + 1, voxels(), path="idr0086/second.tif")]
        settings = {f"EMPORTER_{name.upper()}": value for name, value in serve_tree(omero, images).items()}
        with running_stack(tmp_path_factory.mktemp("stack"), env={**up.environment, **settings}) as running:
            running.omero = settings["EMPORTER_IDR_BASE_URL"]  # type: ignore[attr-defined]
            yield running


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as made:
        yield made


def emporter(stack: RunningStack, *arguments: str, said: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(EMPORTER), *arguments, "--stack", str(stack.dir)],
        input=said,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


def a_tiff(seed: int) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, np.random.default_rng(seed).integers(0, 256, (3, 20, 30), dtype=np.uint8), photometric="minisblack")
    return file.getvalue()


def test_the_five_archives_are_ingested_side_by_side_and_again_with_the_same_bytes(stack: RunningStack, tmp_path: Path) -> None:
    kept = tmp_path / "five.checksums.json"
    first = emporter(stack, "ingest", "-f", str(FIVE), "--checksums", str(kept), "--yes")
    assert first.returncode == 0, first.stderr
    headings, *rows = [line.split("\t") for line in first.stdout.splitlines()]
    assert headings[-1] == "bytes"
    assert [(row[0], row[2], row[4], row[5], row[8]) for row in rows] == [
        ("idr", "complete", "64,128,128", "uint8", "recorded"),
        ("empiar", "complete", "16,128,128", "uint8", "recorded"),
        ("epfl", "complete", "12,48,64", "uint8", "recorded"),
        ("openorganelle", "complete", "64,128,128", "int16", "recorded"),
        ("hemibrain", "complete", "128,128,128", "uint8", "recorded"),
    ]
    again = emporter(stack, "ingest", "-f", str(FIVE), "--checksums", str(kept), "--yes", "--json")
    assert again.returncode == 0, again.stderr
    assert [(one["source"], one["bytes"]) for one in json.loads(again.stdout)] == [(row[0], "same bytes") for row in rows]


def test_where_an_archive_serves_other_bytes_the_run_says_which(stack: RunningStack, server: FileServer, tmp_path: Path) -> None:
    url = server.put("/a.tif", a_tiff(1))
    listed, kept = tmp_path / "one.yaml", tmp_path / "sums.json"
    listed.write_text(f"- link: {url}\n  force: fetch\n")
    sums = ("ingest", "-f", str(listed), "--checksums", str(kept), "--yes")
    first = emporter(stack, *sums)
    assert first.returncode == 0, first.stderr
    fetched_again = emporter(stack, *sums)
    assert (fetched_again.returncode, fetched_again.stdout.split("\t")[-1].strip()) == (0, "same bytes"), fetched_again.stderr
    server.put("/a.tif", a_tiff(2))
    other = emporter(stack, *sums)
    assert other.returncode == 1
    assert other.stdout.split("\t")[-1].strip() == "differs"
    assert f"object {url}: sha256 was" in other.stderr
    assert "voxels of the volume: sha256 was" in other.stderr


def test_one_that_is_refused_or_fails_does_not_keep_the_others_back(stack: RunningStack, server: FileServer) -> None:
    good = server.put("/good.tif", a_tiff(3))
    bad = server.put("/bad.tif", b"\x89PNG no picture, no TIFF")
    done = emporter(stack, "ingest", "-f", "-", "--json", said=f"- link: {good}\n- link: {bad}\n")
    assert done.returncode == 1, done
    states: list[dict[str, Any]] = json.loads(done.stdout)
    assert [one["state"] for one in states] == ["complete", "refused"]
    assert states[1]["error"]["code"]
    assert states[0]["volumes"][0]["shape"] == [3, 20, 30]


def test_only_planned_nothing_is_stored(stack: RunningStack, server: FileServer) -> None:
    done = emporter(stack, "ingest", "-f", "-", "--plan", said=f"- link: {server.put('/plan.tif', a_tiff(4))}\n")
    assert done.returncode == 0, done.stderr
    assert "3,20,30 uint8" in done.stdout
    assert not [job for job in stack.client().jobs() if "plan-tif" in job.job]


def test_several_ids_of_an_archive_are_a_request_each(stack: RunningStack) -> None:
    done = emporter(stack, "ingest", "epfl", "training", "testing", "training_groundtruth", "--yes", "--watch")
    assert done.returncode == 0, done.stderr
    assert [line.split("\t")[1] for line in done.stdout.splitlines()[1:]] == ["training", "testing", "training_groundtruth"]


def test_what_only_a_source_knows_is_set_by_name(stack: RunningStack) -> None:
    done = emporter(stack, "ingest", "openorganelle", "two", "--set", "array=recon-1/em/fibsem-uint8", "--plan", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["volumes"][0]["shape"] == [20, 30, 40]
    without = emporter(stack, "ingest", "openorganelle", "two", "--plan")
    assert without.returncode == 2
    assert "recon-1/em/fibsem-uint8" in without.stderr


def test_what_is_asked_of_a_file_is_asked_of_the_job(stack: RunningStack, server: FileServer) -> None:
    url = server.put("/words.tif", a_tiff(5))
    words = ("--axes", "zyx", "--role", "labels", "--series", "0", "--store-verify", "full", "--set", "a=1", "--set", "b=x")
    done = emporter(stack, "ingest", url, *words, "--yes", "--watch")
    assert done.returncode == 0, done.stderr
    record = stack.record(done.stdout.strip())
    assert record["metadata"]["core"]["role"] == "labels"
    assert record["metadata"]["quality"]["verified"] == "full"


def test_what_was_browsed_is_piped_into_an_ingest(stack: RunningStack) -> None:
    environment = {**os.environ, "EMPORTER_IDR_BASE_URL": stack.omero}  # type: ignore[attr-defined]
    command = [str(EMPORTER), "browse", "idr", "dataset", str(DATASET)]
    found = subprocess.run([*command, "--ids"], env=environment, capture_output=True, text=True, check=True).stdout.split()
    done = emporter(stack, "ingest", "idr", *found)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == [f"idr-{number}" for number in found]
    asked = subprocess.run([*command, "--requests"], env=environment, capture_output=True, text=True, check=True).stdout
    watched = emporter(stack, "ingest", "-f", "-", said=asked)
    assert watched.returncode == 0, watched.stderr
    assert [line.split("\t")[:3] for line in watched.stdout.splitlines()[1:]] == [["idr", number, "complete"] for number in found]
