from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from block_server.testing import House, Made, house_on
from emporter_runtime.testing import file_store
from emporter_testing.browsing import SOFTWARE_WEBGL, browsing, faultless_page

ZOOM = 4
"""Pixels of a voxel."""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, Made]]:
    rng = np.random.default_rng(4)
    with house_on(file_store(tmp_path_factory.mktemp("view"))) as house:
        made = house.commit(
            Made(rng.integers(0, 256, (20, 30, 40), dtype="u1"), name="shown", description="</script><script>alert(1)</script>")
        )
        # Its window is exactly 256 steps of 90, so that rounding is nobody's choice.
        house.commit(Made(rng.integers(0, 256, (20, 30, 40), dtype="i2") * 90 - 12_000, name="deep"))
        house.commit(
            Made(rng.integers(0, 2**63, (20, 30, 40), dtype="u8"), name="names", role="labels", voxel_size_nm=(None, 8, 8))
        )
        yield house, made


def test_the_page_needs_nothing_from_elsewhere(shown):
    house, _ = shown
    for path in ("/", "/view/shown", "/view/shown@r1", "/view/shown?plain"):
        answer = httpx.get(house.url + path)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", answer.text)
        assert not re.search(r"@import|url\(", answer.text)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "@@" not in answer.text


def test_a_plain_name_shows_one_revision_throughout(shown):
    house, _ = shown
    text = httpx.get(f"{house.url}/view/shown?plain").text
    assert '"ref": "shown@r1"' in text


def test_the_index_links_every_volume_and_trusts_no_description(shown):
    house, _ = shown
    text = httpx.get(house.url).text
    assert '<a href="view/shown@r1">' in text
    assert '<a href="view/names@r1">' in text
    assert "<script>alert" not in text
    assert "<script>alert" not in httpx.get(f"{house.url}/view/shown?plain").text


def test_an_empty_store_says_so(tmp_path: Path):
    with house_on(file_store(tmp_path)) as house:
        assert "no volume is committed yet" in httpx.get(house.url).text


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing(*SOFTWARE_WEBGL) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with faultless_page(browser) as page:
        yield page


def pixels(page: Page, axis: str, slice_url: str) -> np.ndarray:
    """The grey values on a canvas once it shows the slice asked for."""
    expect(page.locator(f"#plane-{axis}")).to_have_attribute("data-shown", re.compile(re.escape(slice_url)))
    shape, values = page.evaluate(
        """id => { const canvas = document.getElementById(id);
                   const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
                   return [[canvas.height, canvas.width, 4], Array.from(data)]; }""",
        f"plane-{axis}",
    )
    rgba = np.array(values, np.uint8).reshape(shape)
    assert (rgba[..., 3] == 255).all()
    assert (rgba[..., 0] == rgba[..., 1]).all()
    assert (rgba[..., 0] == rgba[..., 2]).all()
    return rgba[..., 0]


@pytest.mark.browser
def test_the_three_canvases_are_the_three_slices(shown, page: Page):
    house, made = shown
    page.goto(f"{house.url}/view/shown?plain#level=0&z=5&y=6&x=7&window=auto")
    for cut, (axis, index) in enumerate([("z", 5), ("y", 6), ("x", 7)]):
        assert np.array_equal(pixels(page, axis, f"/slice/{axis}/{index}?level=0"), np.take(made.voxels, index, cut))
    expect(page.locator("#position")).to_have_text("z, y, x = 5, 6, 7 (level 0 voxels) = 200.0, 48.0, 56.0 nm")


@pytest.mark.browser
def test_sliders_levels_and_contrast_change_what_is_shown_and_the_link(shown, page: Page):
    house, made = shown
    page.goto(f"{house.url}/view/shown?plain")
    page.locator("#slide-z").fill("11")
    assert np.array_equal(pixels(page, "z", "/slice/z/11?level=0"), made.voxels[11])
    assert "z=11" in page.url
    page.locator("#level").select_option("1")
    assert np.array_equal(pixels(page, "z", "/slice/z/5?level=1"), made.levels[1][5])
    assert "level=1" in page.url
    page.locator("#contrast").select_option("own")
    page.locator("#low").fill("100")
    page.locator("#high").fill("200")
    page.locator("#high").press("Tab")
    got = pixels(page, "z", "/slice/z/5?level=1&window=100%2C200")
    expected = np.rint(np.clip((made.levels[1][5].astype(float) - 100) * 255 / 100, 0, 255))
    assert np.array_equal(got, expected)
    assert "window=100,200" in page.url
    page.reload()
    assert np.array_equal(pixels(page, "z", "/slice/z/5?level=1&window=100%2C200"), expected)


