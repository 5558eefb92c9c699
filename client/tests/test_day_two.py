"""What is done once volumes are there: annotate, cite, look at room and logs, rest a job, take garbage away."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from emporter.testing import RunningStack, running_stack
from emporter_contracts import storage

EMPORTER = Path(sys.executable).with_name("emporter")
SHAPE = (40, 64, 64)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    with running_stack(tmp_path_factory.mktemp("stack")) as made:
        yield made


@pytest.fixture(scope="module")
def volumes(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two volumes, without their revision."""
    folder = tmp_path_factory.mktemp("files")
    found = []
    for n in range(2):
        voxels = np.random.default_rng(n).integers(0, 60_000, SHAPE, dtype=np.uint16)
        tifffile.imwrite(folder / f"day-{n}.tif", voxels, photometric="minisblack")
        done = emporter(stack, "ingest", str(folder / f"day-{n}.tif"), "--watch", "--yes")
        assert done.returncode == 0, done.stderr
        found.append(done.stdout.strip().split("@")[0])
    return found


def emporter(stack: RunningStack, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(EMPORTER), *arguments, "--stack", str(stack.dir)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def said(stack: RunningStack, *arguments: str) -> Any:
    done = emporter(stack, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_tag_is_set_found_and_taken_away(stack: RunningStack, volumes: list[str]) -> None:
    assert said(stack, "tag", volumes[0], "stain=osmium tetroxide", "lab=north") == {"stain": "osmium tetroxide", "lab": "north"}
    assert [row["volume"] for row in said(stack, "volumes", "-q", "osmium")] == [volumes[0]]
    assert said(stack, "tag", volumes[0], "stain=") == {"lab": "north"}
    assert said(stack, "volumes", "-q", "osmium") == []


def test_lists_are_narrowed_to_what_gates_said_and_what_is_held(stack: RunningStack, volumes: list[str]) -> None:
    assert {row["verdict"] for row in said(stack, "volumes", "--not-held")} <= {"pass", "warn", "fail"}
    assert {row["volume"] for row in said(stack, "volumes", "--not-held")} >= set(volumes)
    assert said(stack, "volumes", "--held") == []
    assert said(stack, "volumes", "--verdict", "fail", "-q", volumes[0]) == []
    assert "pass, warn, fail" in emporter(stack, "volumes", "--verdict", "bad").stderr
    assert {row["volume"] for row in said(stack, "volumes", "--gate", "voxel_size:pass")} >= set(volumes)
    assert "voxel_size" in emporter(stack, "volumes", "--gate", "size").stderr


@pytest.mark.parametrize(
    ("words", "hint"), [(["nothing"], "KEY=VALUE"), (["1key=value"], "letter"), (["key=" + "x" * 501], "500")]
)
def test_a_tag_that_is_none_is_one_line(stack: RunningStack, volumes: list[str], words: list[str], hint: str) -> None:
    done = emporter(stack, "tag", volumes[0], *words)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert hint in done.stderr


def test_several_volumes_are_cited_at_once_each_once(stack: RunningStack, volumes: list[str], tmp_path: Path) -> None:
    done = emporter(stack, "cite", *volumes, volumes[0])
    assert done.returncode == 0, done.stderr
    assert [done.stdout.count(f"{volume}-r1") for volume in volumes] == [1, 1]
    assert done.stdout.startswith("@")
    file = tmp_path / "cited.json"
    assert emporter(stack, "cite", *volumes, "--csl", "-o", str(file)).returncode == 0
    assert [item["id"] for item in json.loads(file.read_text())] == [f"{volume}-r1" for volume in volumes]


def test_a_set_is_cited_by_what_its_volumes_have_in_common(stack: RunningStack, volumes: list[str]) -> None:
    cited = [item["id"] for item in said(stack, "cite", "--source", "inbox")]
    assert {f"{volume}-r1" for volume in volumes} <= set(cited)
    assert said(stack, "cite", "-q", "nothingofthatname") == []
    for words in (), (volumes[0], "-q", "x"):
        assert "-q and --source" in emporter(stack, "cite", *words).stderr


def test_what_is_not_in_the_catalog_is_not_cited(stack: RunningStack) -> None:
    done = emporter(stack, "cite", "no-such-volume")
    assert done.returncode == 2
    assert "no-such-volume" in done.stderr


def test_du_adds_up_to_what_is_stored(stack: RunningStack, volumes: list[str]) -> None:
    rows = {row["what"]: row for row in said(stack, "du")}
    objects = stack.objects()
    for volume in volumes:
        sizes = objects.sizes_sync(storage.VOLUMES, f"{volume}/")
        assert (rows[volume]["objects"], rows[volume]["bytes"]) == (len(sizes), sum(sizes.values()))
    assert rows["uploads"]["bytes"] == sum(objects.sizes_sync(storage.INBOX, "").values())
    assert "total" in emporter(stack, "du").stdout


def test_logs_of_one_job_are_in_order_and_of_no_other(stack: RunningStack, volumes: list[str]) -> None:
    done = emporter(stack, "logs", volumes[0], "--json")
    entries = [json.loads(line) for line in done.stdout.splitlines()]
    assert {"fetcher", "converter"} <= {entry["service"] for entry in entries}
    assert {entry.get("job", volumes[0]) for entry in entries} == {volumes[0]}
    times = [entry["timestamp"] for entry in entries]
    assert times == sorted(times)
    assert "nothing was written about no-such-job" in emporter(stack, "logs", "no-such-job").stderr


def test_gc_leaves_what_is_young_and_says_what_it_would_take(stack: RunningStack, volumes: list[str]) -> None:
    before = stack.objects().sizes_sync(storage.VOLUMES, "")
    found = said(stack, "gc", "--dry-run")
    assert found["revisions"] == []
    assert said(stack, "gc", "--yes")["revisions"] == []
    assert stack.objects().sizes_sync(storage.VOLUMES, "") == before
    assert all(f"{volume}/r1.ome.zarr/zarr.json" in before for volume in volumes)


def test_a_job_that_has_ended_neither_rests_nor_goes_on(stack: RunningStack, volumes: list[str]) -> None:
    for command in ("pause", "resume"):
        done = emporter(stack, command, volumes[0])
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1


def test_old_metadata_files_become_one_catalog(stack: RunningStack, tmp_path: Path) -> None:
    old = {
        "source": "epfl",
        "source_id": "hippocampus",
        "status": "error: 404",
        "timestamp": "2023-04-05 06:07:08",
        "local_paths": {},
    }
    (tmp_path / "old.json").write_text(json.dumps(old))
    command = [str(EMPORTER), "consolidate", str(tmp_path), "--legacy"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [catalog] = tmp_path.glob("metadata_catalog_*.json")
    assert [v["volume"] for v in json.loads(catalog.read_text())["volumes"]] == ["epfl-hippocampus"]
    assert emporter(stack, "consolidate", str(tmp_path / "nowhere")).returncode == 2
    assert emporter(stack, "consolidate", str(tmp_path), "--legacy", "--import").returncode == 0
    assert said(stack, "show", "epfl-hippocampus")["status"] == "failed"
