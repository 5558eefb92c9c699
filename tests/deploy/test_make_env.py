"""`.env` is made once, completed later, and never loses what somebody wrote into it."""

from __future__ import annotations

import runpy
import stat
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT: dict[str, Any] = runpy.run_path(str(ROOT / "deploy" / "make_env.py"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / ".env.example").write_text("# why\nUSER=services\nA_PASSWORD=\nB_SECRET_KEY=\n\nPORT=4222\n#OPTIONAL=1\n")
    return tmp_path


def made(folder: Path) -> dict[str, str]:
    assert SCRIPT["main"](folder) == 0
    pairs: dict[str, str] = SCRIPT["assignments"]((folder / ".env").read_text())
    return pairs


def test_every_empty_secret_gets_a_value_of_its_own(folder: Path) -> None:
    pairs = made(folder)
    assert pairs.keys() == {"USER", "A_PASSWORD", "B_SECRET_KEY", "PORT"}
    assert pairs["A_PASSWORD"] != pairs["B_SECRET_KEY"]
    assert (pairs["USER"], pairs["PORT"]) == ("services", "4222")


def test_a_secret_is_letters_and_digits_and_as_long_as_the_store_takes(folder: Path) -> None:
    secret = made(folder)["A_PASSWORD"]
    assert secret.isalnum()
    assert secret[0].isalpha()
    assert len(secret) == 40


def test_nobody_else_may_read_it(folder: Path) -> None:
    made(folder)
    assert stat.S_IMODE((folder / ".env").stat().st_mode) == 0o600


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
