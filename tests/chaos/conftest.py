from __future__ import annotations

from collections.abc import Iterator

import pytest

from emporter_archives.server import FileServer


@pytest.fixture
def archive() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server
