from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from emporter.testing import RunningStack, running_stack
from emporter_archives.server import FileServer


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """One stack on S3 for the tests of a module; each uses names of its own."""
    folder = tmp_path_factory.mktemp("stack")
    roots = {"scope1": tmp_path_factory.mktemp("scope1")}
    with running_stack(folder, file_roots=roots) as running:
        running.root = roots["scope1"]
        yield running


@pytest.fixture
def archive() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path
