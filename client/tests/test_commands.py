"""The commands against a real stack, as a user types them."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from emporter.testing import RunningStack, running_stack

EMPORTER = Path(sys.executable).with_name("emporter")
SHAPE = (20, 150, 170)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    roots = tmp_path_factory.mktemp("scope1")
    tifffile.imwrite(roots / "rooted.tif", volume(3), photometric="minisblack")
    with running_stack(tmp_path_factory.mktemp("stack"), file_roots={"scope1": roots}) as made:
        yield made


@pytest.fixture(scope="module")
def ingested(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A volume that is there, made of `volume(1)`."""
    file = a_tiff(tmp_path_factory.mktemp("files") / "First Stack.tif", volume(1))
    done = emporter(stack, "ingest", str(file), "--voxel-size-nm", "40,8,?", "--watch", "--yes")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def volume(seed: int) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(0, 60_000, SHAPE, dtype=np.uint16)


def a_tiff(path: Path, voxels: NDArray[Any]) -> Path:
    tifffile.imwrite(path, voxels, photometric="minisblack")
    return path


def interruptible() -> None:
    """In a new process: Ctrl-C counts, as in a terminal's. Whoever runs tests in the background of a shell hands on that it doesn't."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def emporter(stack: RunningStack, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(EMPORTER), *arguments, "--stack", str(stack.dir)], capture_output=True, text=True, check=False, timeout=120, cwd=cwd
    )


def said(stack: RunningStack, *arguments: str) -> Any:
    done = emporter(stack, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_one_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr


def test_an_ingest_that_is_watched_ends_with_the_volumes_name(ingested: str) -> None:
    assert ingested.startswith("inbox-first-stack-")
    assert ingested.endswith("@r1")


def test_a_job_is_shown_where_it_stands(stack: RunningStack, ingested: str) -> None:
    job = ingested.removesuffix("@r1")
    status = said(stack, "status", job)
    assert (status["state"], status["revision"]) == ("complete", 1)
    assert job in {found["job"] for found in said(stack, "jobs")}
    assert job in emporter(stack, "jobs").stdout
    assert "complete" in emporter(stack, "status", job).stdout
    watched = emporter(stack, "watch", job)
    assert (watched.returncode, watched.stdout.strip()) == (0, ingested)


def test_the_catalog_has_its_row_and_its_record(stack: RunningStack, ingested: str) -> None:
    name = ingested.removesuffix("@r1")
    stack.until(lambda: said(stack, "show", ingested)["status"] == "complete", "the catalog heard of the volume")
    (row,) = (row for row in said(stack, "volumes") if row["volume"] == name)
    assert tuple(row["shape"]) == SHAPE
    assert row["voxel_size_nm"] == [40.0, 8.0, None]
    shown = emporter(stack, "show", name).stdout
    assert "40,8,? nm (z,y,x; said by user, user, nobody)" in shown
    assert "20,150,170 (z,y,x)" in shown
    assert name in emporter(stack, "volumes", "-q", "first").stdout
    assert name not in emporter(stack, "volumes", "-q", "nothingofthatname").stdout


def test_the_whole_catalog_is_written(stack: RunningStack, ingested: str, tmp_path: Path) -> None:
    name = ingested.removesuffix("@r1")
    rows = list(csv.DictReader(io.StringIO(emporter(stack, "catalog", "export", "--csv").stdout)))
    assert name in {row["volume"] for row in rows}
    assert emporter(stack, "catalog", "export", "--json", "-o", str(tmp_path / "catalog.json")).returncode == 0
    assert name in (tmp_path / "catalog.json").read_text()


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_a_block_is_the_sources_voxels(stack: RunningStack, ingested: str, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"out{suffix}"
    done = emporter(stack, "block", ingested, "--origin", "3,17,33", "--shape", "10,64,65", "-o", str(out))
    assert done.returncode == 0, done.stderr
    read = np.load(out) if suffix == ".npy" else tifffile.imread(out)
    assert read.dtype == np.uint16
    assert np.array_equal(read, volume(1)[3:13, 17:81, 33:98])


def test_a_block_as_a_picture_is_its_middle_slice(stack: RunningStack, ingested: str, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    done = emporter(stack, "block", ingested, "--origin", "0,0,0", "--shape", "20,30,40", "-o", str(out))
    assert done.returncode == 0, done.stderr
    picture = imagecodecs.png_decode(out.read_bytes())
    assert (picture.shape, picture.dtype) == ((30, 40), np.uint8)
    order = np.argsort(volume(1)[10, :30, :40].ravel(), kind="stable")
    assert (np.diff(picture.ravel()[order].astype(int)) >= 0).all()


def test_a_block_outside_is_refused_in_one_line(stack: RunningStack, ingested: str, tmp_path: Path) -> None:
    done = emporter(stack, "block", ingested, "--origin", "15,0,0", "--shape", "10,10,10", "-o", str(tmp_path / "x.npy"))
    assert_one_line(done)
    assert not (tmp_path / "x.npy").exists()


@pytest.mark.parametrize(
    "command", ["status nojob", "watch nojob", "cancel nojob", "retry nojob", "show novolume", "rm novolume --yes"]
)
def test_what_does_not_exist_is_named_in_one_line(stack: RunningStack, command: str) -> None:
    assert_one_line(emporter(stack, *command.split()), command.split()[1])


def test_a_wrong_name_in_an_archive_is_one_line(stack: RunningStack) -> None:
    assert_one_line(emporter(stack, "ingest", "epfl", "no-such-dataset"), "no-such-dataset")
    assert_one_line(emporter(stack, "ingest", "file-root:scope1/nothing.tif"), "nothing.tif")
    assert_one_line(emporter(stack, "ingest", "file-root", "scope2/x.tif"), "scope2")


def test_a_plan_is_made_and_nothing_stored(stack: RunningStack) -> None:
    plan = said(stack, "ingest", "file-root:scope1/rooted.tif", "--plan", "--region", "0:10,0:100,20:120")
    assert plan["volumes"][0]["shape"] == [10, 100, 100]
    assert plan["fits"]
    assert plan["job"] not in {job["job"] for job in said(stack, "jobs")}


def test_the_same_again_is_the_same_job_and_force_is_a_new_revision(stack: RunningStack) -> None:
    words = ("ingest", "file-root:scope1/rooted.tif", "--yes")
    first = emporter(stack, *words, "--watch")
    assert first.returncode == 0, first.stderr
    assert first.stdout.strip().endswith("@r1")
    again = said(stack, *words)
    assert again["existing"]
    assert emporter(stack, *words, "--force", "convert", "--watch").stdout.strip().endswith("@r2")


def test_a_failed_job_says_code_and_hint_and_exits_with_1(stack: RunningStack, tmp_path: Path) -> None:
    (tmp_path / "broken.tif").write_bytes(a_tiff(tmp_path / "whole.tif", volume(4)).read_bytes()[:-100_000])
    done = emporter(stack, "ingest", str(tmp_path / "broken.tif"), "--watch", "--yes")
    if done.returncode == 2:
        assert_one_line(done, "broken.tif")
        return
    assert done.returncode == 1
    assert "failed: " in done.stderr.splitlines()[-1]
    assert "broken.tif" in done.stderr.splitlines()[-1]


def test_interrupting_a_watch_leaves_the_job_running(stack: RunningStack, tmp_path: Path) -> None:
    file = a_tiff(tmp_path / "slow.tif", volume(5))
    frozen = stack.freeze("converter")
    try:
        command = [str(EMPORTER), "ingest", str(file), "--watch", "--yes", "--stack", str(stack.dir)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        watching = subprocess.Popen(command, preexec_fn=interruptible, **pipes)  # noqa: PLW1509  # it takes no lock
        assert watching.stderr is not None
        while "processing" not in (line := watching.stderr.readline()):
            assert line or watching.poll() is None
        watching.send_signal(signal.SIGINT)
        _, rest = watching.communicate(timeout=30)
        assert watching.returncode == 130
        assert "look again with: emporter watch inbox-slow-" in rest
        assert "Traceback" not in rest
    finally:
        frozen.resume()
    job = rest.strip().rsplit(" ", 1)[-1]
    assert emporter(stack, "watch", job).returncode == 0


def test_a_cancelled_job_ends_its_watch_with_130_and_can_be_retried(stack: RunningStack, tmp_path: Path) -> None:
    file = a_tiff(tmp_path / "cancelled.tif", volume(6))
    frozen = stack.freeze("converter")
    try:
        job = said(stack, "ingest", str(file), "--yes")["job"]
        watching = subprocess.Popen(
            [str(EMPORTER), "watch", job, "--stack", str(stack.dir)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        stack.until(lambda: said(stack, "status", job)["state"] == "processing", "it is being worked on")
        assert said(stack, "cancel", job)["state"] == "cancelled"
        _, told = watching.communicate(timeout=30)
        assert watching.returncode == 130
        assert f"emporter retry {job}" in told
        assert_one_line(emporter(stack, "cancel", job), job)
    finally:
        frozen.resume()
    assert said(stack, "retry", job)["generation"] == 2
    assert emporter(stack, "watch", job).returncode == 0


def test_a_removed_revision_is_gone_and_its_row_says_so(stack: RunningStack, tmp_path: Path) -> None:
    done = emporter(stack, "ingest", str(a_tiff(tmp_path / "removed.tif", volume(7))), "--watch", "--yes")
    ref = done.stdout.strip()
    assert said(stack, "rm", ref, "--yes")["revisions"] == [1]
    stack.until(
        lambda: (
            emporter(stack, "block", ref, "--origin", "0,0,0", "--shape", "1,1,1", "-o", str(tmp_path / "x.npy")).returncode == 2
        ),
        "the block-server knows",
    )
    stack.until(lambda: said(stack, "show", ref)["removed"], "the catalog knows")


def test_reconcile_changes_nothing_that_is_well(stack: RunningStack, ingested: str) -> None:
    found = said(stack, "reconcile")
    assert found["jobs"] >= 1
    assert found["resumed"] == []
    assert said(stack, "status", ingested.removesuffix("@r1"))["state"] == "complete"


def test_doctor_finds_a_stack_that_is_well_and_names_what_is_not(stack: RunningStack) -> None:
    done = emporter(stack, "doctor")
    assert done.returncode == 0, done.stdout
    frozen = stack.freeze("block-server")
    try:
        ill = emporter(stack, "doctor")
        assert ill.returncode == 1
        assert "NOT  block-server" in ill.stdout
    finally:
        frozen.resume()


def test_up_where_a_stack_is_up_says_so(stack: RunningStack) -> None:
    done = subprocess.run(
        [str(EMPORTER), "up", "--data", str(stack.dir)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "is up already" in done.stdout


def test_up_in_the_foreground_stops_in_order_on_ctrl_c(tmp_path: Path) -> None:
    command = [str(EMPORTER), "up", "--store", "file", "--data", str(tmp_path / "stack")]
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
    )
    assert running.stdout is not None
    assert "is up after" in running.stdout.readline()
    began = time.monotonic()
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 0
    assert "Traceback" not in told
    assert time.monotonic() - began < 60


def test_up_detached_returns_and_down_stops_it(tmp_path: Path) -> None:
    there = ["--data", str(tmp_path)]
    up = subprocess.run([str(EMPORTER), "up", "--detach", "--store", "file", *there], capture_output=True, text=True, check=False)
    assert up.returncode == 0, up.stderr
    assert "emporter down" in up.stdout
    down = subprocess.run([str(EMPORTER), "down", *there], capture_output=True, text=True, check=False)
    assert (down.returncode, "is down" in down.stdout) == (0, True)
