from __future__ import annotations

from collections.abc import Iterator

import pytest
import stamina
from _pytest.terminal import TerminalReporter

from emporter_archives.server import FileServer
from fetcher.transports.trying import TRIES


@pytest.fixture
def archive() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _no_waiting_between_tries() -> Iterator[None]:
    with stamina.set_testing(True, attempts=TRIES, cap=True):
        yield


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """What became of every real sample file, so that none is passed over in silence."""
    rows = [
        (outcome, *value)
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        for name, value in report.user_properties
        if name == "sample" and report.when == "call"
    ]
    if not rows:
        return
    terminalreporter.section("sample files")
    for outcome, kind, path, became in sorted(rows, key=lambda row: row[1:3]):
        terminalreporter.write_line(f"{outcome:<7}{kind:<17}{path:<62}{became[:140]}")
    terminalreporter.write_line(f"{len(rows)} files")
