from __future__ import annotations

from collections.abc import Iterator

import pytest
import stamina

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
