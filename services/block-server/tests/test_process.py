from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np

from block_server.testing import Made, commit
from emporter_runtime.objects import Objects
from emporter_runtime.testing import file_store, s3_server


def environment(settings) -> dict[str, str]:
    said = {
        "EMPORTER_STORE_URL": settings.store_url,
        "EMPORTER_S3_ENDPOINT": settings.s3_endpoint or "",
        "EMPORTER_S3_ACCESS_KEY": settings.s3_access_key,
        "EMPORTER_S3_SECRET_KEY": settings.s3_secret_key.get_secret_value(),
    }
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "EMPORTER_"))}
    return clean | {name: value for name, value in said.items() if value}


def started(env: dict[str, str]) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen([sys.executable, "-m", "block_server"], env=env, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if '"listening"' in line:
            return process, f"http://127.0.0.1:{json.loads(line)['port']}"
    raise AssertionError(f"it ended with {process.wait()}")


def stopped(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGTERM)
    process.stderr.read()
    process.stderr.close()
    return process.wait(30)


def test_the_service_serves_from_s3_with_keys_of_its_own_settings_and_stops_cleanly(tmp_path: Path):
    with s3_server(tmp_path / "s3") as settings:
        made = commit(Objects.open(settings), Made(np.arange(1000, dtype="u2").reshape(10, 10, 10), name="served"))
        process, url = started(environment(settings))
        try:
            assert httpx.get(f"{url}/readyz").json() == {"ready": True, "checks": {"store": True}}
            assert httpx.get(f"{url}/v1/volumes/{made.ref}/block").content == made.voxels.tobytes()
            assert "emporter_blocks_cache_hits_total" in httpx.get(f"{url}/metrics").text
        finally:
            assert stopped(process) == 0


def test_a_wrong_setting_is_named_and_ends_with_2():
    wrong = os.environ | {"EMPORTER_STORE_URL": "ftp://nowhere"}
    ended = subprocess.run(
        [sys.executable, "-m", "block_server"], env=wrong, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 2
    assert "EMPORTER_STORE_URL" in ended.stderr


def test_no_bus_is_ever_loaded(tmp_path: Path):
    look = "import block_server.__main__, sys; print([m for m in sys.modules if m.split('.')[0] in ('nats', 'faststream') or 'runtime.bus' in m])"
    env = environment(file_store(tmp_path))
    assert (
        subprocess.run([sys.executable, "-c", look], env=env, capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
