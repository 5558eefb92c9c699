"""A mistake gets one line that says what to do, and exit status 2; never a traceback. No stack is needed for these."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EMPORTER = Path(sys.executable).with_name("emporter")


def emporter(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {name: value for name, value in os.environ.items() if not name.startswith("EMPORTER_")}
    return subprocess.run(
        [str(EMPORTER), *arguments],
        cwd=cwd,
        env={**known, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def assert_one_line(done: subprocess.CompletedProcess[str], *words: str, status: int = 2) -> None:
    assert done.returncode == status, done
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("emporter: ")
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        *(
            "jobs",
            "volumes",
            "status x",
            "watch x",
            "watch",
            "cancel x",
            "retry x",
            "show x",
            "catalog export",
            "reconcile",
            "rm x -y",
        ),
        *("ingest epfl training", "ingest https://example.org/x.tif", "block x --origin 0,0,0 --shape 1,1,1 -o x.npy"),
    ],
)
def test_without_a_stack(tmp_path: Path, command: str) -> None:
    assert_one_line(emporter(*command.split(), cwd=tmp_path), "there is no stack in", "emporter up")


def test_the_stack_that_is_named_is_the_one_that_is_missed(tmp_path: Path) -> None:
    for arguments in (("--stack", "here", "jobs"), ("jobs", "--stack", "here")):
        assert_one_line(emporter(*arguments, cwd=tmp_path), f"{tmp_path}/here", "emporter up --data here")


def test_a_stack_elsewhere_that_does_not_answer(tmp_path: Path) -> None:
    done = emporter("ingest", "epfl", "training", cwd=tmp_path, EMPORTER_NATS_URL="nats://127.0.0.1:9")
    assert_one_line(done, "nats://127.0.0.1:9 does not answer", "emporter doctor")
    done = emporter("volumes", cwd=tmp_path, EMPORTER_CATALOG_URL="http://127.0.0.1:9")
    assert_one_line(done, "http://127.0.0.1:9 does not answer")


@pytest.mark.parametrize("command", ["gc --dry-run", "gc --yes", "reconcile"])
def test_a_bus_that_does_not_answer_is_not_waited_for_by_an_operator(tmp_path: Path, command: str) -> None:
    given = {"EMPORTER_NATS_URL": "nats://127.0.0.1:9", "EMPORTER_STORE_URL": f"file://{tmp_path}"}
    done = emporter(*command.split(), cwd=tmp_path, **given)
    assert_one_line(done, "nats://127.0.0.1:9 does not answer", "emporter doctor")


def test_an_address_that_nobody_told(tmp_path: Path) -> None:
    assert_one_line(emporter("jobs", cwd=tmp_path, EMPORTER_NATS_URL="nats://127.0.0.1:9"), "EMPORTER_CATALOG_URL")
    assert_one_line(emporter("status", "x", cwd=tmp_path, EMPORTER_CATALOG_URL="http://127.0.0.1:9"), "EMPORTER_NATS_URL")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ingest", "nowhere.tif"], ["there is no file nowhere.tif", "epfl"]),
        (["ingest", "epfll", "training"], ["there is no archive 'epfll'", "did you mean epfl?"]),
        (["ingest", "epfl"], ["epfl is an archive", "emporter ingest epfl ID"]),
        (["ingest", "https://a.org/x.tif", "https://a.org/y.tif"], ["one URL at a time"]),
        (["ingest", "epfl", "training", "--name", "x"], ["--name is for uploaded files"]),
        (["ingest", "epfl", "training", "--seed", "1"], ["--seed belongs to --random"]),
        (["ingest", "epfl", "training", "--region", "0:1,0:1"], ["--region 0:1,0:1", "z0:z1,y0:y1,x0:x1"]),
        (["ingest", "epfl", "training", "--region", "5:5,0:1,0:1"], ["holds no voxel"]),
        (["ingest", "epfl", "training", "--region", "0:1,0:1,0:1", "--random", "1,1,1"], ["exclude each other"]),
        (["ingest", "epfl", "training", "--random", "1,x,1"], ["--random 1,x,1", "whole numbers z,y,x"]),
        (["ingest", "epfl", "training", "--random", "0,1,1"], ["at least 1"]),
        (["ingest", "epfl", "training", "--voxel-size-nm", "5,5"], ["--voxel-size-nm 5,5"]),
        (["ingest", "epfl", "training", "--voxel-size-nm", "5,5,-1"], ["nanometres are positive"]),
        (["ingest", "epfl", "training", "--store-codec", "gzip"], ["--store-codec", "zstd"]),
        (["ingest"], ["Missing argument", "emporter ingest --help"]),
        (["block", "x", "--origin", "0,0", "--shape", "1,1,1", "-o", "x.npy"], ["--origin 0,0"]),
        (["block", "x", "--origin", "0,0,0", "--shape", "1,1,1", "-o", "x.jpg"], [".npy, .tif"]),
        (["block", "x", "--origin", "0,0,0", "--shape", "1,1,1", "-o", "no/folder/x.npy"], ["there is no folder"]),
        (["block", "x", "--origin", "0,0,0", "-o", "x.npy"], ["--shape", "emporter block --help"]),
        (["up", "--store", "tape"], ["--store", "s3"]),
        (["up", "--file-root", "scope1"], ["write NAME=PATH"]),
        (["up", "--file-root", "scope1=/no/such/folder"], ["there is no folder /no/such/folder"]),
        (["demo", "nowhere.tif"], ["there is no file nowhere.tif"]),
        (["catalog", "export", "--csv", "--json"], ["exclude each other"]),
        (["rm", "No Volume!", "--yes"], ["is no volume"]),
        (["jbos"], ["jbos", "emporter --help"]),
        (["jobs", "--color"], ["--color", "emporter jobs --help"]),
    ],
    ids=" ".join,
)
def test_what_can_be_seen_before_anything_is_asked(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    assert_one_line(emporter(*arguments, cwd=tmp_path), *words)


def test_down_without_a_stack_is_no_mistake(tmp_path: Path) -> None:
    done = emporter("down", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "No stack is up" in done.stdout


def test_doctor_says_what_is_missing_and_fails(tmp_path: Path) -> None:
    done = emporter("doctor", cwd=tmp_path)
    assert done.returncode == 1
    assert "NOT  stack: there is no stack in" in done.stdout
    assert "ok   nats-server" in done.stdout


def test_a_folder_one_may_not_write_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert_one_line(emporter("up", "--detach", "--data", "file/stack", cwd=tmp_path), "can't make", "--data", status=1)


def test_help_and_mistakes_load_no_heavy_library(tmp_path: Path) -> None:
    heavy = ("numpy", "tifffile", "imagecodecs", "nats", "obstore", "httpx", "asyncio", "zarr", "faststream")
    program = (
        "import sys; from emporter.cli.main import run; status = run(sys.argv[1:]); "
        f"print(status, [name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )
    for arguments in (["--help"], ["ingest", "--help"], ["--version"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert done.stderr.splitlines()[-1] == "0 []", done.stderr


def test_the_version_is_printed(tmp_path: Path) -> None:
    assert emporter("--version", cwd=tmp_path).stdout.startswith("emporter 0.")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-f", "nowhere.yaml"], ["nowhere.yaml", "No such file"]),
        (["-f", "bad.yaml"], ["bad.yaml line 2, entry 1", "sauce", "did you mean source"]),
        (["-f", "bad.yaml", "idr"], ["-f FILE says what to ingest"]),
        (["-f", "bad.yaml", "--region", "0:1,0:1,0:1"], ["--region is for one request"]),
        (["idr", "1", "--checksums", "x.json"], ["--checksums belongs to -f FILE"]),
        (["idr", "1", "--set", "dataset"], ["--set dataset: write name=value"]),
        (["idr", "1", "--set", "a=1", "--set", "a=2"], ["--set a stands here twice"]),
    ],
)
def test_mistakes_in_and_beside_a_file_of_requests(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    (tmp_path / "bad.yaml").write_text("requests:\n  - sauce: idr\n")
    assert_one_line(emporter("ingest", *arguments, cwd=tmp_path), *words)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KEEP_FAILED_DAYS", "-1"),
        ("KEEP_FAILED_DAYS", "inf"),
        ("KEEP_FAILED_DAYS", "nan"),
        ("KEEP_UNNAMED_HOURS", "soon"),
        ("KEEP_REVISIONS", "0"),
        ("STORE_URL", "ftp://here"),
    ],
)
def test_a_setting_that_cant_be_is_named_with_its_reason_and_is_no_bug(tmp_path: Path, name: str, value: str) -> None:
    given = {"EMPORTER_NATS_URL": "nats://127.0.0.1:9", "EMPORTER_STORE_URL": f"file://{tmp_path}", f"EMPORTER_{name}": value}
    done = emporter("gc", "--dry-run", cwd=tmp_path, **given)
    assert_one_line(done, f"emporter: EMPORTER_{name}: ", "EMPORTER_CONFIG")
    assert "bug" not in done.stderr
