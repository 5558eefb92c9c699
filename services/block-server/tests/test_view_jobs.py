"""Jobs on the first page where tokens are demanded: a link shows none, a token for all volumes shows them, and goes nowhere else."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, Request, expect

from block_server.testing import Made, house_on
from emporter_contracts.ids import VolumeRef
from emporter_runtime.access_links import Link, LinkKeys
from emporter_runtime.testing import file_store
from emporter_testing.browsing import browsing, faultless_page

SECRET = "s" * 40
TOKEN = "emt_for-everything"


class ClosedCatalog(BaseHTTPRequestHandler):
    """A catalog with one job that ends while one listens, for who sends TOKEN; it answers other origins as the real one does."""

    def do_OPTIONS(self) -> None:
        self._begin(200, "text/plain", {"access-control-allow-headers": "Authorization"})

    def do_GET(self) -> None:
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            self._begin(401, "application/problem+json")
            self.wfile.write(json.dumps({"title": "this token is not known here", "status": 401}).encode())
            return
        stages = {"fetch": {"done": 1, "total": 2}, "convert": {"done": 0, "total": 0}}
        job = {"job": "idr-1", "state": "processing", "waiting": None, "error": None, **stages}
        if self.path.endswith("/stream"):
            self._begin(200, "text/event-stream")
            first, last = (
                f"event: state\ndata: {json.dumps(job | {'state': s})}\n\n".encode() for s in ("processing", "complete")
            )
            for piece in (first[:20], first[20:] + b": still there\n\n" + last[:9], last[9:]):
                self.wfile.write(piece)
                self.wfile.flush()
            return
        self._begin(200, "application/json")
        self.wfile.write(json.dumps({"items": [job], "cursor": None}).encode())

    def _begin(self, status: int, kind: str, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"access-control-allow-origin": "*", "content-type": kind, **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Not to be said."""


@pytest.fixture
def catalog() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), ClosedCatalog)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def linked(tmp_path: Path, catalog: str) -> Iterator[str]:
    """Where a link leads, on a server that demands tokens."""
    with house_on(file_store(tmp_path), link_secret_key=SECRET, access="required", catalog_url=catalog) as house:
        house.commit(Made(np.ones((4, 4, 4), "u1"), name="shown", halvings=()))
        yield f"{house.url}/s/{LinkKeys([SECRET]).sign(Link((VolumeRef('shown', 1),), int(time.time()) + 600))}"


@pytest.fixture
def page() -> Iterator[Page]:
    with browsing() as browser, faultless_page(browser) as page:
        yield page


@pytest.mark.browser
def test_a_link_asks_for_a_token_and_with_it_the_jobs_are_followed(linked: str, catalog: str, page: Page) -> None:
    sent: list[Request] = []
    page.on("request", lambda request: sent.append(request))  # noqa: PLW0108  # Playwright takes no builtin
    page.goto(f"{linked}/")
    expect(page.locator("body")).to_contain_text("shown@r1")
    expect(page.locator("#closed")).to_be_visible(timeout=30_000)
    expect(page.locator("#jobs")).to_be_hidden()
    expect(page.locator("#refused")).to_have_text("")
    page.locator("#token").fill("emt_wrong")
    page.locator("#token").press("Enter")
    expect(page.locator("#refused")).to_have_text("this token is not known here")
    page.locator("#token").fill(TOKEN)
    page.locator("#token").press("Enter")
    expect(page.locator("#jobs tbody")).to_contain_text("idr-1complete 50 %", timeout=30_000)
    expect(page.locator("#closed")).to_be_hidden()
    page.reload()  # it is this tab's
    expect(page.locator("#jobs tbody")).to_contain_text("idr-1complete 50 %", timeout=30_000)
    bearing = {request.url for request in sent if TOKEN in request.headers.get("authorization", "")}
    assert {url.removeprefix(catalog) for url in bearing} == {"/v1/jobs?limit=20", "/v1/jobs/idr-1/stream"}
    assert not [request.url for request in sent if TOKEN in request.url]
    assert not [
        request.url for request in sent if linked in request.headers.get("referer", "") and request.url.startswith(catalog)
    ]
