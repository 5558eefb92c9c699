"""Volumes that are read where they lie, in a real browser: the pixels on the canvas are the voxels of the slice."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from block_server.testing import House, house_on
from emporter.registering import Wanted, look
from emporter_archives import arrays
from emporter_contracts.ids import VolumeRef
from emporter_runtime.registering import commit
from emporter_runtime.roots import RootSettings
from emporter_runtime.testing import file_store
from emporter_testing.browsing import SOFTWARE_WEBGL, browsing

SHAPE = (20, 30, 40)
SIZE_NM = (40.0, 8.0, 8.0)
ZOOM = 4
"""Pixels of a voxel."""
BARE = {
    "layout": "xy",
    "crossSectionScale": 1 / ZOOM,
    "showAxisLines": False,
    "showScaleBar": False,
    "showDefaultAnnotations": False,
}


@dataclass(frozen=True)
class Shown:
    """A volume that is read where it lies, and the server that does."""

    house: House
    ref: VolumeRef
    voxels: NDArray[np.uint8]
    first_nm: tuple[float, float, float]
    """Where the centre of the first voxel lies, z, y, x."""


def with_an_offset(voxels: NDArray[Any]) -> arrays.Objects:
    return arrays.precomputed(voxels, offset=(10, 20, 30), resolution=SIZE_NM)


def between_voxels(voxels: NDArray[Any]) -> arrays.Objects:
    """OME-Zarr 0.4 whose first voxel does not lie at a whole number of voxels."""
    return {
        ".zgroup": b'{"zarr_format": 2}',
        ".zattrs": arrays.ome_zattrs([("s0", SIZE_NM, (50.0, 42.0, 67.0))]),
        **arrays.zarr2(voxels, path="s0"),
    }


KINDS = {"precomputed": (with_an_offset, (400.0, 160.0, 240.0)), "ome-zarr": (between_voxels, (50.0, 42.0, 67.0))}


def registered(house: House, files: Path, name: str) -> Shown:
    make, first_nm = KINDS[name]
    voxels = np.random.default_rng(1).integers(0, 256, SHAPE, dtype="u1")
    for key, body in make(voxels).items():
        path = files / name / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    settings = RootSettings.model_validate(house.settings.model_dump())
    (found,) = asyncio.run(look(Wanted(source=f"file-root:scope/{name}", name=name), settings))
    return Shown(house, asyncio.run(commit(house.objects, found, 1)), voxels, first_nm)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Shown]]:
    files = tmp_path_factory.mktemp("scope")
    with house_on(file_store(tmp_path_factory.mktemp("store")), file_roots={"scope": files}) as house:
        yield {name: registered(house, files, name) for name in KINDS}


@pytest.fixture(scope="module")
def browser(volumes: dict[str, Shown]) -> Iterator[Browser]:  # made first: Playwright keeps a running loop
    with browsing(*SOFTWARE_WEBGL) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 500, "height": 400})
    yield page
    page.close()


def found_in(picture: NDArray[Any], plane: NDArray[Any]) -> bool:
    """Whether a screenshot shows `plane`, each voxel as a square of ZOOM pixels, but for one row and one column of each square:
    a panel of odd height puts the border of two voxels through the middle of a pixel.
    """
    same = [_shows(picture[y::ZOOM, x::ZOOM], plane) for y in range(ZOOM) for x in range(ZOOM)]
    return sum(same) >= (ZOOM - 1) ** 2


def _shows(picture: NDArray[Any], plane: NDArray[Any]) -> bool:
    height, width = plane.shape
    rows = np.lib.stride_tricks.sliding_window_view(picture, width, 1)[: picture.shape[0] - height + 1]
    corners = np.argwhere((rows == plane[0]).all(-1))
    return any(np.array_equal(picture[y : y + height, x : x + width], plane) for y, x in corners)


def state_in(page: Page) -> dict[str, Any]:
    """What the URL says, once the layer has been opened: before that it is there by name alone."""
    expect(page).to_have_url(re.compile('source("|%22):'), timeout=60_000)
    state: dict[str, Any] = json.loads(unquote(urlsplit(page.url).fragment.removeprefix("!")))
    return state


def centre_of_the_first_voxel(shown: Shown, state: dict[str, Any]) -> tuple[float, ...]:
    """Where Neuroglancer's layer has it, in nm along z, y, x: precomputed says that voxel i lies from i to i + 1."""
    info = httpx.get(f"{shown.house.url}/precomputed/{shown.ref}/info").json()
    matrix = np.array(state["layers"][0]["source"]["transform"]["matrix"])
    centre = matrix @ [*(offset + 0.5 for offset in info["scales"][0]["voxel_offset"]), 1.0]
    return tuple(float(voxels) * nm for voxels, nm in zip(reversed(centre), SIZE_NM, strict=True))


def shot(page: Page) -> NDArray[Any]:
    return np.asarray(Image.open(BytesIO(page.screenshot())).convert("L"))


@pytest.mark.browser
@pytest.mark.parametrize("kind", KINDS)
def test_neuroglancer_draws_the_slice_that_the_page_names(volumes: dict[str, Shown], page: Page, kind: str) -> None:
    shown = volumes[kind]
    view = f"{shown.house.url}/view/{shown.ref}"
    page.goto(f"{view}#z=5&y=15&x=20")
    nm = ", ".join(f"{t + i * s:.1f}" for t, i, s in zip(shown.first_nm, (5, 15, 20), SIZE_NM, strict=True))
    expect(page.locator("#zyx")).to_have_text(f"z, y, x = 5, 15, 20 (level 0 voxels) = {nm} nm", timeout=60_000)
    expect(page.locator("#zarr")).to_have_count(0)  # it would lead to a 415
    state = state_in(page)
    assert centre_of_the_first_voxel(shown, state) == pytest.approx(shown.first_nm)
    page.goto("about:blank")
    page.goto(f"{view}#!" + quote(json.dumps(state | BARE)))
    for _ in range(150):
        picture = shot(page)
        if found_in(picture, shown.voxels[5]):
            return
        page.wait_for_timeout(200)
    drawn = [z for z in range(SHAPE[0]) if found_in(picture, shown.voxels[z])]
    raise AssertionError(f"slice 5 is not on the canvas, but {drawn}")


def test_the_list_of_volumes_has_no_link_that_is_refused(volumes: dict[str, Shown]) -> None:
    shown = volumes["precomputed"]
    page = httpx.get(f"{shown.house.url}/")
    links = [link for link in re.findall(r'href="([^"]+)"', page.text) if str(shown.ref) in link]
    assert len(links) > 1
    assert {link: httpx.get(f"{shown.house.url}/{link}").status_code for link in links} == dict.fromkeys(links, 200)
