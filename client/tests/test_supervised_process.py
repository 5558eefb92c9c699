"""One process under the supervisor: it ends with its parent, and is started again when it dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from emporter.errors import StackError
from emporter.stack.identity import ProcessIdentity, end_all
from emporter.stack.plan import ProcessSpec
from emporter.stack.process import SHIM, StackProcess, by_death_signal

HOW = [
    pytest.param("pipe"),
    pytest.param("deathsig", marks=pytest.mark.skipif(not by_death_signal(), reason="only Linux has it")),
]

PARENT = """
import asyncio, sys
from pathlib import Path
from emporter.stack.plan import ProcessSpec
from emporter.stack.process import StackProcess

folder = Path(sys.argv[1])
(folder / "logs").mkdir()
program = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
spec = ProcessSpec("sleeper", (sys.executable, "-c", program), {}, "", 1)
process = StackProcess(spec, folder / "logs" / "sleeper.log", lambda *_: None, death_signal=sys.argv[2] == "deathsig")
asyncio.run(process.keep())
"""


@pytest.mark.parametrize("how", HOW)
def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path, how: str) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path), how])
    log = tmp_path / "logs" / "sleeper.log"
    until(lambda: log.exists() and log.read_text().strip() != "")
    child = psutil.Process(int(log.read_text()))
    assert child.is_running()
    parent.kill()
    parent.wait()
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


@pytest.mark.parametrize("how", HOW)
def test_a_child_whose_parent_died_before_it_started_never_runs(tmp_path: Path, how: str) -> None:
    witness = tmp_path / "ran"
    not_the_parent = subprocess.Popen([sys.executable, "-c", ""])
    not_the_parent.wait()
    program = f"import time; time.sleep(0.5); open({str(witness)!r}, 'w')"
    command = [sys.executable, "-I", "-S", str(SHIM), how, str(not_the_parent.pid), sys.executable, "-c", program]
    shim = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, start_new_session=True)
    assert shim.returncode != 0
    time.sleep(0.7)  # past the moment at which it would have run
    assert not witness.exists()


async def test_a_process_that_dies_is_started_again_and_five_deaths_in_a_minute_are_too_many(tmp_path: Path) -> None:
    process = a_process(tmp_path, "print('no room for', 'me'); raise SystemExit(3)")
    process.first_backoff = 0.01
    with pytest.raises(StackError) as raised:
        await process.keep()
    assert "died 5 times within a minute" in raised.value.message
    assert "exit status 3" in raised.value.message
    assert "no room for me" in raised.value.message
    assert log_of(tmp_path).count("no room for me") == 5


async def test_a_step_that_fails_says_its_last_lines(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="the reason"):
        await a_process(tmp_path, "print('the reason'); raise SystemExit(1)").run_to_end()


async def test_a_step_that_succeeds_is_run_once(tmp_path: Path) -> None:
    await a_process(tmp_path, "print('done')").run_to_end()
    assert log_of(tmp_path).count("done") == 1


def test_a_number_that_was_given_to_another_process_is_not_the_process_that_was_meant() -> None:
    mine = ProcessIdentity.mine()
    assert mine.alive()
    stranger = mine.model_copy(update={"started": mine.started - 3600})
    assert not stranger.alive()
    assert end_all([stranger]) == []


def test_what_is_recorded_and_runs_is_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], process_group=0)
    assert end_all([ProcessIdentity.of(process.pid)]) == [process.pid]
    assert process.wait() == -signal.SIGKILL


def a_process(folder: Path, program: str) -> StackProcess:
    (folder / "logs").mkdir()
    spec = ProcessSpec("tested", (sys.executable, "-c", program), dict(os.environ), "", 1)
    return StackProcess(spec, folder / "logs" / "tested.log", lambda *_: None)


def log_of(folder: Path) -> str:
    return (folder / "logs" / "tested.log").read_text()


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
