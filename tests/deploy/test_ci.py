"""What CI runs can be run: anywhere, by anybody, without a terminal."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CI = ROOT / ".ci" / "run"
WORDS = ("install", "demo", "test", "check", "bench", "up", "down", "fmt", "lock", "schemas")


def dry(*arguments: str) -> str:
    done = subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_a_script_that_bash_can_read() -> None:
    assert CI.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", CI], check=True)


@pytest.mark.parametrize("file", [".ci/run", "Makefile", "docker-compose.yml", "deploy/Dockerfile"])
def test_nothing_of_one_machine_is_in_it(file: str) -> None:
    assert not re.findall(r"/(?:work|home|root|Users)/\S+", (ROOT / file).read_text())


@pytest.mark.parametrize("word", WORDS)
def test_make_knows_its_words_and_lists_them(word: str) -> None:
    dry(word)
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f"make {word} " in listed


def test_check_takes_every_look() -> None:
    told = dry("check")
    for tool in ("ruff format --check", "ruff check", "/mypy", "lint-imports", "emporter_contracts.export --check", "yamllint"):
        assert tool in told


def test_pytest_is_told_what_to_choose() -> None:
    assert "-m pytest -k one" in dry("test", "PYTEST_ARGS=-k one")
