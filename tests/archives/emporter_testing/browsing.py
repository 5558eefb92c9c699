"""A real browser, for pages as a person sees them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WITHOUT_SANDBOX = "--no-sandbox"
"""Chromium refuses to run as root with one."""
SOFTWARE_WEBGL = (
    WITHOUT_SANDBOX, "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist",
)  # fmt: skip
"""Neuroglancer draws with WebGL 2, which machines without a graphics card compute."""


@contextmanager
def browsing(*arguments: str) -> Iterator[Browser]:
    """Chromium while inside; the test is skipped where there is none."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*(arguments or (WITHOUT_SANDBOX,))])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def faultless_page(browser: Browser, **options: Any) -> Iterator[Page]:
    """A page; what its scripts raise and nobody catches fails the test."""
    page = browser.new_page(**options)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    yield page
    page.close()
    assert faults == []
