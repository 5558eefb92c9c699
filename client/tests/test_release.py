"""`emporter release`: a revision a quality gate holds becomes current by an operator's word."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from emporter_contracts import storage
from emporter_runtime.objects import Objects
from emporter_runtime.testing import file_store

EMPORTER = Path(sys.executable).with_name("emporter")


@pytest.fixture
def store(tmp_path: Path) -> Objects:
    """A volume of one revision, held."""
    objects = Objects.open(file_store(tmp_path))
    for key in (storage.commit("epfl-v1", 1), storage.hold("epfl-v1", 1)):
        objects.put_sync(storage.VOLUMES, key, b"{}")
    return objects


def release(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    told = {"EMPORTER_STORE_URL": file_store(tmp_path).store_url, "EMPORTER_NATS_URL": "nats://127.0.0.1:1"}
    command = [str(EMPORTER), "release", *words]
    return subprocess.run(command, env={**os.environ, **told}, capture_output=True, text=True, check=False, timeout=60)


def test_a_released_revision_is_held_no_more_and_told_once(store: Objects, tmp_path: Path) -> None:
    done = release(tmp_path, "epfl-v1@r1", "--json")
    assert json.loads(done.stdout) == {"volume": "epfl-v1", "revision": 1, "released": True}
    assert store.find_sync(storage.VOLUMES, storage.hold("epfl-v1", 1)) is None
    again = release(tmp_path, "epfl-v1@r1")
    assert (again.returncode, len(again.stderr.splitlines())) == (2, 1)
    assert "is not held" in again.stderr


def test_a_release_names_one_revision(store: Objects, tmp_path: Path) -> None:
    done = release(tmp_path, "epfl-v1")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "epfl-v1@r<N>" in done.stderr
    assert store.find_sync(storage.VOLUMES, storage.hold("epfl-v1", 1)) is not None
