"""The service as it is started: where it listens decides what it demands, and nothing it writes gives anybody in."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from block_server.testing import Made, commit
from emporter_contracts import storage
from emporter_contracts.ids import VolumeRef
from emporter_runtime.access_links import Link, LinkKeys
from emporter_runtime.access_tokens import changing, new_token
from emporter_runtime.objects import Objects
from emporter_runtime.testing import file_store

SECRET = "s" * 40


def environment(folder: Path, **settings: str) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "EMPORTER_"))}
    return clean | {"EMPORTER_STORE_URL": file_store(folder).store_url} | {f"EMPORTER_{k}": v for k, v in settings.items()}


def ended(env: dict[str, str]) -> tuple[int, str]:
    run = subprocess.run(
        [sys.executable, "-m", "block_server"], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    return run.returncode, run.stderr


def test_a_server_others_can_reach_does_not_start_without_saying_who_may_read(tmp_path: Path):
    status, said = ended(environment(tmp_path / "store", HTTP_HOST="0.0.0.0"))
    assert status == 1
    for word in ("emporter token new", "EMPORTER_ACCESS_FILE", "EMPORTER_ACCESS=open"):
        assert word in said


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ACCESS_FILE": "/nowhere/tokens.json"}, "emporter token new"),
        ({"LINK_SECRET_KEY": "short"}, "EMPORTER_LINK_SECRET_KEY"),
        ({"ACCESS": "required"}, "EMPORTER_ACCESS_FILE"),
    ],
)
def test_settings_that_can_not_be_kept_end_it_with_what_to_do(tmp_path: Path, settings: dict[str, str], said: str):
    status, lines = ended(environment(tmp_path / "store", **settings))
    assert status == 1
    assert said in lines
    assert "Traceback" not in lines


def test_a_running_server_demands_tokens_and_writes_neither_them_nor_links_to_its_log(tmp_path: Path):
    token, text = new_token("x", ["*"])
    with changing(tmp_path / "tokens.json") as replace:
        replace([token])
    env = environment(
        tmp_path / "store",
        HTTP_HOST="0.0.0.0",
        ACCESS_FILE=str(tmp_path / "tokens.json"),
        LINK_SECRET_KEY=SECRET,
        LOG_LEVEL="debug",
    )
    objects = Objects.open(file_store(tmp_path / "store"))
    made = commit(objects, Made(np.ones((40, 40, 40), "u1"), name="mine"))
    damaged = objects.local_path(storage.VOLUMES, storage.zarr_root("mine", 1) + "0/c/0/0/0")
    assert damaged is not None
    damaged.unlink()
    link = "/s/" + LinkKeys([SECRET]).sign(Link((VolumeRef("mine", 1),), int(time.time()) + 600))
    log = tmp_path / "log"
    with log.open("w") as stderr:
        process = subprocess.Popen([sys.executable, "-m", "block_server"], env=env, stderr=stderr)
    try:
        deadline = time.monotonic() + 60
        while '"listening"' not in log.read_text():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        port = log.read_text().split('"port": ')[1].split(",")[0].rstrip("}\n")
        base, headers = f"http://127.0.0.1:{port}", {"authorization": f"Bearer {text}"}
        assert httpx.get(f"{base}/healthz").status_code == 200
        assert httpx.get(f"{base}/v1/volumes").status_code == 401
        assert httpx.get(f"{base}/v1/volumes", headers=headers).status_code == 200
        assert httpx.get(f"{base}{link}/view/{made.ref}").status_code == 200
        for path in ("block?shape=8,8,8", "slice/z/0"):
            assert httpx.get(f"{base}/v1/volumes/{made.ref}/{path}", headers=headers).status_code == 502
            assert httpx.get(f"{base}{link}/v1/volumes/{made.ref}/{path}").status_code == 502
        assert httpx.get(f"{base}{link}/zarr/{made.ref}.ome.zarr/0/c/0/0/0").status_code == 502
        assert httpx.get(f"{base}{link[:-1]}/view/{made.ref}").status_code == 403
    finally:
        process.terminate()
        assert process.wait(60) == 0
    said = log.read_text()
    assert "not_served" in said
    for secret in (text[13:], link[3:20], link[-20:], SECRET):
        assert secret not in said
