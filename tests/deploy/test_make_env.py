"""`.env` is made once, completed later, and never loses what somebody wrote into it."""

from __future__ import annotations

import runpy
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from emporter.connection import find_connection

ROOT = Path(__file__).resolve().parents[2]
SCRIPT: dict[str, Any] = runpy.run_path(str(ROOT / "deploy" / "make_env.py"))


EXAMPLE = (ROOT / ".env.example").read_text()
PASSWORD, KEY = "EMPORTER_NATS_PASSWORD", "EMPORTER_S3_SECRET_KEY"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / ".env.example").write_text(EXAMPLE)
    return tmp_path


def made(folder: Path) -> dict[str, str]:
    assert SCRIPT["main"](folder) == 0
    pairs: dict[str, str] = SCRIPT["assignments"]((folder / ".env").read_text())
    return pairs


def test_every_empty_secret_gets_a_value_of_its_own(folder: Path) -> None:
    pairs = made(folder)
    secret = [value for name, value in pairs.items() if name.endswith(SCRIPT["SECRET_NAMES"])]
    assert all(secret)
    assert len(set(secret)) == len(secret) >= 2
    assert pairs["NATS_PORT"] == "4222"


def test_a_secret_is_letters_and_digits_and_as_long_as_the_store_takes(folder: Path) -> None:
    secret = made(folder)[PASSWORD]
    assert secret.isalnum()
    assert secret[0].isalpha()
    assert len(secret) == 40


def test_nobody_else_may_read_it(folder: Path) -> None:
    made(folder)
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in (".env", ".env.client")} == {0o600}


def test_a_second_run_keeps_what_is_there_and_adds_what_is_new(folder: Path) -> None:
    before = made(folder)
    with (folder / ".env").open("a") as file:
        file.write("MINE=yes\n")
    (folder / ".env.example").write_text((folder / ".env.example").read_text() + "C_PASSWORD=\n")
    after = made(folder)
    assert {name: after[name] for name in before} == before
    assert after["MINE"] == "yes"
    assert after["C_PASSWORD"]


def test_the_example_gives_no_secret_away() -> None:
    pairs = SCRIPT["assignments"]((ROOT / ".env.example").read_text())
    assert {value for name, value in pairs.items() if name.endswith(SCRIPT["SECRET_NAMES"])} == {""}


def test_a_client_is_told_where_all_is_and_given_its_own_rights_only(folder: Path) -> None:
    (folder / ".env").write_text("CATALOG_PORT=9999\n")
    pairs = made(folder)
    script = f". {folder}/.env.client && env"
    told = dict(
        line.partition("=")[::2]
        for line in subprocess.run(
            ["/bin/sh", "-c", script], env={}, capture_output=True, text=True, check=True
        ).stdout.splitlines()
    )
    assert told["EMPORTER_CATALOG_URL"] == "http://127.0.0.1:9999"
    assert told["EMPORTER_NATS_PASSWORD"] == pairs["EMPORTER_CLIENT_NATS_PASSWORD"]
    assert told["EMPORTER_S3_SECRET_KEY"] == pairs["EMPORTER_CLIENT_S3_SECRET_KEY"]
    assert not {pairs[PASSWORD], pairs[KEY], pairs["MINIO_ROOT_PASSWORD"]} & set(told.values())


def test_the_client_reads_what_it_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = SCRIPT["assignments"]((made(folder), (folder / ".env.client").read_text().replace("export ", ""))[1])
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    found = find_connection()
    assert (found.nats, found.nats_user) == (values["EMPORTER_NATS_URL"], "client")
    assert found.nats_password == values["EMPORTER_NATS_PASSWORD"]
    assert (found.catalog, found.blocks) == (values["EMPORTER_CATALOG_URL"], values["EMPORTER_BLOCKS_URL"])
    assert found.inbox().s3_endpoint == values["EMPORTER_S3_ENDPOINT"]
    assert found.inbox().s3_secret_key.get_secret_value() == values["EMPORTER_S3_SECRET_KEY"]
