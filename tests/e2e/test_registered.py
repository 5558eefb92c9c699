"""Registering through the whole path: the command, the catalog, the client, and what rm and ingest make of it."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from emporter.cli.main import run
from emporter.registering import Wanted, look
from emporter.testing import RunningStack, running_stack
from emporter_archives import arrays
from emporter_archives.server import FileServer
from emporter_runtime.registering import commit
from emporter_runtime.roots import RootSettings

SHAPE = (40, 50, 60)


@dataclass
class Lab:
    stack: RunningStack
    web: FileServer
    files: Path

    def command(self, capsys: pytest.CaptureFixture[str], *words: str) -> Any:
        """What a command prints as JSON; it must succeed."""
        capsys.readouterr()
        status = run([*words, "--json", "--stack", str(self.stack.dir)])
        said = capsys.readouterr()
        assert status == 0, said.err
        return json.loads(said.out)

    def put(self, folder: str, voxels: NDArray[Any]) -> Path:
        zattrs = arrays.ome_zattrs([("s0", (2.96, 4.0, 5.0), (0.0, 0.0, 0.0)), ("s1", (5.92, 8.0, 10.0), (1.48, 2.0, 2.5))])
        zstd = {"id": "zstd", "level": 1}
        objects = {
            ".zgroup": b'{"zarr_format": 2}',
            ".zattrs": zattrs,
            **arrays.zarr2(voxels, path="s0", compressor=zstd),
            **arrays.zarr2(voxels[::2, ::2, ::2].copy(), path="s1", compressor=zstd),
        }
        for name, body in objects.items():
            path = self.files / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
        return self.files / folder


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    files = tmp_path_factory.mktemp("scope")
    with FileServer() as web, running_stack(tmp_path_factory.mktemp("stack"), file_roots={"scope": files}) as stack:
        yield Lab(stack, web, files)


def noise(seed: int = 0) -> NDArray[Any]:
    info = np.iinfo("int16")
    return np.random.default_rng(seed).integers(info.min, info.max, SHAPE, "int16", endpoint=True)


def fingerprint(folder: Path) -> dict[str, tuple[str, int]]:
    """Bytes and times of every file."""
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def row(lab: Lab, volume: str) -> dict[str, Any] | None:
    return next((row for row in lab.stack.client().volumes(managed="false") if row["volume"] == volume), None)


def test_a_folder_is_listed_served_copied_in_and_taken_away_without_being_touched(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    voxels = noise()
    folder = lab.put("cells.zarr", voxels)
    before = fingerprint(folder)
    (made,) = lab.command(capsys, "register", str(folder), "--name", "cells")
    assert (made["ref"], made["existing"]) == ("registered-cells@r1", False)
    (again,) = lab.command(capsys, "register", str(folder), "--name", "cells")
    assert (again["ref"], again["existing"]) == ("registered-cells@r1", True)

    lab.stack.until(lambda: row(lab, "registered-cells") is not None, "the catalog lists it")
    found = row(lab, "registered-cells")
    assert found is not None
    assert (found["managed"], found["status"], found["source"]) == (False, "complete", "file-root")
    client = lab.stack.client()
    assert "registered-cells" in {one["volume"] for one in client.volumes("cells")}
    assert "registered-cells" not in {one["volume"] for one in client.volumes(managed="true")}
    assert client.record("registered-cells")["metadata"]["core"]["voxel_size_nm"] == [2.96, 4.0, 5.0]
    volume = client.volume("registered-cells")
    np.testing.assert_array_equal(volume[3:23, 17:33, 31:60], voxels[3:23, 17:33, 31:60])

    assert lab.command(capsys, "show", "registered-cells")["managed"] is False
    for words in (["show", "registered-cells"], ["volumes"], ["du"]):
        assert run([*words, "--stack", str(lab.stack.dir)]) == 0, capsys.readouterr().err

    accepted = lab.command(capsys, "ingest", "registered-cells", "--yes")
    status = client.wait(accepted["job"])
    assert status.state == "complete", status.error
    (copied,) = client.volumes_of(status.job)
    np.testing.assert_array_equal(client.volume(copied)[:], voxels)
    assert lab.stack.record(copied)["metadata"]["core"]["voxel_size_nm"] == [2.96, 4.0, 5.0]
    assert lab.stack.record(copied)["managed"] is True

    lab.command(capsys, "rm", "registered-cells", "--yes")
    assert fingerprint(folder) == before
    answer = httpx.get(f"{lab.stack.urls.blocks}/v1/volumes/registered-cells")
    lab.stack.until(lambda: httpx.get(answer.url).status_code == 410, "it is gone")
    np.testing.assert_array_equal(client.volume(copied)[:], voxels)


def test_a_url_is_copied_in_by_the_same_source_and_a_changed_one_is_refused(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    voxels = noise(1)
    root = arrays.put(lab.web, "/em", arrays.precomputed(voxels, offset=(10, 20, 30), resolution=(2.96, 4, 5)))
    (made,) = lab.command(capsys, "register", f"precomputed://{root}", "--name", "em")
    client = lab.stack.client()
    np.testing.assert_array_equal(client.volume(made["ref"])[:], voxels)
    accepted = lab.command(capsys, "ingest", made["volume"], "--yes")
    status = client.wait(accepted["job"])
    assert status.state == "complete", status.error
    (copied,) = client.volumes_of(status.job)
    np.testing.assert_array_equal(client.volume(copied)[:], voxels)
    theirs, ours = client.volume(copied), client.volume(made["ref"])
    assert (ours.grid.voxel_size_nm, ours.grid.translation_nm) == (
        theirs.grid.voxel_size_nm,
        pytest.approx(theirs.grid.translation_nm),
    )
    assert ours.info["source_origin"] == theirs.info["source_origin"] == [10, 20, 30]

    name = next(path for path in lab.web.files if path.startswith("/em/") and not path.endswith("info"))
    lab.web.put(name, b"\0" * len(lab.web.files[name].content), modified="Fri, 01 Jan 2100 00:00:00 GMT")
    root_files = {path: lab.web.files[path].content for path in lab.web.files if path.endswith("/info")}
    for path, body in root_files.items():
        lab.web.put(path, bytes(body[:]) + b" ")
    lab.stack.until(
        lambda: httpx.get(f"{lab.stack.urls.blocks}/v1/volumes/{made['ref']}").status_code == 409, "the change is seen"
    )
    assert run(["ingest", made["volume"], "--yes", "--stack", str(lab.stack.dir)]) != 0
    assert "source" in capsys.readouterr().err
    assert run(["verify", made["volume"], "--stack", str(lab.stack.dir)]) != 0
    assert "read where it lies" in capsys.readouterr().err


def test_reconcile_tells_of_what_a_killed_registration_did_not(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """Committed, and killed before it could say so: as after a bus that lost its facts."""
    folder = lab.put("kept.zarr", noise(2))
    (one,) = asyncio.run(look(Wanted(str(folder), name="kept"), RootSettings(file_roots={"scope": lab.files})))
    asyncio.run(commit(lab.stack.objects(), one, 1))
    assert row(lab, "registered-kept") is None
    assert lab.command(capsys, "reconcile")["volumes"] >= 1
    lab.stack.until(lambda: row(lab, "registered-kept") is not None, "the catalog lists it")


def test_a_name_means_one_source_and_force_makes_a_new_revision_of_it(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = lab.put("first.zarr", noise(3)), lab.put("second.zarr", noise(4))
    lab.command(capsys, "register", str(first), "--name", "one")
    assert run(["register", str(second), "--name", "one", "--stack", str(lab.stack.dir)]) != 0
    said = capsys.readouterr().err
    assert "registered before" in said
    assert "--name" in said
    lab.put("first.zarr", noise(5))
    blocks = f"{lab.stack.urls.blocks}/v1/volumes/registered-one@r1/block?shape=8,8,8"
    assert httpx.get(blocks).json()["code"] == "source_changed"
    (again,) = lab.command(capsys, "register", str(first), "--name", "one", "--force")
    assert (again["ref"], again["existing"]) == ("registered-one@r2", False)
    volume = lab.stack.client().volume("registered-one@r2")
    np.testing.assert_array_equal(volume[:], noise(5))
    assert httpx.get(blocks).status_code == 409
