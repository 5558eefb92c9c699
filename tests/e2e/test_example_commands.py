"""The commands of the README that make a training set and learn from it, as somebody would type them."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

from emporter.testing import RunningStack

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def ran(folder: Path, *command: str) -> str:
    done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_phantom_is_brought_in_and_the_command_it_prints_draws_a_set_that_is_learned_from(
    stack: RunningStack, tmp_path: Path
) -> None:
    root = str(stack.files.root)
    printed = ran(tmp_path, str(EXAMPLES / "phantom_set.py"), "set.json", "--stack", root)
    name, *arguments = shlex.split(printed.replace("\\\n", " "))
    assert name == "emporter"
    ran(tmp_path, "-m", "emporter.cli.main", *arguments)
    boxes = json.loads((tmp_path / "set.json").read_text())["boxes"]
    assert [box["part"] for box in boxes].count("train") == 200
    ran(tmp_path, str(EXAMPLES / "train_membranes.py"), "set.json", "-o", "membranes.png", "--steps", "3", "--stack", root)
    assert (tmp_path / "membranes.png").read_bytes().startswith(b"\x89PNG")
