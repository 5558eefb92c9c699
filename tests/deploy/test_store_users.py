"""Who may do what in the store of the containers."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml

from emporter_contracts.storage import BUCKETS, INBOX, RAW, VOLUMES

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "minio"
SCRIPT = FOLDER / "users.sh"
GIVEN = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["s3-users"]["environment"]

FAKE_MC = """#!/bin/sh
echo "$*" >> "$CALLS"
case "$*" in *attach*) echo "$SAYS"; exit "$CODE" ;; esac
"""
"""Stands where mc would, because only an engine has the real one: it writes down what it is asked and answers as mc does."""


def allowed(policy: str, action: str, resource: str) -> bool:
    """As S3 decides: anything that no statement allows is refused."""
    statements: list[dict[str, Any]] = json.loads((FOLDER / f"{policy}.json").read_text())["Statement"]
    assert all(s["Effect"] == "Allow" for s in statements)
    return any(
        any(fnmatchcase(action, pattern) for pattern in s["Action"])
        and any(fnmatchcase(f"arn:aws:s3:::{resource}", pattern) for pattern in s["Resource"])
        for s in statements
    )


def run(tmp_path: Path, *, says: str = "", code: int = 0) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    mc = tmp_path / "mc"
    mc.write_text(FAKE_MC)
    mc.chmod(mc.stat().st_mode | stat.S_IXUSR)
    calls = tmp_path / "calls"
    values = {name: name.lower() for name in GIVEN} | {"CALLS": str(calls), "SAYS": says, "CODE": str(code)}
    done = subprocess.run(
        ["/bin/sh", SCRIPT],
        env=values | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return done, calls.read_text().splitlines()


@pytest.mark.parametrize("bucket", BUCKETS)
@pytest.mark.parametrize("action", ["s3:CreateBucket", "s3:ListBucket", "s3:PutObject", "s3:DeleteObject"])
def test_the_services_may_do_everything_in_our_buckets(bucket: str, action: str) -> None:
    assert allowed("emporter-services", action, bucket if "Bucket" in action else f"{bucket}/a/b")


def test_the_services_may_do_nothing_in_anybody_elses() -> None:
    assert not allowed("emporter-services", "s3:ListBucket", "payroll")
    assert not allowed("emporter-services", "s3:GetObject", "payroll/a")


@pytest.mark.parametrize("action", ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"])
def test_a_client_may_read_and_write_the_inbox_and_nothing_else(action: str) -> None:
    assert allowed("emporter-client", action, f"{INBOX}/upload/stack.tif")
    assert not allowed("emporter-client", action, f"{RAW}/objects/a/0")
    assert not allowed("emporter-client", action, f"{VOLUMES}/v/commits/00000001.json")


@pytest.mark.parametrize("action", ["s3:ListBucket", "s3:GetBucketLocation", "s3:ListBucketMultipartUploads"])
def test_a_client_may_look_into_the_inbox_only(action: str) -> None:
    assert allowed("emporter-client", action, INBOX)
    assert not allowed("emporter-client", action, RAW)
    assert not allowed("emporter-client", action, VOLUMES)


@pytest.mark.parametrize("action", ["s3:DeleteObject", "s3:DeleteBucket", "s3:PutBucketPolicy", "s3:CreateBucket"])
def test_a_client_may_take_nothing_away_and_make_no_bucket(action: str) -> None:
    assert not allowed("emporter-client", action, INBOX)
    assert not allowed("emporter-client", action, f"{INBOX}/upload/stack.tif")


def test_each_user_gets_its_own_policy_and_no_other(tmp_path: Path) -> None:
    done, calls = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert [c for c in calls if "policy attach" in c] == [
        "admin policy attach store emporter-services --user emporter_s3_access_key",
        "admin policy attach store emporter-client --user emporter_client_s3_access_key",
    ]
    files = [match[1] for c in calls if (match := re.search(r"policy create store \S+ (\S+)$", c))]
    assert [Path(file).name for file in files] == ["emporter-services.json", "emporter-client.json"]
    assert all(Path(file).exists() for file in files)


def test_running_it_again_is_no_failure(tmp_path: Path) -> None:
    done, calls = run(tmp_path, says="mc: <ERROR> The specified policy change is already in effect.", code=1)
    assert done.returncode == 0
    assert len([c for c in calls if "attach" in c]) == 2


def test_any_other_refusal_ends_it_and_is_shown(tmp_path: Path) -> None:
    done, calls = run(tmp_path, says="mc: <ERROR> Access denied.", code=1)
    assert done.returncode == 1
    assert "Access denied" in done.stderr
    assert len([c for c in calls if "attach" in c]) == 1