@pytest.mark.browser
def test_a_click_moves_the_other_two_planes(shown, page: Page):
    house, _ = shown
    page.goto(f"{house.url}/view/shown?plain#z=5&y=6&x=7")
    box = page.locator("#plane-z").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 20.5 / 40, box["y"] + box["height"] * 9.5 / 30)
    expect(page.locator("#position")).to_contain_text("5, 9, 20")


@pytest.mark.browser
def test_labels_of_64_bits_and_unknown_sizes_are_shown_too(shown, page: Page):
    house, _ = shown
    page.goto(f"{house.url}/view/names@r1?plain#z=1&y=2&x=3")
    assert pixels(page, "z", "/slice/z/1?level=0").shape == (30, 40)
    expect(page.locator("#position")).to_contain_text("?, 16.0, 24.0 nm")
    expect(page.locator("#fault")).to_be_hidden()


@pytest.mark.browser
def test_a_fault_is_said_on_the_page(shown, page: Page):
    house, _ = shown
    page.goto(f"{house.url}/view/shown?plain#window=9,1")
    expect(page.locator("#fault")).to_contain_text("empty: write window=low,high")


def state_in(page: Page) -> dict[str, Any]:
    """Neuroglancer's state in the URL, once its layers have been opened: before that they are there by name alone."""
    expect(page).to_have_url(re.compile('source("|%22):'), timeout=60_000)
    return json.loads(unquote(urlsplit(page.url).fragment.removeprefix("!")))


def found_in(picture: np.ndarray, plane: np.ndarray) -> bool:
    """Whether a screenshot shows `plane`, each voxel as a square of ZOOM pixels.

    A panel of odd height puts the border of two voxels through the middle of a pixel, which may be of either: of the
    pixels of a square all but those of one row and one column are looked at.
    """
    same = [_shows(picture[y::ZOOM, x::ZOOM], plane) for y in range(ZOOM) for x in range(ZOOM)]
    return sum(same) >= (ZOOM - 1) ** 2


def _shows(picture: np.ndarray, plane: np.ndarray) -> bool:
    height, width = plane.shape
    rows = np.lib.stride_tricks.sliding_window_view(picture, width, 1)[: picture.shape[0] - height + 1]
    corners = np.argwhere((rows == plane[0]).all(-1))
    return any(np.array_equal(picture[y : y + height, x : x + width], plane) for y, x in corners)


def windowed(house: House, name: str, z: int) -> np.ndarray:
    """A slice in grey, as the route makes it."""
    answer = httpx.get(f"{house.url}/v1/volumes/{name}/slice/z/{z}?window=auto&format=png")
    return np.asarray(Image.open(BytesIO(answer.content)))


@pytest.mark.browser
@pytest.mark.parametrize("name", ["shown", "deep"])
def test_neuroglancer_draws_the_very_voxels_of_the_slice_in_the_contrast_of_the_record(
    shown, browser: Browser, tmp_path: Path, name: str
):
    house, _ = shown
    page = browser.new_page(viewport={"width": 800, "height": 600})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{house.url}/view/{name}#z=5&y=15&x=20")
    expect(page.locator("#zyx")).to_have_text("z, y, x = 5, 15, 20 (level 0 voxels) = 200.0, 120.0, 160.0 nm", timeout=60_000)
    expect(page.locator("#xyz")).to_have_text("x, y, z = 20, 15, 5")
    state = state_in(page)
    assert state["layers"][0]["type"] == "image"
    bare = {
        "layout": "xy",
        "crossSectionScale": 1 / ZOOM,
        "showAxisLines": False,
        "showScaleBar": False,
        "showDefaultAnnotations": False,
    }
    # Loaded anew: all that one sees is in the link.
    page.goto("about:blank")
    page.goto(f"{house.url}/view/{name}#!" + quote(json.dumps(state | bare)))
    shot = tmp_path / "neuroglancer.png"
    plane = windowed(house, name, 5)
    assert (plane.min(), plane.max()) == (0, 255)

    def drawn() -> bool:
        page.screenshot(path=shot)
        return found_in(np.asarray(Image.open(shot).convert("L")), plane)

    for _ in range(300):
        if drawn():
            break
        page.wait_for_timeout(200)
    else:
        raise AssertionError("the slice is not on the canvas")
    assert all(url.startswith((house.url, "blob:", "data:", "about:")) for url in asked), asked
    page.close()


