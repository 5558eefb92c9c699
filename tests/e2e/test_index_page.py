"""The first page of the block-server beside the real catalog: jobs move on it while one looks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from playwright.sync_api import Page, expect

from emporter.testing import RunningStack
from emporter_archives.server import FileServer
from emporter_contracts.commands import IngestRequest
from emporter_testing.browsing import browsing, faultless_page


@pytest.fixture
def page() -> Iterator[Page]:
    with browsing() as browser, faultless_page(browser) as page:
        yield page


@pytest.mark.browser
def test_a_job_moves_on_the_index_page_by_the_catalogs_stream_alone(
    stack: RunningStack, archive: FileServer, tmp_path: Path, page: Page
) -> None:
    voxels = np.random.default_rng(0).integers(0, 256, (8, 40, 50), dtype="u1")
    tifffile.imwrite(tmp_path / "followed.tif", voxels, photometric="minisblack")
    url = archive.put("/followed.tif", (tmp_path / "followed.tif").read_bytes())
    client = stack.client()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(stack.urls.blocks)
    converter = stack.process("converter")
    converter.suspend()  # so the job can't end before somebody looks
    try:
        job = client.ingest(IngestRequest(source="url", source_id=url)).job
        row = page.locator("#jobs tbody tr").filter(has_text=job)
        expect(row).to_contain_text("processing", timeout=90_000)
        assert f"{stack.urls.catalog}/v1/jobs/{job}/stream" in asked
        page.route(re.compile(r"/v1/jobs\?"), lambda route: route.abort())  # from here on, only the stream can tell
    finally:
        converter.resume()
    expect(row).to_contain_text("complete", timeout=120_000)
    assert client.wait(job).state == "complete"
    page.reload()
    expect(page.locator("body")).to_contain_text(job)
