"""A signed link in a real browser: everything the page and Neuroglancer need comes through it, and nothing else is asked for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from block_server.testing import Made, house_on
from emporter_contracts.ids import VolumeRef
from emporter_runtime.access_links import Link, LinkKeys
from emporter_runtime.testing import file_store
from emporter_testing.browsing import SOFTWARE_WEBGL, browsing

SECRET = "s" * 40


@pytest.fixture
def linked(tmp_path: Path) -> Iterator[str]:
    """Where a link leads that holds an image and its labels, on a server that demands tokens."""
    rng = np.random.default_rng(4)
    with house_on(file_store(tmp_path), link_secret_key=SECRET, access="required") as house:
        house.commit(Made(rng.integers(0, 256, (20, 30, 40), dtype="u1"), name="shown"))
        house.commit(Made(rng.integers(0, 9, (20, 30, 40), dtype="u4"), name="cells", role="labels", labels_of="shown"))
        refs = (VolumeRef("shown", 1), VolumeRef("cells", 1))
        yield f"{house.url}/s/{LinkKeys([SECRET]).sign(Link(refs, int(time.time()) + 600))}"


@pytest.fixture
def page() -> Iterator[Page]:
    with browsing(*SOFTWARE_WEBGL) as browser:
        yield browser.new_page()


def watched(page: Page) -> dict[str, int]:
    """Status of every answer over HTTP, by address; grows as the page asks."""
    answers: dict[str, int] = {}
    page.on("response", lambda answer: answers.update({answer.url: answer.status}) if answer.url.startswith("http") else None)
    return answers


@pytest.mark.browser
def test_neuroglancer_loads_image_and_labels_through_the_link_alone(linked: str, page: Page):
    answers = watched(page)
    page.goto(f"{linked}/view/shown@r1#z=5&y=15&x=20")
    expect(page.locator("#zyx")).to_contain_text("z, y, x = 5, 15, 20", timeout=60_000)
    for name in ("shown", "cells"):
        for _ in range(300):
            if any(f"/zarr/{name}@r1.ome.zarr/" in unquote(url) and "/c/" in url for url in answers):
                break
            page.wait_for_timeout(200)
        else:
            raise AssertionError(f"no voxels of {name} were asked for: {answers}")
    assert all(url.startswith(linked + "/") for url in answers), answers
    assert all(status < 400 for status in answers.values()), answers


@pytest.mark.browser
def test_the_plain_page_and_the_index_work_through_the_link_alone(linked: str, page: Page):
    answers = watched(page)
    page.goto(f"{linked}/")
    page.get_by_role("link", name="shown@r1", exact=True).first.click()
    page.goto(f"{linked}/view/shown@r1?plain#z=5&y=6&x=7")
    expect(page.locator("#plane-z")).to_have_attribute("data-shown", "../v1/volumes/shown@r1/slice/z/5?level=0&window=auto")
    expect(page.locator("#fault")).to_be_hidden()
    assert all(url.startswith(linked + "/") for url in answers), answers
    assert all(status < 400 for status in answers.values()), answers
