"""The catalog is away: ingest goes on, blocks are served, and it catches up. What can't be told is kept, and sent again."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import tifffile

from emporter.testing import RunningStack, running_stack
from emporter_contracts.commands import IngestRequest
from emporter_contracts.jobs import JobState
from emporter_runtime.testing_bus import free_port

EMPORTER = Path(sys.executable).with_name("emporter")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    roots = {"here": tmp_path_factory.mktemp("here")}
    env = {"EMPORTER_WEBHOOK_ALLOW_PRIVATE": "true"}
    with running_stack(tmp_path_factory.mktemp("stack"), store="file", env=env, file_roots=roots) as running:
        running.root = roots["here"]  # type: ignore[attr-defined]
        yield running


def phantom(stack: RunningStack, name: str, seed: int) -> np.ndarray:
    data = np.random.default_rng(seed).integers(0, 255, (7, 40, 50), "uint8")
    tifffile.imwrite(Path(stack.root) / name, data, photometric="minisblack")  # type: ignore[attr-defined]
    return data


def emporter(stack: RunningStack, *words: str) -> str:
    done = subprocess.run(
        [str(EMPORTER), *words, "--stack", str(stack.dir)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def catalogued(stack: RunningStack) -> dict[str, str]:
    try:
        return {row["volume"]: row["status"] for row in stack.client().volumes()}
    except Exception:
        return {}
    finally:
        stack.close_clients()


def test_with_the_catalog_down_volumes_are_made_and_served_and_it_catches_up(stack: RunningStack) -> None:
    # Stopped, not killed: the supervisor would have another one up before anything happened.
    stuck = stack.freeze("cataloger")
    client = stack.client()
    made = {}
    for n in range(3):
        data = phantom(stack, f"away-{n}.tif", n)
        status = client.wait(client.ingest(IngestRequest(source="file-root", source_id=f"here/away-{n}.tif")).job)
        assert status.state == JobState.COMPLETE, status.error
        np.testing.assert_array_equal(client.block(f"{status.job}@r1", (0, 0, 0), data.shape), data)
        made[status.job] = "complete"
    # What it held in its hands is lost with it: whoever comes after hears it again.
    stuck.kill()
    stack.restarted("cataloger", after=stuck.pid)
    stack.until(lambda: made.items() <= catalogued(stack).items(), "the catalog caught up", 120)


@contextmanager
def receiver(port: int) -> Iterator[list[str]]:
    told: list[str] = []

    class Take(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["content-length"])))["type"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Take) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield told
        finally:
            server.shutdown()
            thread.join()


def test_what_no_try_could_deliver_is_listed_and_sent_again_by_the_command_line(stack: RunningStack) -> None:
    port = free_port()
    made = json.loads(emporter(stack, "webhooks", "add", f"http://127.0.0.1:{port}/", "--type", "volume_complete", "--json"))
    assert made["secret"].startswith("whsec_")
    assert made["id"] in emporter(stack, "webhooks", "list")
    phantom(stack, "told.tif", 9)
    client = stack.client()
    client.wait(client.ingest(IngestRequest(source="file-root", source_id="here/told.tif")).job)

    def tried() -> bool:
        found = json.loads(emporter(stack, "webhooks", "deliveries", made["id"], "--json"))
        return [d["state"] for d in found] == ["pending"] and found[0]["tries"] > 0

    stack.until(tried, "the receiver that is down was tried")
    # Three days later: all tries are used up.
    with closing(sqlite3.connect(stack.dir / "catalog.db", timeout=30)) as database, database:
        database.execute("UPDATE deliveries SET state = 'dead'")
    assert "dead" in emporter(stack, "webhooks", "deliveries", made["id"], "--state", "dead")
    with receiver(port) as told:
        assert "1 sent again" in emporter(stack, "webhooks", "retry", made["id"])
        stack.until(lambda: told == ["io.emporter.volume_complete.v1"], "it was told", 60)
    assert json.loads(emporter(stack, "webhooks", "deliveries", made["id"], "--state", "dead", "--json")) == []
    emporter(stack, "webhooks", "rm", made["id"])


def test_the_catalog_is_exported_as_parquet(stack: RunningStack, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    emporter(stack, "catalog", "export", "--format", "parquet", "-o", str(tmp_path / "catalog.parquet"))
    rows = {row["volume"]: row for row in pq.read_table(tmp_path / "catalog.parquet").to_pylist()}
    listed = {row["volume"]: row for row in stack.client().volumes()}
    assert rows.keys() == listed.keys()
    for name, row in rows.items():
        assert [row[f"shape_{a}"] for a in "zyx"] == listed[name]["shape"]
        assert row["bytes"] == listed[name]["bytes"]


def test_from_nothing_but_the_store_bus_and_catalog_are_made_again(tmp_path: Path) -> None:
    """As docs/operations.md has it: the buckets are there, all else is lost."""
    folder, roots = tmp_path / "stack", {"here": tmp_path}
    with running_stack(folder, store="file", file_roots=roots) as stack:
        stack.root = tmp_path  # type: ignore[attr-defined]
        client = stack.client()
        data = [phantom(stack, f"v{n}.tif", n) for n in range(3)]
        jobs = [
            client.wait(client.ingest(IngestRequest(source="file-root", source_id=f"here/v{n}.tif")).job).job for n in range(3)
        ]
        emporter(stack, "tag", jobs[0], "reviewed=yes")
        emporter(stack, "rm", jobs[2], "--yes")
        stack.until(lambda: catalogued(stack).get(jobs[2]) == "removed", "the catalog knows of the removal")
        before = {row["volume"]: row for row in stack.client().volumes()}
        stack.close_clients()
    shutil.rmtree(folder / "nats")
    for file in folder.glob("catalog.db*"):
        file.unlink()
    with running_stack(folder, store="file", file_roots=roots) as stack:
        said = emporter(stack, "reconcile")
        assert "catalog: 3 revisions, 1 removed, 0 unreadable" in said
        stack.until(lambda: len(catalogued(stack)) == 3, "all is there again")
        after = {row["volume"]: row for row in stack.client().volumes()}
        for volume, row in before.items():
            assert {**after[volume], "latest_run": None} == {**row, "latest_run": None}
        assert after[jobs[0]]["annotations"] == {"reviewed": "yes"}
        np.testing.assert_array_equal(stack.client().block(f"{jobs[1]}@r1", (0, 0, 0), data[1].shape), data[1])
        assert stack.client().status(jobs[1]).state == JobState.COMPLETE