@pytest.mark.browser
def test_labels_are_a_segmentation_layer(shown, browser: Browser):
    house, _ = shown
    page = browser.new_page()
    page.goto(f"{house.url}/view/names#z=3&y=4&x=5")
    expect(page.locator("#zyx")).to_contain_text("z, y, x = 3, 4, 5 (level 0 voxels) = ?, 32.0, 40.0 nm", timeout=60_000)
    assert state_in(page)["layers"][0]["type"] == "segmentation"
    page.close()


def test_labels_lie_over_their_image(tmp_path: Path):
    with house_on(file_store(tmp_path)) as house:
        house.commit(Made(np.ones((8, 8, 8), "u1"), name="tissue"))
        house.commit(Made(np.ones((8, 8, 8), "u4"), name="cells", role="labels", labels_of="tissue"))
        text = httpx.get(f"{house.url}/view/tissue").text
    shown = json.loads(re.search(r'id="volume">(.*?)</script>', text)[1])
    assert [(layer["type"], layer["name"]) for layer in shown["state"]["layers"]] == [
        ("image", "tissue@r1"),
        ("segmentation", "cells@r1"),
    ]


def test_what_neuroglancer_cannot_show_is_shown_plainly(tmp_path: Path):
    with house_on(file_store(tmp_path)) as house:
        house.commit(Made(np.ones((8, 8, 8), "f8"), name="doubles"))
        assert 'id="plane-z"' in httpx.get(f"{house.url}/view/doubles").text


def test_the_client_is_served_from_its_wheel_and_nothing_else_is(shown):
    house, _ = shown
    page = httpx.get(f"{house.url}/neuroglancer/v/client/index.html").text
    assert "Apache License" in page
    for name in re.findall(r'(?:src|href)="([^":]+)"', page):
        assert httpx.get(f"{house.url}/neuroglancer/v/client/{name}").status_code == 200
    for name in ("nothing.js", "..%2f..%2fserver.py", "..%2findex.html", "%2e%2e", "index.html%00"):
        assert httpx.get(f"{house.url}/neuroglancer/v/client/{name}").status_code == 404


def test_serving_neuroglancer_does_not_import_it():
    code = "import sys, block_server.app; from block_server.routes.neuroglancer import installed; assert installed(); "
    subprocess.run(
        [sys.executable, "-c", code + "sys.exit('neuroglancer' in sys.modules or 'tornado' in sys.modules)"], check=True
    )


def test_the_index_shows_thumbnails_licence_and_state(shown):
    house, _ = shown
    text = httpx.get(house.url).text
    assert "CC0-1.0" in text
    assert "complete" in text
    for name in ("shown@r1", "names@r1"):
        assert f'src="view/{name}/thumbnail"' in text
        picture = httpx.get(f"{house.url}/view/{name}/thumbnail", follow_redirects=True)
        assert picture.headers["content-type"] == "image/png"


class Catalog(BaseHTTPRequestHandler):
    """A catalog with one job: running in the list, and complete in its stream."""

    def do_GET(self) -> None:
        stages = {"fetch": {"done": 1, "total": 2}, "convert": {"done": 0, "total": 0}}
        job = {"job": "idr-1", "state": "processing", "waiting": None, "error": None, **stages}
        self.send_response(200)
        self.send_header("access-control-allow-origin", "*")
        if self.path.endswith("/stream"):
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            self.wfile.write(f"event: state\ndata: {json.dumps(job | {'state': 'complete'})}\n\n".encode())
            return
        self.end_headers()
        self.wfile.write(json.dumps({"items": [job], "cursor": None}).encode())

    def log_message(self, *_: object) -> None:
        """Not to be said."""


@pytest.mark.browser
def test_the_index_follows_running_jobs_and_works_without_the_catalog(tmp_path: Path, page: Page):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Catalog)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    catalog = f"http://127.0.0.1:{server.server_port}"
    try:
        with house_on(file_store(tmp_path), catalog_url=catalog) as house:
            page.goto(house.url)
            expect(page.locator("#jobs tbody")).to_contain_text("idr-1complete 50 %", timeout=30_000)
    finally:
        server.shutdown()
        server.server_close()
    with house_on(file_store(tmp_path), catalog_url=catalog) as house:
        page.goto(house.url)
        expect(page.locator("body")).to_contain_text("no volume is committed yet")
        expect(page.locator("#jobs")).to_be_hidden()
