"""One place for all: each test registers what is its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from block_server.testing import house_on
from emporter_archives.s3 import S3Server
from emporter_archives.server import FileServer
from emporter_runtime.roots import RootSettings
from emporter_runtime.testing import file_store
from emporter_testing.places import Place


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    files = tmp_path_factory.mktemp("scope")
    with FileServer() as web, S3Server("open-data") as bucket:
        allowed: dict[str, Any] = {
            "file_roots": {"scope": files},
            "url_allowed_hosts": ("127.0.0.1",),
            "url_allow_private": True,
            "url_s3_endpoint": bucket.url(""),
            "blocks_source_seconds": 0.0,
        }
        with house_on(file_store(tmp_path_factory.mktemp("store")), **allowed) as house:
            yield Place(house, web, bucket, files, RootSettings.model_validate(house.settings.model_dump()))
