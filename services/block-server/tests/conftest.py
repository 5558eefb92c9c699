from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from block_server.testing import House, house_on
from emporter_runtime.testing import file_store, s3_server


@pytest.fixture(scope="session", params=["file", "s3"])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A running server over a real store of either kind; every test has volumes of its own names."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "file":
        with house_on(file_store(folder)) as house:
            yield house
    else:
        with s3_server(folder) as settings, house_on(settings) as house:
            yield house


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `beside` knows as the file root `scope`."""
    return tmp_path_factory.mktemp("scope")


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory, files: Path) -> Iterator[House]:
    """A running server beside files that may be registered."""
    with house_on(file_store(tmp_path_factory.mktemp("store")), file_roots={"scope": files}) as house:
        yield house


@pytest.fixture
def web(house: House) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=house.url, timeout=60) as client:
        yield client
